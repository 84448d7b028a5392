"""`advlog verify DIR`: check that every accepted record is in every output, once."""

from __future__ import annotations

import argparse
import sys

from ..store.paths import check_run, local_path
from ..verification import tally, verify
from .table import say

HELP = "find records that are missing or doubled, and damaged files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("--name", help="one run only")


def run(args: argparse.Namespace) -> int:
    """Return 0: every record is in its place, or its absence is explained; 1: something is wrong; 2: no such run."""
    try:
        check_run(local_path("log_dir", args.log_dir), args.name)
        differences = verify(args.log_dir, args.name)
    except FileNotFoundError as error:
        say(f"advlog verify: {error}", sys.stderr)
        return 2
    for difference in differences:
        say(str(difference))
    say(tally(differences))
    return int(any(not difference.explained for difference in differences))
