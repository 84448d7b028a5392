"""What dead processes left behind, brought into the files: their rings, their spools, their summaries.

A ring is recovered by whoever holds its lock: every file is cut to the whole records that the sink's cursor tells of,
the ring is replayed from there by the same drain that a live run has, the spools are sealed, the summary is written,
and only then does the ring go. Cursors are committed as in a live run, so a recovery may be killed at any point and run
again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ._accounts import LOST, Account, SinkAccount, write_account
from ._drain import Drain
from ._failpoints import failpoint
from ._killed import write_killed_summary
from ._locks import FileLock, LockedError
from ._native import ffi, lib
from ._paths import RunPaths
from ._ring import DROPS, Ring, boot_id, hidden_name, process_start, set_aside
from ._sealer import Sealer
from ._workers import drop_workers, settle_workers
from .config import LoggerConfig
from .exceptions import AdvlogError
from .sinks.base import Sink
from .sinks.columns import STREAMS
from .sinks.jsonl import MetricsJsonlSink, SystemJsonlSink
from .sinks.spool import SpoolSink
from .sinks.text import TextSink

_NOTE = re.compile(r"attempt(\d+)-rank(\d+)\.json\Z")
_SPOOL = re.compile(r"(metrics|system)-attempt(\d+)-rank(\d+)-(\d+)\.spool\Z")
_HALF_PART = re.compile(r"(?:metrics|system)[\w-]*-rank(\d{5})[\d-]*-\d+\.(?:parquet|json)\Z")
_PATIENCE_S = 600.0


@dataclasses.dataclass
class Recovered:
    """What a recovery found of one attempt of one rank, and did about it (or would do, in a dry run)."""

    name: str
    attempt: int
    rank: int
    outcome: str = "recovered"
    """"recovered"; "alive": its process lives, nothing was touched; "lost": its ring is gone; "set aside": its ring
    cannot be used and was moved to where `detail` says; "incomplete": the disk failed, to be run again."""
    detail: str = ""
    records: dict[str, int] = dataclasses.field(default_factory=dict)
    """Records replayed from the ring, by sink."""
    cut_bytes: dict[str, int] = dataclasses.field(default_factory=dict)
    """Torn ends cut off, by file."""
    lost_in_flight: int = 0
    """Calls that had reserved room and died before their record was whole."""
    parts: int = 0
    """Parquet parts sealed."""

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        did = [self.detail] if self.detail else []
        did += [f"{count} records to {sink}" for sink, count in self.records.items() if count]
        did += [f"{size} torn bytes cut off {file}" for file, size in self.cut_bytes.items() if size]
        did += [f"{self.lost_in_flight} lost in flight"] if self.lost_in_flight else []
        did += [f"{self.parts} parts sealed"] if self.parts else []
        return f"{self.name} attempt {self.attempt} rank {self.rank}: {self.outcome}; " + (
            "; ".join(did) or "nothing to do"
        )


def recover(log_dir: str | os.PathLike[str], name: str | None = None, *, dry_run: bool = False) -> list[Recovered]:
    """Recovers every dead attempt of every rank of the runs in a directory, or of one of them.

    A run that a live process logs is left alone. Safe to run at any time, to be killed, and to be run again.

    :param dry_run: only look, change nothing.
    :raises FileNotFoundError: there is no such directory.
    """
    private = Path(os.path.abspath(log_dir)) / ".advlog"
    if not private.parent.is_dir():
        raise FileNotFoundError(f"log_dir: expected a directory, got {str(log_dir)!r}")
    names = [name] if name is not None else sorted(path.name for path in _folders(private))
    report = []
    for run in names:
        for rank in _ranks(RunPaths(private.parent, run)):
            paths = RunPaths(private.parent, run, rank)
            if FileLock.held_here(paths.lock):
                report.append(Recovered(run, 0, rank, "alive", "logged by this process"))
                continue
            try:
                lock = FileLock(paths.lock)
            except LockedError as owner:
                report.append(Recovered(run, 0, rank, "alive", f"logged by {owner}"))
                continue
            try:
                report += recover_rank(paths, dry_run=dry_run)
            finally:
                lock.release()
    return report


def recover_rank(paths: RunPaths, *, dry_run: bool = False) -> list[Recovered]:
    """Recovers the dead attempts of one rank, whose lock the caller holds."""
    report = [_recover_noted(paths, attempt, dry_run) for attempt in _noted(paths)]
    report += _seal_left(paths, dry_run)
    if not dry_run:
        if not _noted(paths):
            _sweep(paths)
        for file in (paths.main_log, paths.errors_log, paths.events_jsonl):
            _mend_tail(file)
    return report


# -- rings ---------------------------------------------------------------------------------------------------------


def _recover_noted(paths: RunPaths, attempt: int, dry_run: bool) -> Recovered:
    """One attempt that a note tells of."""
    found = Recovered(paths.name, attempt, paths.rank)
    note = paths.ring_note(attempt)
    try:
        told = json.loads(note.read_text())
        path = Path(told["path"]) if told["path"] else None
        here = told["boot_id"] == boot_id().hex()
    except (OSError, ValueError, KeyError, TypeError) as error:
        found.outcome, found.detail = "lost", f"the note {note.name} cannot be read ({type(error).__name__})"
        return found
    if path is None or not path.exists():
        return _without_ring(paths, found, path, here, told.get("host"), dry_run)
    lock_path = path.with_name(path.name + ".lock")
    if FileLock.held_here(lock_path):
        found.outcome, found.detail = "alive", "this process"
        return found
    try:
        lock = FileLock(lock_path)
    except LockedError as owner:
        found.outcome, found.detail = "alive", str(owner)
        return found
    try:
        ring = Ring.of_the_dead(path, note, lock)
    except (AdvlogError, OSError) as error:
        return _give_up(paths, found, path, str(error), lock, dry_run)
    maker = lib.advlog_ring_identity(ring.handle)
    if maker.pid != os.getpid() and here and maker.process_start and process_start(maker.pid) == maker.process_start:
        # It lives, and has lost its lock: it opened the lock's file itself, to copy it, say, and closed it again.
        lock.release()
        found.outcome, found.detail = "alive", f"pid {maker.pid}"
        return found
    if ring.run_id != told.get("run_id", ring.run_id):
        return _give_up(paths, found, path, "it belongs to another run", lock, dry_run)
    repair = _repaired(ring, dry_run)
    if repair is None:
        return _give_up(paths, found, path, "it is damaged", lock, dry_run)
    found.lost_in_flight = repair.lost
    failpoint("recover_repaired")
    if dry_run:
        lock.release()
        found.detail = f"{sum(repair.records)} records in the ring"
        return found
    return _replay(paths, attempt, ring, lock, told.get("options") or {}, found)


def _without_ring(
    paths: RunPaths, found: Recovered, path: Path | None, here: bool, host: object, dry_run: bool
) -> Recovered:
    """An attempt whose ring is not where its note says, and why that may be.

    :param here: the note was written in this boot of this machine.
    """
    left = [paths.ring_note(found.attempt)]
    hidden = None if path is None else path.with_name(hidden_name(path.name))
    if path is not None:
        left.append(path.with_name(path.name + ".lock"))
    if (here or path is None) and _ended(paths, found.attempt):
        found.detail = "it had ended"  # drained to its end and accounted for; only the note had not gone yet
    elif hidden is not None and hidden.exists():
        found.detail = "it died while it started, before it could log anything"
        left.append(hidden)
    else:
        found.outcome = "lost"
        if path is None:
            found.detail = "its ring lay in memory that died with the process: up to the drain's lag is lost"
        elif here:
            found.detail = f"its ring {path} was removed: up to the drain's lag is lost"
        else:
            found.detail = f"its ring lies on {host}, or died with a boot of it: up to the drain's lag is lost"
            return found  # it may be there still
    if dry_run:
        return found
    try:
        if found.outcome == "lost":
            drop_workers(path, paths.private / "set-aside")
            _close_account(paths, found.attempt, found)
        for file in reversed(left):
            file.unlink(missing_ok=True)
    except OSError as error:
        found.detail += f"; to be said again ({error.filename}: {error.strerror})"
    return found


def _repaired(ring: Ring, dry_run: bool) -> Any:
    """The ring made ready to be replayed, and what that found; None where it is damaged."""
    # Before the repair, which takes what is reserved and not yet published for lost.
    is_parent = not dry_run and settle_workers(ring)
    repair = ffi.new("advlog_repair *")
    if lib.advlog_ring_repair(ring.handle, dry_run, repair):
        return None
    if is_parent:
        lib.advlog_ring_reopen(ring.handle)  # what its children left is still to come in
    return repair


def _give_up(paths: RunPaths, found: Recovered, ring: Path, why: str, lock: FileLock, dry_run: bool) -> Recovered:
    """Sets a ring aside that cannot be used: never a crash, never a silent deletion."""
    found.outcome = "set aside"
    found.detail = f"the ring {ring} cannot be used: {why}"
    if dry_run:
        lock.release()
        return found
    try:
        drop_workers(ring, paths.private / "set-aside")
        found.detail += f"; kept as {set_aside(ring, paths.private / 'set-aside')}"
        _close_account(paths, found.attempt, found)
        paths.ring_note(found.attempt).unlink(missing_ok=True)
        lock.release(remove=True)
    except OSError as error:
        found.outcome = "incomplete"
        found.detail += f"; it could not be moved ({error.strerror})"
        lock.release()
    return found


def _replay(
    paths: RunPaths, attempt: int, ring: Ring, lock: FileLock, options: dict[str, Any], found: Recovered
) -> Recovered:
    config = _config(options)
    sealer = Sealer(paths, config.metrics)
    sinks = _sinks_of(ring, paths, attempt, config, sealer)
    _submit_closed(ring, paths, attempt, sealer)
    troubles: list[str] = []
    drain = Drain(ring, sinks, on_tick=lambda: None, on_fault=troubles.append, on_nonfinite=lambda: None)
    before = [drain.cursor(index).next_seq for index in range(len(sinks))]
    try:
        found.cut_bytes = drain.resume_files()
        failpoint("recover_resumed")
        done = drain.finish(time.monotonic() + _PATIENCE_S)
        failpoint("recover_replayed")
        done = sealer.seal_all(time.monotonic() + _PATIENCE_S) and done
    except OSError as error:
        troubles.append(f"{error.filename or paths.log_dir}: {error.strerror}")
        done = False
    finally:
        sealer.stop()
    failpoint("recover_sealed")
    found.parts = sealer.parts
    found.lost_in_flight += drain.lost_in_flight
    cursors = [drain.cursor(index) for index in range(len(sinks))]
    found.records = {sink.name: c.next_seq - b for sink, c, b in zip(sinks, cursors, before, strict=True)}
    if not done:
        found.outcome = "incomplete"
        found.detail = "; ".join(troubles) or "the disk is too slow"
        for sink in sinks:
            for file in sink.open_files():
                sink.close_file(file.fd)
        lock.release()
        return found
    sink_accounts = {
        sink.name: SinkAccount(c.next_seq - 1, c.written, c.dropped, sink.expired)
        for sink, c in zip(sinks, cursors, strict=True)
    }
    dropped = {name: lib.advlog_ring_dropped(ring.handle, reason) for name, reason in DROPS.items()}
    account = Account("killed", sink_accounts, dropped, found.lost_in_flight)
    try:
        if not paths.account(attempt).exists():  # else all was accounted for, and the end came just after that
            write_account(paths, attempt, account)
        failpoint("recover_accounted")
        write_killed_summary(paths, attempt, account)
    except OSError as error:
        found.outcome, found.detail = "incomplete", f"{error.filename}: {error.strerror}"
        lock.release()
        return found
    failpoint("recover_summarized")
    ring.remove()
    return found


def _submit_closed(ring: Ring, paths: RunPaths, attempt: int, sealer: Sealer) -> None:
    """Hands over the spools that the dead process had closed and not sealed; one opened ahead is empty, and goes."""
    current = {}
    for index in range(lib.ADVLOG_MAX_SINKS):
        if lib.advlog_ring_sink_kind(ring.handle, index) == lib.ADVLOG_SINK_SPOOL:
            cursor = ffi.new("advlog_cursor *")
            lib.advlog_ring_cursor(ring.handle, index, cursor)
            current[STREAMS[lib.advlog_ring_sink_stream(ring.handle, index)]] = cursor.generation
    for stream, part, path in _spools(paths, attempt):
        if part < current.get(stream, 0):
            sealer.submit(stream, path, part, 0, 0)
        elif part > current.get(stream, 0) and path.stat().st_size == 0:
            path.unlink()


def _sinks_of(ring: Ring, paths: RunPaths, attempt: int, config: LoggerConfig, sealer: Sealer) -> list[Sink]:
    """The sinks that the ring's header tells of, in its order."""
    sizes = (paths.temporary, attempt, config.max_log_size, config.max_log_files)
    sinks: list[Sink] = []
    for index in range(lib.ADVLOG_MAX_SINKS):
        kind, stream = lib.advlog_ring_sink_kind(ring.handle, index), lib.advlog_ring_sink_stream(ring.handle, index)
        system = stream == lib.ADVLOG_STREAM_SYSTEM
        if kind == lib.ADVLOG_SINK_TEXT:
            every = config.training_log_every
            sinks.append(TextSink(paths.training_log, *sizes, _keep, level=config.log_level, every=every))
        elif kind == lib.ADVLOG_SINK_JSONL and system:
            sinks.append(SystemJsonlSink(paths.system_jsonl, *sizes, _keep))
        elif kind == lib.ADVLOG_SINK_JSONL:
            sinks.append(MetricsJsonlSink(paths.metrics_jsonl, *sizes, _keep))
        elif kind == lib.ADVLOG_SINK_SPOOL:
            name = "system" if system else "metrics"
            sinks.append(SpoolSink(name, paths, attempt, config.part_rows, sealer.submit))
        else:
            break
    return sinks


