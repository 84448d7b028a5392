"""`advlog compact DIR`: rewrite Parquet datasets with a column for each metric, in few files."""

from __future__ import annotations

import argparse
import sys

from ..compaction import compact
from ..exceptions import RunBusyError
from ..store.paths import check_run, local_path, run_names
from .table import say

HELP = "rewrite the Parquet datasets of ended runs with a column for each metric, in few files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("--name", help="one run only")


def run(args: argparse.Namespace) -> int:
    """Return 0: all runs are compact; 1: a run was refused, or not compacted completely; 2: no such run."""
    log_dir = local_path("log_dir", args.log_dir)
    try:
        check_run(log_dir, args.name)
    except FileNotFoundError as error:
        say(f"advlog compact: {error}", sys.stderr)
        return 2
    report = []
    refused = False
    for name in [args.name] if args.name is not None else run_names(log_dir):
        try:
            report += compact(log_dir, name)
        except (OSError, RunBusyError) as error:  # go on with the other runs
            say(f"advlog compact: {error}", sys.stderr)
            refused = True
    for compacted in report:
        say(str(compacted))
    if not report and not refused:
        say("nothing to compact")
    return int(refused or not all(compacted.complete for compacted in report))
