"""Selects the runs to compact, and locks their ranks meanwhile."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path

from ..exceptions import RunBusyError
from ..parquet.columns import STREAMS
from ..recovery import recover_rank
from ..store.attempts import lock_rank, make_private
from ..store.locks import COMPACTING
from ..store.paths import RunPaths, check_run, local_path, parts_in, run_names
from .dataset import Compacted, Dataset


def compact(log_dir: str | os.PathLike[str], name: str | None = None) -> list[Compacted]:
    """Rewrites the datasets of one run, or of all runs in a directory: every metric becomes a column, `extra` becomes
    null, and each rank of each attempt gets as few files as possible, of at most 2**24 rows. Keeps order and values.

    Recovers dead attempts first. Safe to kill at any point and to run again. On a file system that cannot exchange two
    names atomically, such as NFS, the dataset is missing for a moment.

    :returns: a report for each dataset.
    :raises RunNotFoundError: there is no such directory, or no such run in it.
    :raises RunBusyError: a live process logs a rank of a run; the run's datasets are unchanged.
    :raises OSError: a part is damaged, or the disk failed; the message names the file. The dataset is unchanged.
    """
    folder = Path(os.path.abspath(local_path("log_dir", log_dir)))
    check_run(folder, name)
    names = [name] if name is not None else run_names(folder)
    return [compacted for run in names for compacted in _compact_run(RunPaths(folder, run))]


def _compact_run(paths: RunPaths) -> list[Compacted]:
    ranks = _ranks(paths)
    with contextlib.ExitStack() as locks:
        # Every lock before any work, and in order: two compactions cannot block each other.
        for rank in ranks:
            make_private(paths)
            locks.callback(lock_rank(replace(paths, rank=rank), COMPACTING).release)
        for rank in ranks:
            for report in recover_rank(replace(paths, rank=rank)):
                if report.outcome == "alive":
                    raise RunBusyError(f"expected a run that no process logs, got {report}")
        datasets = [Dataset(paths, stream, frozenset(ranks)) for stream in STREAMS]
        return [compacted for dataset in datasets if (compacted := dataset.compact()) is not None]


def _ranks(paths: RunPaths) -> list[int]:
    """Returns every rank that has files in the run."""
    ranks = {rank for _, rank in paths.claims_of_all_ranks()} | {rank for _, rank in paths.ring_notes_of_all_ranks()}
    keys = {key for stream in STREAMS for key in paths.spools_of_all_ranks(stream)}
    for folder in (*map(paths.dataset, STREAMS), *paths.compaction.glob("*")):
        keys.update(parts_in(folder))
    return sorted(ranks.union(rank for _, rank, _ in keys))
