"""Cleans up what dead processes leave beside their rings: spools, partial files, torn last lines."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from ..parquet.columns import STREAMS
from ..parquet.sealer import Sealer
from ..store.files import SCRATCH, begins_as_ours, open_own, remove_own
from ..store.paths import RunPaths
from .recovered import Recovered
from .replay import REPLAY_TIMEOUT_S

# Also matches the names of earlier versions, which have a pid.
_PARTIAL_FILE = re.compile(
    r"(?:metrics|system)[\w-]*-rank(\d{5})[\d-]*(?:-\d+\.(?:parquet|json)|\.(?:parquet|json)" + SCRATCH + r")\Z"
)
_SCRATCH = re.compile(SCRATCH + r"\Z")
_SCRATCH_S = 3600.0
_TAIL_BYTES = 1 << 20


def has_left(paths: RunPaths) -> bool:
    """Returns whether this rank has anything to recover."""
    spools = (key for stream in STREAMS for key in paths.spools_of_all_ranks(stream))
    return bool(paths.noted_attempts()) or any(rank == paths.rank for _, rank, _ in spools)


def seal_spools(paths: RunPaths, *, dry_run: bool = False) -> list[Recovered]:
    """Seals the spools of this rank's attempts whose ring is gone."""
    spools = {key for stream in STREAMS for key in paths.spools_of_all_ranks(stream)}
    mine = {attempt for attempt, rank, _ in spools if rank == paths.rank}
    ringless = sorted(mine.difference(paths.noted_attempts()))
    return [_seal_spools_of(paths, attempt, dry_run) for attempt in ringless]


def _seal_spools_of(paths: RunPaths, attempt: int, dry_run: bool) -> Recovered:
    spools = [(stream, *spool) for stream in STREAMS for spool in paths.spools_of_attempt(stream, attempt)]
    report = Recovered(paths.name, attempt, paths.rank, detail=f"{len(spools)} spools without a ring")
    if dry_run:
        return report
    sealer = Sealer(paths, on_fault=report.add)
    for stream, part, path in spools:
        sealer.submit(stream, path, part, 0, 0)
    if not sealer.seal_all(time.monotonic() + REPLAY_TIMEOUT_S):
        report.outcome = "incomplete"
        if sealer.error is None:
            report.add("the disk is too slow")
    sealer.stop()
    report.parts = sealer.parts
    return report


def partial_files(paths: RunPaths) -> Iterator[tuple[int, Path]]:
    """Yields the files, with their ranks, that processes were writing when they died while sealing."""
    for file in paths.temporary.glob("*"):
        match = _PARTIAL_FILE.match(file.name)
        if match:
            yield int(match[1]), file


def sweep(paths: RunPaths) -> None:
    """Removes this rank's partial files, scratch files and empty files that a process opened ahead."""
    for rank, file in partial_files(paths):
        if rank == paths.rank:
            with contextlib.suppress(OSError):
                remove_own(file)
    for folder in (paths.temporary, paths.rings, paths.ledgers):
        for file in folder.glob("*.tmp"):
            # Another rank's process may be using the file, but not for that long.
            with contextlib.suppress(OSError):
                if _SCRATCH.search(file.name) and time.time() - file.lstat().st_mtime > _SCRATCH_S:
                    remove_own(file)
    for series in paths.rotated_series:
        for file in paths.temporary.glob(f"{series.name}.attempt*"):
            with contextlib.suppress(OSError):
                if file.lstat().st_size == 0:
                    remove_own(file)


def mend_tails(paths: RunPaths) -> None:
    """Cuts torn last lines off the control plane's files: no call had acknowledged such an entry."""
    for file in (paths.main_log, paths.errors_log, paths.events_jsonl):
        with contextlib.suppress(OSError):
            _mend_tail(file)


def _mend_tail(file: Path) -> None:
    """:raises OSError: the file does not exist, is not ours, or cannot be read or cut."""
    if not begins_as_ours(file):
        return
    fd = open_own(file, os.O_RDWR, sole=True)
    try:
        size = os.fstat(fd).st_size
        tail = os.pread(fd, _TAIL_BYTES, max(size - _TAIL_BYTES, 0))
        end = tail.rfind(b"\n")
        # Our entries are shorter than the tail: one without a line break is not ours, and stays.
        if 0 <= end < len(tail) - 1:
            os.ftruncate(fd, size - len(tail) + end + 1)
    finally:
        os.close(fd)