def _keep(_next_seq: int | None) -> bool:
    """No file expires by a recovery: the next start trims."""
    return False


# -- spools and the rest ---------------------------------------------------------------------------------------------


def _seal_left(paths: RunPaths, dry_run: bool) -> list[Recovered]:
    """Seals spools whose ring is gone or was closed before they could be sealed."""
    noted = set(_noted(paths))
    report = []
    for attempt in sorted(_spooled(paths) - noted):
        spools = _spools(paths, attempt)
        found = Recovered(paths.name, attempt, paths.rank, detail=f"{len(spools)} spools without a ring")
        report.append(found)
        if dry_run:
            continue
        sealer = Sealer(paths, on_fault=partial(_append, found))
        for stream, part, path in spools:
            sealer.submit(stream, path, part, 0, 0)
        if not sealer.seal_all(time.monotonic() + _PATIENCE_S):
            found.outcome = "incomplete"
        sealer.stop()
        found.parts = sealer.parts
    return report


def _spooled(paths: RunPaths) -> set[int]:
    """The attempts of this rank that left spools."""
    names = os.listdir(paths.spools) if paths.spools.is_dir() else []
    matches = [match for match in map(_SPOOL.match, names) if match]
    return {int(match[2]) for match in matches if int(match[3]) == paths.rank}


