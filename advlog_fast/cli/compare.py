"""`advlog compare DIR A B`: what two runs have in common, where they differ, and from which step on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..exceptions import RunNotFoundError
from ..reader import compare, read_run
from ..reader.comparing import first_difference
from ..reader.run import Run
from ..reader.story import changes
from .table import aligned, say, shown

HELP = "compare two runs: settings, last and lowest values, the first step at which they differ"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs, or the URL of a mirror")
    parser.add_argument("names", metavar="NAME", nargs=2, help="the runs' names")
    parser.add_argument("--metric", default="loss", help="the metric to compare (loss)")
    parser.add_argument("--svg", metavar="FILE", help="draw both into this file")
    parser.add_argument("--json", action="store_true", help="as a JSON object")


def run(args: argparse.Namespace) -> int:
    """Return 0: compared; 1: the drawing cannot be written; 2: no such run or metric."""
    try:
        one, other = (read_run(args.log_dir, name) for name in args.names)
        found = _compared(one, other, args.metric)
        drawn = compare([one, other], args.metric).svg() if args.svg else None
    except (RunNotFoundError, ValueError) as error:
        say(f"advlog compare: {error}", sys.stderr)
        return 2
    if args.json:
        print(json.dumps(found, indent=2, default=str))
    else:
        for line in _lines(found):
            say(line)
    if drawn is not None:
        try:
            Path(args.svg).write_text(drawn, encoding="utf-8")
        except OSError as error:
            say(f"advlog compare: {error}", sys.stderr)
            return 1
    return 0


def _compared(one: Run, other: Run, metric: str) -> dict[str, Any]:
    runs = {each.name: each for each in (one, other)}
    told = {name: each.told() for name, each in runs.items()}
    configs = [each["config"] for each in told.values()]
    first = first_difference(one, other, metric)
    return {
        "metric": metric,
        "runs": {
            name: {
                "status": each["status"],
                "records": each["records"],
                "last": (each["metrics"].get(metric) or {}).get("last"),
                "lowest": (each["metrics"].get(metric) or {}).get("min"),
                "errors": each["errors"],
            }
            for name, each in told.items()
        },
        "settings": {name: list(pair) for name, pair in changes(*configs).items()} if len(configs) == 2 else {},
        "first_difference": None
        if first is None
        else {"step": first.step, "rank": first.rank, "values": list(first.values)},
    }


def _lines(found: dict[str, Any]) -> Iterator[str]:
    rows = [[name, *each.values()] for name, each in found["runs"].items()]
    metric = found["metric"]
    yield from aligned(("run", "status", "records", f"{metric}, last", "lowest", "errors"), rows)
    yield ""
    if found["settings"]:
        yield from aligned(
            ("setting", *found["runs"]), [[name, *map(shown, pair)] for name, pair in found["settings"].items()]
        )
    else:
        yield "their settings are the same"
    first = found["first_difference"]
    if first is None:
        yield f"{metric} is the same at every step that both have"
    else:
        values = " and ".join(shown(value) for value in first["values"])
        yield f"{metric} differs first at step {first['step']:,} of rank {first['rank']}: {values}"
