"""`advlog recover DIR`: bring what dead processes left behind into the files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..recovery import recover
from ..store.paths import check_run

HELP = "recover what killed processes left behind"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("--name", help="one run only")
    parser.add_argument("--dry-run", action="store_true", help="only look, change nothing")


def run(args: argparse.Namespace) -> int:
    """0: all that can be recovered was; 1: something was lost or set aside, or is to be run again; 2: no such run."""
    try:
        check_run(Path(args.log_dir), args.name)
        report = recover(args.log_dir, args.name, dry_run=args.dry_run)
    except FileNotFoundError as error:
        print(f"advlog recover: {error}", file=sys.stderr)
        return 2
    for found in report:
        print(found)
    if not report:
        print("nothing to recover")
    elif args.dry_run:
        print("nothing was changed: this is what a recovery would do")
    return int(any(found.outcome in ("lost", "set aside", "incomplete") for found in report))
