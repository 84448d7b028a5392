"""`advlog export DIR NAME --to TARGET`: send a run to another tool."""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from ..exceptions import RunNotFoundError
from ..export import export, parse_target
from .table import say

HELP = "send a run to TensorBoard, W&B, MLflow, Prometheus or a CSV file, also while it is running"

_INTERRUPTED = 130


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("name", metavar="NAME", help="the run's name")
    parser.add_argument(
        "--to",
        required=True,
        metavar="TARGET",
        help="tensorboard:PATH, wandb:PROJECT, mlflow:URI, prometheus:FILE or csv:PATH",
    )
    parser.add_argument("--follow", action="store_true", help="go on until the run has ended")
    parser.add_argument(
        "--points",
        type=_points,
        metavar="N",
        help="about how many points of a metric, spikes always among them, or all (tensorboard 900, wandb and mlflow "
        "2000, csv all)",
    )
    parser.add_argument(
        "--ranks",
        choices=("merged", "each"),
        default="merged",
        help="one run of the target for all ranks, the metrics of rank k below rank<k>/ (merged, the default), or one "
        "a rank (each)",
    )


def _points(text: str) -> int | str:
    return text if text == "all" else int(text)


def run(args: argparse.Namespace) -> int:
    """Return 0: what there was is sent; 1: some rows were no longer there; 2: no such run; 130: interrupted."""
    destination = parse_target(args.to)
    interrupts: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        if interrupts:
            raise KeyboardInterrupt  # the second one does not wait for the target
        interrupts.append(number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        done = export(
            args.log_dir,
            args.name,
            destination,
            follow_run=args.follow,
            points=args.points,
            ranks=args.ranks,
            stop=lambda: bool(interrupts),
        )
    except RunNotFoundError as error:
        say(f"advlog export: {error}", sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGINT, before)
    for attempt, rank, first, last in done.gaps:
        say(f"no longer there: records {first}-{last} of rank {rank}, attempt {attempt}", sys.stderr)
    say(f"{done.rows} rows, {done.values} values sent to {destination}; the run: {done.status}")
    if done.stopped:
        return _INTERRUPTED
    return int(bool(done.gaps))
