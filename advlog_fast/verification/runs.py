"""Verifies runs: compares the ledgers of each run's attempts with its files."""

from __future__ import annotations

import os
from pathlib import Path

from ..store.ledger import LOST, Ledger, read_ledgers
from ..store.paths import RunPaths, check_run, local_path, run_names
from .comparison import Comparison
from .contents import Contents
from .differences import Difference, Differences
from .seqs import Key


def verify(log_dir: str | os.PathLike[str], name: str | None = None) -> list[Difference]:
    """Verifies one run, or all runs in a directory; returns no differences if every record is in its place, once.

    Only reads. A run may be live; its latest records then count as pending.

    :raises FileNotFoundError: there is no such directory, or no run of that name in it.
    :raises OSError: a file cannot be read, for a reason other than its content.
    """
    folder = Path(os.path.abspath(local_path("log_dir", log_dir)))
    if not folder.is_dir():
        raise FileNotFoundError(f"log_dir: expected a directory, got {str(log_dir)!r}")
    if name is not None:
        check_run(folder, name)
    names = [name] if name is not None else run_names(folder)
    return [difference for run in names for difference in _verify_run(RunPaths(folder, run))]


def _verify_run(paths: RunPaths) -> list[Difference]:
    differences = Differences(paths.name)
    live = set(paths.ring_notes_of_all_ranks())
    ledgers: dict[Key, Ledger] = {}
    try:
        ledgers = read_ledgers(paths)
    except ValueError as error:
        differences.wrong("unreadable", "accounts", detail=str(error))
    contents = Contents(paths, live, differences)
    live.update(paths.ring_notes_of_all_ranks())  # attempts that began meanwhile may be in the files already
    for path in sorted(paths.spools.glob("*.damaged")):
        differences.wrong("damaged", path.name, 1, detail="the records after the damage are in no part")
    for path in sorted(paths.quarantine.glob("*")):
        differences.wrong("set aside", path.name, 1, detail="it could not be used")
    keys = sorted({*ledgers, *live, *contents.keys()})
    for key in keys:
        comparison = Comparison(key, contents.by_sink(key), differences)
        ledger = ledgers.get(key)
        if ledger is not None and ledger.status != LOST:
            later = any(rank == key[1] and attempt > key[0] for attempt, rank in keys)
            comparison.with_ledger(ledger, later)
        else:
            comparison.without_ledger(key in live)
    return differences.all
