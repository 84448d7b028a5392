"""`advlog show DIR NAME`: one run over all of its ranks."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
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
    now = datetime.now(timezone.utc)
    yield f"{found['name']}: {found['status']}, run {found['run_id']}"
    yield ""
    for row in found["attempts"]:
        row["ranks"] = _ranks(row)
    columns = ("attempt", "status", "ranks", "hosts", "started", "last_record", "records", "errors")
    rows = [[*(row[name] for name in columns), _origin(row, found)] for row in found["attempts"]]
    yield from aligned((*columns[:4], "started (UTC)", "last record", *columns[6:], "resumed from"), rows)
    yield ""
    yield from _steps(found)
    yield from _trouble(found)
    newest = f"attempt {found['attempts'][-1]['attempt']}" if found["attempts"] else "no attempt"
    if found["ranks"]:
        yield ""
        yield f"{newest}, its ranks:"
        rows = [
            [*(row[name] for name in ("rank", "host", "pid", "status", "records", "last_step")), _since(row, now)]
            for row in found["ranks"][:_RANKS_SHOWN]
        ]
        yield from aligned(("rank", "host", "pid", "status", "records", "last step", "last record"), rows)
    if len(found["ranks"]) > _RANKS_SHOWN:
        yield f"and {len(found['ranks']) - _RANKS_SHOWN} more ranks (--json has all)"
    if found["metrics"]:
        yield ""
        yield f"{newest}, its metrics over all ranks:"
        names = ("count", "mean", "std", "min", "max", "nan")
        rows = [[name, *(told[key] for key in names)] for name, told in found["metrics"].items()]
        yield from aligned(("metric", *names), rows)


def _steps(found: dict[str, Any]) -> Iterator[str]:
    if found["loss"]:
        ends = {name: end for name, end in found["loss"].items() if end is not None}
        told = ", ".join(f"{name} {end['mean']:.4g} at step {end['step']}" for name, end in ends.items())
        yield f"loss, mean over the ranks: {told}"
    for times in found["step_times"]:
        numbers = " / ".join(duration(times[name]) for name in ("min_s", "mean_s", "max_s"))
        skew = f", skew {times['skew']:.3f}" if len(times["ranks"]) > 1 else ""
        yield f"{times['metric']} over {times['steps']} steps, min / mean / max: {numbers}{skew}"
    if found["records"] and not any(row["last_step"] is not None for row in found["ranks"]):
        yield "no record has a step: give total_batches, or step"


def _trouble(found: dict[str, Any]) -> Iterator[str]:
    for each in found["stragglers"]:
        yield (
            f"slow: rank {each['rank']}, {each['ratio']:.2f} times the others' {each['metric']}, "
            f"{duration(each['excess_s'])} more a step, slowest at {each['slowest_share']:.0%} of the steps"
        )
    for name, told in found["metrics"].items():
        if first := told["first_nonfinite"]:
            count = told["nan"] + told["posinf"] + told["neginf"]
            yield f"not finite: {name}, {count} values, first at step {shown(first['step'])} of rank {first['rank']}"
    if found["missing"]:
        yield f"never came: ranks {', '.join(map(str, found['missing']))}"
    for each in found["stopped_early"]:
        yield (
            f"stopped early: rank {each['rank']} ({each['status']}) "
            f"at step {each['last_step']}, others at {each['furthest_step']}"
        )
    for each in found["silent"]:
        yield f"silent: rank {each['rank']} on {each['host']}, for {duration(each['silent_s'])}"
    if found["unresolved"]:
        told = ", ".join(f"{count} by {reason}" for reason, count in found["unresolved"].items())
        yield f"values that never came from a GPU: {told}"
    if found["errors"]:
        yield f"errors: {found['errors']}"


def _ranks(row: dict[str, Any]) -> str:
    world_size = row["world_size"]
    return str(row["ranks"]) if world_size in (None, row["ranks"]) else f"{row['ranks']} of {world_size}"


def _since(row: dict[str, Any], now: datetime) -> str:
    """When a rank logged last and, while it runs, how long ago."""
    ago = row["status"] == "running" and row["last_record"] is not None
    return shown(row["last_record"]) + (f" ({duration((now - row['last_record']).total_seconds())} ago)" if ago else "")


def _origin(row: dict[str, Any], found: dict[str, Any]) -> str | None:
    attempt, step = row["resumed_from_attempt"], row["resumed_from_step"]
    if attempt is None:
        return None
    other = "" if row["resumed_from_run_id"] == found["run_id"] else f"run {row['resumed_from_run_id']}, "
    return f"{other}attempt {attempt}, step {shown(step)}"
