"""Which ranks of which runs are recovered, and what of each in turn: rings, spools, what was half made."""

from __future__ import annotations

import os
from pathlib import Path

from ..parquet.columns import STREAMS
from ..store.locks import RECOVERING, FileLock, LockedError
from ..store.paths import RunPaths, check_run, run_names
from .dead_rings import recover_ring
from .leftovers import half_made, mend_tails, seal_spools, sweep
from .recovered import Recovered


def recover(log_dir: str | os.PathLike[str], name: str | None = None, *, dry_run: bool = False) -> list[Recovered]:
    """Recovers every dead attempt of every rank of the runs in a directory, or of one of them.

    A run that a live process logs is left alone. Safe to run at any time, to be killed, and to be run again.

    :param dry_run: only look, change nothing.
    :raises FileNotFoundError: there is no such directory, or no run of that name in it.
    """
    folder = Path(os.path.abspath(log_dir))
    if not folder.is_dir():
        raise FileNotFoundError(f"log_dir: expected a directory, got {str(log_dir)!r}")
    if name is not None:
        check_run(folder, name)
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
        lock = FileLock(paths.lock, RECOVERING)
    except LockedError as owner:
        return [alive.end("alive", f"held by {owner}")]
    try:
        return recover_rank(paths, dry_run=dry_run)
    finally:
        lock.release()


def recover_rank(paths: RunPaths, *, dry_run: bool = False) -> list[Recovered]:
    """Recovers the dead attempts of one rank, whose lock the caller holds."""
    report = [recover_ring(paths, attempt, dry_run=dry_run) for attempt in paths.noted_attempts()]
    report += seal_spools(paths, dry_run=dry_run)
    # Of an attempt whose ring is still to be recovered, as one on another host is, nothing else is touched.
    if not dry_run and not paths.noted_attempts():
        sweep(paths)
        mend_tails(paths)
    return report
