"""Which runs are compacted, and that nobody logs them meanwhile."""

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
from ..store.paths import RunPaths, check_run, parts_in, run_names
from .dataset import Compacted, Dataset


def compact(log_dir: str | os.PathLike[str], name: str | None = None) -> list[Compacted]:
    """Rewrites the datasets of the runs in a directory, or of one of them: every metric a column and `extra` all null,
    in as few files for each rank of each attempt as hold it with 2**24 rows a file. Order and values stay as they are.

    Dead attempts are recovered first. It may be killed at any point and run again. Where the file system cannot
    exchange two names in one step, as NFS cannot, there is a moment without the dataset.

    :returns: what became of each dataset that there is.
    :raises RunNotFoundError: there is no such directory, or no such run in it.
    :raises RunBusyError: a live process logs a rank of a run, whose datasets are as they were.
    :raises OSError: a part is damaged, or the disk failed; the message names the file. The dataset is as it was.
    """
    folder = Path(os.path.abspath(log_dir))
    check_run(folder, name)
    names = [name] if name is not None else run_names(folder)
    return [compacted for run in names for compacted in _compact_run(RunPaths(folder, run))]


def _compact_run(paths: RunPaths) -> list[Compacted]:
    ranks = _known_ranks(paths)
    with contextlib.ExitStack() as locks:
        # All of them before anything is done, and in order: two compactions cannot hold one another up.
        for rank in ranks:
            make_private(paths)
            locks.callback(lock_rank(replace(paths, rank=rank), COMPACTING).release)
        for rank in ranks:
            for found in recover_rank(replace(paths, rank=rank)):
                if found.outcome == "alive":
                    raise RunBusyError(f"expected a run that nobody logs, got {found}")
        datasets = [Dataset(paths, stream, frozenset(ranks)) for stream in STREAMS]
        return [compacted for dataset in datasets if (compacted := dataset.compact()) is not None]


def _known_ranks(paths: RunPaths) -> list[int]:
    """Every rank that left anything."""
    ranks = {rank for _, rank in paths.claims_of_all_ranks()} | {rank for _, rank in paths.ring_notes_of_all_ranks()}
    keys = {key for stream in STREAMS for key in paths.spools_of_all_ranks(stream)}
    for folder in (*map(paths.dataset, STREAMS), *paths.compaction.glob("*")):
        keys.update(parts_in(folder))
    return sorted(ranks.union(rank for _, rank, _ in keys))
