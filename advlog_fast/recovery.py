"""What dead processes left behind, brought into the files: their rings, their spools, their summaries.

Every step may be repeated, so a recovery may be killed at any point and run again.
"""

from __future__ import annotations

import os
from pathlib import Path

from ._dead_rings import recover_ring
from ._leftovers import half_made, mend_tail, seal_spools, sweep
from ._locks import FileLock, LockedError
from ._paths import RunPaths, run_names
from ._recovered import Recovered
from .sinks.columns import STREAMS

__all__ = ["Recovered", "recover", "recover_rank"]


def recover(log_dir: str | os.PathLike[str], name: str | None = None, *, dry_run: bool = False) -> list[Recovered]:
    """Recovers every dead attempt of every rank of the runs in a directory, or of one of them.

    A run that a live process logs is left alone. Safe to run at any time, to be killed, and to be run again.

    :param dry_run: only look, change nothing.
    :raises FileNotFoundError: there is no such directory.
    """
    folder = Path(os.path.abspath(log_dir))
    if not folder.is_dir():
        raise FileNotFoundError(f"log_dir: expected a directory, got {str(log_dir)!r}")
    report = []
    for run in [name] if name is not None else run_names(folder):
        for rank in _ranks(RunPaths(folder, run)):
            report += _recover_unless_alive(RunPaths(folder, run, rank), dry_run)
    return report


def _ranks(paths: RunPaths) -> list[int]:
    """Every rank that left a note, a spool or half a part."""
    ranks = {rank for _, rank in paths.ring_notes_of_all_ranks()}
    ranks |= {rank for stream in STREAMS for _, rank, _ in paths.spools_of_all_ranks(stream)}
    return sorted(ranks | {rank for rank, _ in half_made(paths)})


def _recover_unless_alive(paths: RunPaths, dry_run: bool) -> list[Recovered]:
    alive = Recovered(paths.name, 0, paths.rank)
    if FileLock.held_here(paths.lock):
        return [alive.end("alive", "logged by this process")]
    try:
        lock = FileLock(paths.lock)
    except LockedError as owner:
        return [alive.end("alive", f"logged by {owner}")]
    try:
        return recover_rank(paths, dry_run=dry_run)
    finally:
        lock.release()


def recover_rank(paths: RunPaths, *, dry_run: bool = False) -> list[Recovered]:
    """Recovers the dead attempts of one rank, whose lock the caller holds."""
    report = [recover_ring(paths, attempt, dry_run=dry_run) for attempt in _noted(paths)]
    report += seal_spools(paths, dry_run=dry_run)
    if not dry_run:
        if not _noted(paths):
            sweep(paths)
        for file in (paths.main_log, paths.errors_log, paths.events_jsonl):
            mend_tail(file)
    return report


def _noted(paths: RunPaths) -> list[int]:
    """The attempts of this rank whose rings are noted."""
    return sorted(attempt for attempt, rank in paths.ring_notes_of_all_ranks() if rank == paths.rank)
