"""`advlog recover DIR`: recover the records that killed processes left behind."""

from __future__ import annotations

import argparse
import sys

from ..recovery import recover
from ..store.paths import check_run, local_path
from .table import say

HELP = "recover what killed processes left behind"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("--name", help="one run only")
    parser.add_argument("--dry-run", action="store_true", help="report only, change nothing")


def run(args: argparse.Namespace) -> int:
    """Return 0: everything was recovered; 1: something was lost, set aside or is incomplete; 2: no such run."""
    try:
        check_run(local_path("log_dir", args.log_dir), args.name)
        report = recover(args.log_dir, args.name, dry_run=args.dry_run)
    except FileNotFoundError as error:
        say(f"advlog recover: {error}", sys.stderr)
        return 2
    if args.dry_run and report:
        say("a recovery would say:")
    for attempt in report:
        say(str(attempt))
    if not report:
        say("nothing to recover")
    elif args.dry_run:
        say("nothing was changed")
    return int(any(attempt.outcome in ("lost", "set aside", "incomplete") for attempt in report))
