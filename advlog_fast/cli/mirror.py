"""`advlog mirror DIR URL`: copy the runs of a directory to a remote store, once or as they grow."""

from __future__ import annotations

import argparse
import math
import signal
import sys
from types import FrameType

from ..exceptions import RunNotFoundError
from ..mirror import mirror
from .table import say, size

HELP = "copy the runs of a directory to a remote store, from which readers read them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("url", metavar="URL", help="a folder of a store: s3://, gs://, az://, abfs:// or file://")
    parser.add_argument("--name", nargs="+", default=[], help="these runs only")
    parser.add_argument("--follow", action="store_true", help="go on until the runs have ended, or SIGTERM or Ctrl-C")
    parser.add_argument(
        "--interval", metavar="SECONDS", type=_seconds, default=10.0, help="between two copies, with --follow (10)"
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text}")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Return 0: everything is copied; 1: something could not be copied; 2: no such run."""
    stop = _Stop() if args.follow else None

    def tell(problem: str) -> None:
        say(f"advlog mirror: {problem}", sys.stderr)

    uploaded = 0

    def show(total: int) -> None:
        nonlocal uploaded
        if args.follow and not uploaded and total:
            say(f"copied {size(total)} to {args.url}, and goes on; Ctrl-C ends it")
            sys.stdout.flush()
        uploaded = total

    try:
        complete = mirror(
            args.log_dir,
            args.url,
            args.name,
            follow=args.follow,
            interval_s=args.interval,
            is_stopped=stop or (lambda: False),
            tell=tell,
            on_pass=show,
        )
    except RunNotFoundError as error:
        tell(str(error))
        return 2
    if complete:
        say(f"copied {size(uploaded)} to {args.url}" if uploaded else f"{args.url} has everything")
    return 0 if complete else 1


class _Stop:
    """Whether SIGTERM or Ctrl-C has come. The second one ends the process at once."""

    def __init__(self) -> None:
        self._has_come = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._come)

    def __call__(self) -> bool:
        return self._has_come

    def _come(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the interface of a handler
        self._has_come = True
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
