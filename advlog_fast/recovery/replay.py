"""Replays a dead process's ring into the files, with the same drain as in a live run.

The replay cuts each file to the whole records that its sink's cursor counts, and drains the ring from there. Then it
seals the spools and writes the ledger and the summary. The drain commits cursors as in a live run, so a replay may be
killed at any point and run again.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from .._failpoints import failpoint
from .._native import lib
from ..config import LoggerConfig
from ..engine.drain import Drain
from ..engine.findings import FAULT
from ..engine.outputs import sinks_of_ring
from ..engine.ring import Ring
from ..parquet.sealer import Sealer
from ..sinks.spool import SpoolSink
from ..store.files import remove_own
from ..store.ledger import Ledger, SinkLedger, write_ledger
from ..store.paths import RunPaths
from .killed_summary import ended_status, write_killed_summary
from .recovered import Recovered

REPLAY_TIMEOUT_S = 600.0
"""Seconds that a recovery waits for the disk."""

MAX_SINK_OUTAGE_S = 10.0
"""Seconds that a file may fail before the recovery gives up until its next run. A replay drops no records."""


def replay(ring: Ring, paths: RunPaths, options: dict[str, Any], report: Recovered) -> bool:
    """Drains a repaired ring into the files and writes the ledger. Returns False if the disk failed: replay again then.

    :param options: the dead process's options, from its note.
    :param report: receives the results.
    """
    config = _config(options)
    sealer = Sealer(paths, config.metrics, on_fault=report.add)
    sinks = sinks_of_ring(ring, config, paths, report.attempt, sealer)
    faults: list[str] = []
    drain = Drain(
        ring,
        sinks,
        on_tick=lambda: None,
        report=lambda finding: faults.append(finding.message) if finding.kind == FAULT else None,
        max_sink_outage_s=MAX_SINK_OUTAGE_S,
        syncs_at_end=config.fsync != "never",
    )
    before = [drain.files.cursor(index).next_seq for index in range(len(sinks))]
    try:
        _submit_closed(drain, paths, report.attempt, sealer)
        done = _drained(drain, sealer, report)
        if done:
            _write_results(drain, paths, report)
    except OSError as error:
        faults.append(f"{error.filename or paths.log_dir}: {error.strerror}")
        done = False
    finally:
        sealer.stop()
    report.parts = sealer.parts
    for index, sink in enumerate(sinks):
        report.records[sink.name] = drain.files.cursor(index).next_seq - before[index]
        for file in sink.open_files():
            sink.close_file(file.fd)
    if not done:
        report.outcome = "incomplete"
        if not faults and sealer.error is None:
            faults.append("the disk is too slow")
    for fault in faults:
        report.add(fault)
    return done


def _drained(drain: Drain, sealer: Sealer, report: Recovered) -> bool:
    """:raises OSError: a file cannot be opened, cut, put into place or written."""
    report.cut_bytes = drain.files.resume()
    failpoint("recover_resumed")
    done = drain.finish(time.monotonic() + REPLAY_TIMEOUT_S)
    failpoint("recover_replayed")
    done = sealer.seal_all(time.monotonic() + REPLAY_TIMEOUT_S) and done
    failpoint("recover_sealed")
    report.lost_in_flight += drain.children.lost_in_flight
    return done


def _write_results(drain: Drain, paths: RunPaths, report: Recovered) -> None:
    """:raises OSError: the ledger or the summary cannot be written."""
    sinks = {}
    for index, sink in enumerate(drain.files.sinks):
        c = drain.files.cursor(index)
        sinks[sink.name] = SinkLedger(c.next_seq - 1, c.written, c.dropped, sink.expired, sink.vanished)
    status = ended_status(paths, report.attempt) or "killed"
    ledger = Ledger(status, sinks, drain.ring.dropped(), report.lost_in_flight)
    if not paths.ledger(report.attempt).exists():  # the process may have died just after it wrote its ledger
        write_ledger(paths, report.attempt, ledger)
    failpoint("recover_accounted")
    accepted = drain.ring.accepted(lib.ADVLOG_STREAM_METRICS)
    write_killed_summary(paths, report.attempt, ledger, accepted=accepted)
    failpoint("recover_summarized")


def _submit_closed(drain: Drain, paths: RunPaths, attempt: int, sealer: Sealer) -> None:
    """Submits the spools that the dead process had closed and not sealed, and removes an empty one opened ahead.

    :raises OSError: the empty spool cannot be removed.
    """
    for index, sink in enumerate(drain.files.sinks):
        if not isinstance(sink, SpoolSink):
            continue
        current = drain.files.cursor(index).file_number
        for part, path in paths.spools_of_attempt(sink.stream_name, attempt):
            if part < current:
                sealer.submit(sink.stream_name, path, part, 0, 0)
            elif part > current and path.lstat().st_size == 0:
                remove_own(path)


def _config(options: dict[str, Any]) -> LoggerConfig:
    """Returns the dead process's options. Those that this version does not know keep their defaults; if it refuses one,
    all do."""
    names = {field.name for field in fields(LoggerConfig)}
    try:
        return LoggerConfig(**{name: value for name, value in options.items() if name in names})
    except (TypeError, ValueError):
        return LoggerConfig()