def _spools(paths: RunPaths, attempt: int) -> list[tuple[str, int, Path]]:
    """The spools of this rank's attempt, in the order of their parts."""
    names = os.listdir(paths.spools) if paths.spools.is_dir() else []
    matches = [match for match in map(_SPOOL.match, sorted(names)) if match]
    mine = [m for m in matches if int(m[2]) == attempt and int(m[3]) == paths.rank]
    return [(match[1], int(match[4]), paths.spools / match[0]) for match in mine]


def _append(found: Recovered, message: str) -> None:
    found.detail += f"; {message}"


def _close_account(paths: RunPaths, attempt: int, found: Recovered) -> None:
    """The account and summary of an attempt whose ring told nothing: what is unknown is left unknown.

    :raises OSError: the account could not be written.
    """
    write_account(paths, attempt, Account(LOST, {}))
    write_killed_summary(paths, attempt, None, found.detail)


def _ended(paths: RunPaths, attempt: int) -> bool:
    """Whether the attempt was drained to its end, and accounted for."""
    try:
        return bool(json.loads(paths.account(attempt).read_text())["status"] != LOST)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _sweep(paths: RunPaths) -> None:
    """Removes what processes that died in the middle of sealing, or with a file opened ahead, left of this rank."""
    ahead = re.compile(
        "|".join(re.escape(f.name) for f in (paths.training_log, paths.metrics_jsonl, paths.system_jsonl))
    )
    for name in os.listdir(paths.temporary) if paths.temporary.is_dir() else ():
        file = paths.temporary / name
        with contextlib.suppress(OSError):
            half = _HALF_PART.match(name)
            if (half and int(half[1]) == paths.rank) or (ahead.match(name) and file.stat().st_size == 0):
                file.unlink()


