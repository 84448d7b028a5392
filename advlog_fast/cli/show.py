"""`advlog show DIR NAME`: one run over all of its ranks."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from ..exceptions import RunNotFoundError
from ..reader import read_run
from ._table import aligned, duration, shown

HELP = "show a run over all of its ranks: how far each came, what a step took, who holds it up"

_RANKS_SHOWN = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs")
    parser.add_argument("name", metavar="NAME", help="the run's name")
    parser.add_argument("--json", action="store_true", help="everything, as a JSON object")
    parser.add_argument("--attempts", choices=("chain", "latest", "all"), default="chain", help="as of read_run")
    parser.add_argument(
        "--ratio", type=float, default=1.1, help="how many times as long as the others a slow rank takes (1.1)"
    )


def run(args: argparse.Namespace) -> int:
    """0: shown; 2: there is no such run."""
    try:
        found = read_run(args.log_dir, args.name, attempts=args.attempts).overview(args.ratio)
    except RunNotFoundError as error:
        print(f"advlog show: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(_plain(found), indent=2, allow_nan=False))
    else:
        print("\n".join(_lines(found)))
    return 0


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _lines(found: dict[str, Any]) -> Iterator[str]:
    ranks = found["ranks"]
    yield f"{found['name']}: {found['status']}, run {found['run_id']}"
    yield ""
    columns = ("attempt", "status", "ranks", "hosts", "started", "last_record", "records")
    rows = [[*(row[name] for name in columns), _origin(row)] for row in found["attempts"]]
    yield from aligned((*columns[:4], "started (UTC)", "last record", "records", "resumed from"), rows)
    yield ""
    if found["loss"]:
        ends = ", ".join(f"{name} {end['mean']:.4g} at step {end['step']}" for name, end in found["loss"].items())
        yield f"loss, mean over the ranks: {ends}"
    for times in found["step_times"]:
        numbers = " / ".join(duration(times[name]) for name in ("min_s", "mean_s", "max_s"))
        skew = f", skew {times['skew']:.3f}" if len(times["ranks"]) > 1 else ""
        yield f"{times['metric']} over {times['steps']} steps, min / mean / max: {numbers}{skew}"
    yield from _trouble(found)
    yield ""
    columns = ("rank", "host", "pid", "status", "records", "last_step", "last_record")
    rows = [[row[name] for name in columns] for row in ranks[:_RANKS_SHOWN]]
    yield from aligned((*columns[:5], "last step", "last record"), rows)
    if len(ranks) > _RANKS_SHOWN:
        yield f"and {len(ranks) - _RANKS_SHOWN} more ranks (--json has all)"
    if found["metrics"]:
        yield ""
        names = ("count", "mean", "std", "min", "max", "nan")
        rows = [[name, *(told[key] for key in names)] for name, told in found["metrics"].items()]
        yield from aligned(("metric", *names), rows)


def _trouble(found: dict[str, Any]) -> Iterator[str]:
    for each in found["stragglers"]:
        yield (
            f"slow: rank {each['rank']}, {each['ratio']:.2f} times the others' {each['metric']}, "
            f"{duration(each['excess_s'])} more a step, slowest at {each['slowest_share']:.0%} of the steps"
        )
    for each in found["stopped_early"]:
        yield (
            f"stopped early: rank {each['rank']} ({each['status']}) "
            f"at step {each['last_step']}, others at {each['furthest_step']}"
        )
    for each in found["silent"]:
        yield f"silent: rank {each['rank']} on {each['host']}, for {duration(each['silent_s'])}"
    if found["errors"]:
        yield f"errors: {found['errors']}"


def _origin(row: dict[str, Any]) -> str | None:
    attempt, step = row["resumed_from_attempt"], row["resumed_from_step"]
    return None if attempt is None else f"attempt {attempt}, step {shown(step)}"
