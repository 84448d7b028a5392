"""What dead processes leave beside their rings: spools, half-made files, torn last lines."""

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

# With a pid: as earlier versions called them.
_HALF_PART = re.compile(
    r"(?:metrics|system)[\w-]*-rank(\d{5})[\d-]*(?:-\d+\.(?:parquet|json)|\.(?:parquet|json)" + SCRATCH + r")\Z"
)
_SCRATCH = re.compile(SCRATCH + r"\Z")
_SCRATCH_S = 3600.0
_TAIL_BYTES = 1 << 20


def has_left(paths: RunPaths) -> bool:
    """Whether there is anything of this rank to recover."""
    spools = (key for stream in STREAMS for key in paths.spools_of_all_ranks(stream))
    return bool(paths.noted_attempts()) or any(rank == paths.rank for _, rank, _ in spools)


def seal_spools(paths: RunPaths, *, dry_run: bool = False) -> list[Recovered]:
    """Seals the spools of this rank whose ring is gone, or was done with before they could be sealed."""
    spools = {key for stream in STREAMS for key in paths.spools_of_all_ranks(stream)}
    mine = {attempt for attempt, rank, _ in spools if rank == paths.rank}
    ringless = sorted(mine.difference(paths.noted_attempts()))
    return [_seal_spools_of(paths, attempt, dry_run) for attempt in ringless]


def _seal_spools_of(paths: RunPaths, attempt: int, dry_run: bool) -> Recovered:
    spools = [(stream, *found) for stream in STREAMS for found in paths.spools_of_attempt(stream, attempt)]
    found = Recovered(paths.name, attempt, paths.rank, detail=f"{len(spools)} spools without a ring")
    if dry_run:
        return found
    sealer = Sealer(paths, on_fault=found.add)
    for stream, part, path in spools:
        sealer.submit(stream, path, part, 0, 0)
    if not sealer.seal_all(time.monotonic() + REPLAY_TIMEOUT_S):
        found.outcome = "incomplete"
        if sealer.error is None:
            found.add("the disk is too slow")
    sealer.stop()
    found.parts = sealer.parts
    return found


def half_made(paths: RunPaths) -> Iterator[tuple[int, Path]]:
    """What processes that died in the middle of sealing left, with its rank."""
    for file in paths.temporary.glob("*"):
        match = _HALF_PART.match(file.name)
        if match:
            yield int(match[1]), file


def sweep(paths: RunPaths) -> None:
    """Removes what processes of this rank that died in the middle of sealing, or with a file opened ahead, left."""
    for rank, file in half_made(paths):
        if rank == paths.rank:
            with contextlib.suppress(OSError):
                remove_own(file)
    for folder in (paths.temporary, paths.rings, paths.ledgers):
        for file in folder.glob("*.tmp"):
            # Of another rank's process it may be in use, but not for that long.
            with contextlib.suppress(OSError):
                if _SCRATCH.search(file.name) and time.time() - file.lstat().st_mtime > _SCRATCH_S:
                    remove_own(file)
    for series in (paths.training_log, paths.metrics_jsonl, paths.system_jsonl):
        for file in paths.temporary.glob(f"{series.name}.attempt*"):
            with contextlib.suppress(OSError):
                if file.lstat().st_size == 0:
                    remove_own(file)


def mend_tails(paths: RunPaths) -> None:
    """Cuts torn last lines off the files of the control plane: such an entry was never acknowledged as written."""
    for file in (paths.main_log, paths.errors_log, paths.events_jsonl):
        with contextlib.suppress(OSError):
            _mend_tail(file)


def _mend_tail(file: Path) -> None:
    """:raises OSError: there is no such file, it is not ours, or it cannot be read or cut."""
    if not begins_as_ours(file):
        return
    fd = open_own(file, os.O_RDWR, sole=True)
    try:
        size = os.fstat(fd).st_size
        tail = os.pread(fd, _TAIL_BYTES, max(size - _TAIL_BYTES, 0))
        end = tail.rfind(b"\n")
        # No entry is that long: a tail without any line break is no entry of ours.
        if 0 <= end < len(tail) - 1:
            os.ftruncate(fd, size - len(tail) + end + 1)
    finally:
        os.close(fd)