def _mend_tail(file: Path) -> None:
    """Cuts a torn last line off a file of the control plane: its entry was never acknowledged as written."""
    with contextlib.suppress(OSError):
        size = file.stat().st_size
        with open(file, "r+b") as content:
            content.seek(max(size - (1 << 20), 0))
            tail = content.read()
            if tail and not tail.endswith(b"\n"):
                content.truncate(size - len(tail) + tail.rfind(b"\n") + 1)


def _config(options: dict[str, Any]) -> LoggerConfig:
    """The options as the dead process had them; what this version does not know, or refuses, is left at its default."""
    known = {field.name for field in dataclasses.fields(LoggerConfig)}
    given = {name: value for name, value in options.items() if name in known}
    try:
        return LoggerConfig(**given)
    except (TypeError, ValueError):
        return LoggerConfig()


def _folders(private: Path) -> Iterator[Path]:
    if private.is_dir():
        yield from (path for path in private.iterdir() if path.is_dir())


def _noted(paths: RunPaths) -> list[int]:
    """The attempts of this rank whose rings are noted, in order."""
    names = os.listdir(paths.rings) if paths.rings.is_dir() else []
    matches = [match for match in map(_NOTE.match, names) if match]
    return sorted(int(match[1]) for match in matches if int(match[2]) == paths.rank)


def _ranks(paths: RunPaths) -> list[int]:
    """Every rank that left a note, a spool or half a part."""
    ranks = set()
    for folder, pattern, group in (
        (paths.rings, _NOTE, 2),
        (paths.spools, _SPOOL, 3),
        (paths.temporary, _HALF_PART, 1),
    ):
        for name in os.listdir(folder) if folder.is_dir() else ():
            match = pattern.match(name)
            if match:
                ranks.add(int(match[group]))
    return sorted(ranks)
