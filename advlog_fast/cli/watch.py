"""`advlog watch DIR [NAME]`: a run in the terminal, as it grows; line by line where there is no terminal."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from ..exceptions import RunNotFoundError
from ..store.paths import local_path
from ..views.gallery import Gallery
from .headline import headline
from .show import only_run
from .table import say

HELP = "watch a run in the terminal as it grows (the screen needs advlog-fast[ui])"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("name", metavar="NAME", nargs="?", help="the run's name; the only run in DIR needs none")
    parser.add_argument("--metric", default="loss", help="the metric to begin with (loss)")
    parser.add_argument("--plain", action="store_true", help="a line whenever something has changed, and no screen")
    parser.add_argument("--ascii", action="store_true", help="no character beyond ASCII in the chart")
    parser.add_argument("--interval", metavar="SECONDS", type=_seconds, default=1.0, help="between two looks (1)")
    parser.add_argument("--once", action="store_true", help="one line, and no more")


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 3600, got {text}")
    return seconds


def run(args: argparse.Namespace) -> int:
    """Return 0: the run has ended, or the user has; 2: no such run."""
    try:
        name = args.name or only_run(args.log_dir)
        gallery = Gallery([Path(os.path.abspath(local_path("DIR", args.log_dir)))])
        gallery.paths(0, name)
    except (RunNotFoundError, ValueError) as error:
        say(f"advlog watch: {error}", sys.stderr)
        return 2
    if not (args.plain or args.once) and sys.stdout.isatty() and sys.stdin.isatty():
        try:
            from .screen import Screen
        except ModuleNotFoundError as error:
            say(f"advlog watch: line by line, since {error.name} is missing: pip install 'advlog-fast[ui]'", sys.stderr)
        else:
            Screen(gallery, name, args.metric, args.interval, ascii_only=args.ascii).run()
            return 0
    return _lines(gallery, name, args)


def _lines(gallery: Gallery, name: str, args: argparse.Namespace) -> int:
    before = None
    while True:
        told = gallery.run(0, name).told()
        line = headline(told, args.metric)
        if line != before:
            say(line)
            sys.stdout.flush()
            before = line
        if args.once or told["status"] != "running":
            return 0
        time.sleep(args.interval)
