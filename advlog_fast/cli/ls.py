"""`advlog ls DIR`: list the runs of a directory, one in each line."""

from __future__ import annotations

import argparse
import sys

from ..exceptions import RunNotFoundError
from ..reader import list_runs
from .table import aligned, duration, say

HELP = "list the runs in a directory"

_COLUMNS = {
    "name": "name",
    "status": "status",
    "attempts": "attempts",
    "ranks": "ranks",
    "hosts": "hosts",
    "started": "started (UTC)",
    "duration": "duration",
    "records": "records",
    "errors": "errors",
    "loss": "loss",
    "loss_min": "lowest",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")


def run(args: argparse.Namespace) -> int:
    """Return 0: runs listed; 2: no run found."""
    try:
        rows = list_runs(args.log_dir).to_pylist()
    except RunNotFoundError as error:
        say(f"advlog ls: {error}", sys.stderr)
        return 2
    for row in rows:
        row["duration"] = duration(row["duration_s"])
    for line in aligned(list(_COLUMNS.values()), [[row[name] for name in _COLUMNS] for row in rows]):
        say(line)
    return 0
