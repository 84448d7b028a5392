"""`advlog report DIR NAME`: write a page that shows a run, one file that needs no server and no network."""

from __future__ import annotations

import argparse
import sys

from ..exceptions import RunNotFoundError
from ..pictures.levels import MOST_WIDTH
from ..reader import read_run
from ..views import report
from .show import only_run
from .table import say, size

HELP = "write one file that shows a run: every value, what deserves a look, ranks, errors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs, or the URL of a mirror")
    parser.add_argument("name", metavar="NAME", nargs="?", help="the run's name; the only run in DIR needs none")
    parser.add_argument("-o", "--output", metavar="FILE", help="the page to write (NAME.html here)")
    parser.add_argument("--metrics", metavar="METRIC", nargs="+", help="these metrics only")
    parser.add_argument("--px", metavar="N", type=_width, default=750, help="buckets of a curve at least (750)")
    parser.add_argument("--ranks", choices=("band", "each"), default="band", help="each: each rank alone too")
    parser.add_argument(
        "--attempts", choices=("chain", "latest", "all"), default="chain", help="as of `advlog show` (chain)"
    )
    parser.add_argument(
        "--anonymous", action="store_true", help="numbers, steps and names of metrics, and no other text of the run"
    )


def _width(text: str) -> int:
    width = int(text)
    if not 1 <= width <= MOST_WIDTH:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to {MOST_WIDTH}, got {text}")
    return width


def run(args: argparse.Namespace) -> int:
    """Return 0: written; 1: it cannot be written; 2: no such run or metric."""
    try:
        name = args.name or only_run(args.log_dir)
        shown = read_run(args.log_dir, name, attempts=args.attempts)
        path = report(
            shown,
            args.output or f"{name}.html",
            metrics=args.metrics,
            width=args.px,
            each=args.ranks == "each",
            anonymous=args.anonymous,
        )
    except (RunNotFoundError, ValueError) as error:
        say(f"advlog report: {error}", sys.stderr)
        return 2
    except OSError as error:
        say(f"advlog report: {error}", sys.stderr)
        return 1
    say(f"{path}: {size(path.stat().st_size)}, which opens in any browser")
    return 0
