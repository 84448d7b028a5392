"""Selects the ranks to recover, and recovers each: its rings, then its spools, then its partial files."""

from __future__ import annotations

import os
from pathlib import Path

from ..parquet.columns import STREAMS
from ..store.locks import DEAD_OWNER_S, RECOVERING, FileLock, LockedError
from ..store.paths import RunPaths, check_run, local_path, run_names
from .dead_rings import recover_ring
from .leftovers import mend_tails, partial_files, seal_spools, sweep
from .recovered import Recovered


def recover(log_dir: str | os.PathLike[str], name: str | None = None, *, dry_run: bool = False) -> list[Recovered]:
    """Recovers every dead attempt of every rank of one run, or of all runs in a directory.

    Leaves ranks alone that a live process logs. Safe to run at any time, to kill, and to run again.

    :param dry_run: report only; change nothing.
    :raises FileNotFoundError: there is no such directory, or no run of that name in it.
    """
    folder = Path(os.path.abspath(local_path("log_dir", log_dir)))
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
    """Returns every rank that left a ring note, a spool or a partial file."""
    ranks = {rank for _, rank in paths.ring_notes_of_all_ranks()}
    ranks |= {rank for stream in STREAMS for _, rank, _ in paths.spools_of_all_ranks(stream)}
    return sorted(ranks | {rank for rank, _ in partial_files(paths)})


def _recover_unless_alive(paths: RunPaths, dry_run: bool) -> list[Recovered]:
    alive = Recovered(paths.name, 0, paths.rank)
    if FileLock.held_here(paths.lock):
        return [alive.end("alive", "logged by this process")]
    try:
        lock = FileLock(paths.lock, RECOVERING, dead_owner_s=DEAD_OWNER_S)
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
    # While a ring remains, such as one on another host, its attempt's other files stay as they are.
    if not dry_run and not paths.noted_attempts():
        sweep(paths)
        mend_tails(paths)
    return report
