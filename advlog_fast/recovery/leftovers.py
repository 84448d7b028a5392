"""What dead processes leave beside their rings: spools, half-made files, torn last lines."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from .._paths import RunPaths
from .._sealer import Sealer
from ..sinks.columns import STREAMS
from .recovered import Recovered
from .replay import PATIENCE_S

_HALF_PART = re.compile(r"(?:metrics|system)[\w-]*-rank(\d{5})[\d-]*-\d+\.(?:parquet|json)\Z")
_TAIL_BYTES = 1 << 20


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
    if not sealer.seal_all(time.monotonic() + PATIENCE_S):
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
                file.unlink()
    for series in (paths.training_log, paths.metrics_jsonl, paths.system_jsonl):
        for file in paths.temporary.glob(f"{series.name}.attempt*"):
            with contextlib.suppress(OSError):
                if file.stat().st_size == 0:
                    file.unlink()


def mend_tails(paths: RunPaths) -> None:
    """Cuts torn last lines off the files of the control plane: such an entry was never acknowledged as written."""
    for file in (paths.main_log, paths.errors_log, paths.events_jsonl):
        with contextlib.suppress(OSError):
            _mend_tail(file)


def _mend_tail(file: Path) -> None:
    """:raises OSError: there is no such file, or it cannot be read or cut."""
    size = file.stat().st_size
    with open(file, "r+b") as content:
        content.seek(max(size - _TAIL_BYTES, 0))
        tail = content.read()
        if tail and not tail.endswith(b"\n"):
            content.truncate(size - len(tail) + tail.rfind(b"\n") + 1)
