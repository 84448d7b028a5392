"""`advlog ls DIR...`: list the runs of directories and of those below them, one in each line."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from ..exceptions import RunNotFoundError
from ..reader import list_runs
from ..store.paths import check_run, folders_with_runs, is_url, local_path
from .table import aligned, duration, say

HELP = "list the runs in directories, and in those below them"

_FOLDER, _DURATION = "folder\0", "duration\0"
"""Keys of a row beside its columns, of which one may have the name of any metric."""

_COLUMNS = {
    "name": "name",
    "group": "group",
    "tags": "tags",
    "status": "status",
    "attempts": "attempts",
    "ranks": "ranks",
    "hosts": "hosts",
    "started": "started (UTC)",
    _DURATION: "duration",
    "records": "records",
    "errors": "errors",
}
_IF_THERE = ("group", "tags")
"""Shown only where a run has some."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "log_dirs", metavar="DIR", nargs="+", help="a directory of runs, or one above such ones, or a URL"
    )
    parser.add_argument(
        "--metric", metavar="NAME", default="loss", help="the metric to show the last and the lowest value of (loss)"
    )


def run(args: argparse.Namespace) -> int:
    """Return 0: the runs of every directory are listed; 2: one of them has none."""
    rows: list[dict[str, Any]] = []
    values: list[str] = []
    folders: dict[Path | str, None] = {}
    status = 0
    for log_dir in args.log_dirs:
        try:
            for folder in [log_dir] if is_url(log_dir) else _folders(log_dir):
                if folder not in folders:
                    table = list_runs(folder, metric=args.metric)
                    values = table.column_names[-2:]
                    rows += [{**row, _FOLDER: str(folder)} for row in table.to_pylist()]
                    folders[folder] = None
        except RunNotFoundError as error:
            say(f"advlog ls: {error}", sys.stderr)
            status = 2
    if not rows:
        return status
    rows.sort(key=lambda row: row["started"].timestamp() if row["started"] else 0.0, reverse=True)
    for row in rows:
        row[_DURATION] = duration(row["duration_s"])
        row["name"] = os.path.join(row[_FOLDER], row["name"]) if len(folders) > 1 else row["name"]
    names = [name for name in _COLUMNS if name not in _IF_THERE or any(row[name] for row in rows)]
    heads = [*(_COLUMNS[name] for name in names), args.metric, "lowest"]
    for line in aligned(heads, [[row[name] for name in (*names, *values)] for row in rows]):
        say(line)
    return status


def _folders(log_dir: str) -> list[Path]:
    """:raises RunNotFoundError: neither it nor a folder below it has a run."""
    directory = local_path("log_dir", log_dir)
    found = folders_with_runs(directory)
    if not found:
        check_run(directory, None)
    return found
