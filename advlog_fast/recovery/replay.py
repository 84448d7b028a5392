"""What is in a dead process's ring, brought into the files by the same drain that a live run has.

Every file is cut to the whole records that its sink's cursor tells of, and the ring is replayed from there; then the
spools are sealed, and the ledger and the summary written. Cursors are committed as in a live run, so it may be killed
at any point and run again.
"""

from __future__ import annotations

import time
from dataclasses import fields
from typing import Any

from .._failpoints import failpoint
from ..config import LoggerConfig
from ..engine.drain import Drain
from ..engine.findings import FAULT
from ..engine.outputs import sinks_of_ring
from ..engine.ring import Ring
from ..parquet.sealer import Sealer
from ..sinks.spool import SpoolSink
from ..store.ledger import Ledger, SinkLedger, write_ledger
from ..store.files import remove_own
from ..store.paths import RunPaths
from .killed_summary import write_killed_summary
from .recovered import Recovered

REPLAY_TIMEOUT_S = 600.0
"""How long a recovery waits for the disk."""

MAX_SINK_OUTAGE_S = 10.0
"""How long a file may fail until the recovery is left for another time; nothing is dropped meanwhile: nobody waits."""


def replay(ring: Ring, paths: RunPaths, options: dict[str, Any], found: Recovered) -> bool:
    """Brings a repaired ring into the files, and ledgers for it; what was done is told to `found`. False where the
    disk failed, so that it must be done again.

    :param options: the dead process's, as its note has them.
    """
    config = _config(options)
    sealer = Sealer(paths, config.metrics, on_fault=found.add)
    sinks = sinks_of_ring(ring, config, paths, found.attempt, sealer)
    troubles: list[str] = []
    drain = Drain(
        ring,
        sinks,
        on_tick=lambda: None,
        report=lambda finding: troubles.append(finding.message) if finding.kind == FAULT else None,
        max_sink_outage_s=MAX_SINK_OUTAGE_S,
    )
    before = [drain.files.cursor(index).next_seq for index in range(len(sinks))]
    try:
        _submit_closed(drain, paths, found.attempt, sealer)
        done = _drained(drain, sealer, found)
        if done:
            _account_for(drain, paths, found)
    except OSError as error:
        troubles.append(f"{error.filename or paths.log_dir}: {error.strerror}")
        done = False
    finally:
        sealer.stop()
    found.parts = sealer.parts
    for index, sink in enumerate(sinks):
        found.records[sink.name] = drain.files.cursor(index).next_seq - before[index]
        for file in sink.open_files():
            sink.close_file(file.fd)
    if not done:
        found.outcome = "incomplete"
        if not troubles and sealer.error is None:
            troubles.append("the disk is too slow")
        for trouble in troubles:
            found.add(trouble)
    return done


def _drained(drain: Drain, sealer: Sealer, found: Recovered) -> bool:
    """:raises OSError: a file could not be opened, cut, put into place or written."""
    found.cut_bytes = drain.files.resume()
    failpoint("recover_resumed")
    done = drain.finish(time.monotonic() + REPLAY_TIMEOUT_S)
    failpoint("recover_replayed")
    done = sealer.seal_all(time.monotonic() + REPLAY_TIMEOUT_S) and done
    failpoint("recover_sealed")
    found.lost_in_flight += drain.children.lost_in_flight
    return done


def _account_for(drain: Drain, paths: RunPaths, found: Recovered) -> None:
    """:raises OSError: the ledger or the summary could not be written."""
    sinks = {}
    for index, sink in enumerate(drain.files.sinks):
        c = drain.files.cursor(index)
        sinks[sink.name] = SinkLedger(c.next_seq - 1, c.written, c.dropped, sink.expired, sink.vanished)
    ledger = Ledger("killed", sinks, drain.ring.dropped(), found.lost_in_flight)
    if not paths.ledger(found.attempt).exists():  # else all was accounted for, and the end came just after that
        write_ledger(paths, found.attempt, ledger)
    failpoint("recover_accounted")
    write_killed_summary(paths, found.attempt, ledger)
    failpoint("recover_summarized")


def _submit_closed(drain: Drain, paths: RunPaths, attempt: int, sealer: Sealer) -> None:
    """Hands over the spools that the dead process had closed and not sealed; one opened ahead is empty, and goes.

    :raises OSError: that one could not be removed.
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
    """The options as the dead process had them; what this version does not know, or refuses, is left at its default."""
    known = {field.name for field in fields(LoggerConfig)}
    try:
        return LoggerConfig(**{name: value for name, value in options.items() if name in known})
    except (TypeError, ValueError):
        return LoggerConfig()
