"""`advlog show DIR NAME`: show one run over all of its ranks."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from itertools import pairwise
from typing import Any

from ..exceptions import RunNotFoundError
from ..reader import list_runs, read_run
from ..reader.story import changes, settings_of
from ..store.paths import check_run, is_url, local_path, run_names
from .table import aligned, duration, say, shown

HELP = "show a run over all of its ranks: their progress, step times and stragglers"

_RANKS_SHOWN = 16
_LOST = {"full": "refused by a full ring", "closed": "after the close", "forked": "in a child"}
_MOST_SHOWN = 400
"""Characters of a message, or of a list of settings or values."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("log_dir", metavar="DIR", help="the directory of the runs, or the URL of a mirror")
    parser.add_argument("name", metavar="NAME", nargs="?", help="the run's name; the only run in DIR needs none")
    parser.add_argument("--json", action="store_true", help="everything, as a JSON object")
    parser.add_argument(
        "--attempts",
        choices=("chain", "latest", "all"),
        default="chain",
        help="which attempts to show: the newest and those it was resumed from (chain, the default), the newest alone "
        "(latest), or all",
    )
    parser.add_argument(
        "--ratio", type=float, default=1.1, help="a slow rank takes this many times as long as the others (1.1)"
    )


def run(args: argparse.Namespace) -> int:
    """Return 0: run shown; 2: no such run."""
    try:
        name = args.name or only_run(args.log_dir)
        overview = read_run(args.log_dir, name, attempts=args.attempts).overview(args.ratio)
        overview["run_before"] = None
        if len(overview["attempts"]) == 1:
            overview["run_before"] = _changes_since_run_before(args.log_dir, name, overview)
    except RunNotFoundError as error:
        say(f"advlog show: {error}", sys.stderr)
        return 2
    if args.json:
        print(json.dumps(_plain(overview), indent=2, allow_nan=False))
    else:
        for line in _lines(overview, chain=args.attempts == "chain"):
            say(line)
    return 0


def only_run(log_dir: str) -> str:
    """:raises RunNotFoundError: there is none, or more than one; the message lists them."""
    if is_url(log_dir):
        names: list[str] = sorted(list_runs(log_dir)["name"].to_pylist())
    else:
        directory = local_path("log_dir", log_dir)
        check_run(directory, None)
        names = run_names(directory)
    if len(names) > 1:
        raise RunNotFoundError(
            f"NAME: expected one of the runs in {log_dir!r}, got none; its runs are {', '.join(names)}"
        )
    return names[0]


def _changes_since_run_before(log_dir: str, name: str, overview: dict[str, Any]) -> dict[str, Any] | None:
    """The name of the run of this directory that started before, and the settings that have changed since."""
    started = overview["attempts"][0]["started"]
    rows = list_runs(log_dir).to_pylist()
    others = [row for row in rows if row["name"] != name and row["started"] and started and row["started"] < started]
    if not others or not overview["config"]:
        return None
    other = others[0]["name"]  # the latest first
    try:
        config = read_run(log_dir, other).summary.get("config")
    except (OSError, ValueError):  # the files of another run are damaged
        return None
    if not isinstance(config, dict) or not config:
        return None
    return {"name": other, "changes": changes(config, overview["config"])}


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


def _lines(overview: dict[str, Any], *, chain: bool) -> Iterator[str]:
    now = datetime.now(timezone.utc)
    yield f"{overview['name']}: {overview['status']}, run {overview['run_id']}"
    yield ""
    for row in overview["attempts"]:
        row["ranks"] = _ranks(row)
    columns = ("attempt", "status", "ranks", "hosts", "started", "last_record", "records", "errors")
    rows = [[*(row[name] for name in columns), _origin(row, overview)] for row in overview["attempts"]]
    yield from aligned((*columns[:4], "started (UTC)", "last record", *columns[6:], "resumed from"), rows)
    yield ""
    if not overview["private_folder"]:
        yield "a copy without .advlog: what was lost, and how a process without an end ended, cannot be told"
    yield from _steps(overview)
    yield from _validations(overview)
    if chain:
        yield from _left_out(overview)
    yield from _trouble(overview)
    yield from _configuration(overview)
    newest = f"attempt {overview['attempts'][-1]['attempt']}" if overview["attempts"] else "no attempt"
    if overview["ranks"]:
        yield ""
        yield f"{newest}, its ranks:"
        rows = [
            [*(row[name] for name in ("rank", "host", "pid", "status", "records", "last_step")), _since(row, now)]
            for row in overview["ranks"][:_RANKS_SHOWN]
        ]
        yield from aligned(("rank", "host", "pid", "status", "records", "last step", "last record"), rows)
    if len(overview["ranks"]) > _RANKS_SHOWN:
        yield f"and {len(overview['ranks']) - _RANKS_SHOWN} more ranks (--json has all)"
    if overview["metrics"]:
        yield ""
        yield f"{newest}, its metrics over all ranks:"
        names = ("last", "count", "mean", "std", "min", "max", "nan")
        rows = [[name, *(statistics[key] for key in names)] for name, statistics in overview["metrics"].items()]
        yield from aligned(("metric", *names), rows)


def _steps(overview: dict[str, Any]) -> Iterator[str]:
    if overview["loss"]:
        ends = {name: end for name, end in overview["loss"].items() if end is not None}
        losses = ", ".join(f"{name} {end['mean']:.4g} at step {end['step']}" for name, end in ends.items())
        yield f"loss, mean over the ranks: {losses}"
    if overview["rates"]:
        words = {"batches_per_s": "batches/s", "samples_per_s": "samples/s", "tokens_per_s": "tokens/s"}
        rates = [f"{overview['rates'][name]:.4g} {word}" for name, word in words.items() if name in overview["rates"]]
        within = overview["shown_attempts"]
        of = [f"attempt {within[-1]}"] if len(within) > 1 else []
        of += ["rank 0"] if len(overview["ranks"]) > 1 else []
        yield ", ".join([*rates, *([f"of {', '.join(of)}"] if of else [])])
    for times in overview["step_times"]:
        numbers = " / ".join(duration(times[name]) for name in ("min_s", "mean_s", "max_s"))
        skew = f", skew {times['skew']:.3f}" if len(times["ranks"]) > 1 else ""
        name = "time between records" if times["metric"] == "step_interval" else times["metric"]
        yield f"{name} over {times['steps']} steps, min / mean / max: {numbers}{skew}"
    if overview["records"] and not any(row["last_step"] is not None for row in overview["ranks"]):
        yield "no record has a step: pass total_batches= or step="


def _validations(overview: dict[str, Any]) -> Iterator[str]:
    best, last = overview["best"], overview["validation"]
    if best is not None:
        by = f"{best['metric']} {shown(best['value'])}" if best["metric"] is not None else "as the program said"
        yield f"best validation: {by}{_place(best)}: {_values(best['metrics'])}"
    if last is not None:
        of = f" of {last['name']}" if last["name"] else ""
        yield f"last validation{of}{_place(last)}: {_values(last['metrics'])}"


def _place(validation: dict[str, Any]) -> str:
    found = [f"{name} {validation[name]}" for name in ("epoch", "step") if validation.get(name) is not None]
    return f" at {', '.join(found)}" if found else ""


def _values(metrics: dict[str, Any]) -> str:
    return _clipped(" ".join(f"{name}={_quoted(value)}" for name, value in metrics.items()))


def _quoted(value: Any) -> str:
    """A setting as text; one that would run into the next is quoted."""
    text = shown(value)
    return json.dumps(text, ensure_ascii=False) if not text or re.search(r"[\s,=]", text) else text


def _configuration(overview: dict[str, Any]) -> Iterator[str]:
    if overview["config"]:
        yield f"configuration: {_values(settings_of(overview['config']))}"
    if overview["config_changes"]:
        yield f"changed since the attempt before: {_clipped(_told(overview['config_changes']))}"
    before = overview["run_before"]
    if before is not None and before["changes"]:
        yield f"changed since run {before['name']}: {_clipped(_told(before['changes']))}"


def _told(changed: dict[str, tuple[Any, Any]]) -> str:
    return ", ".join(f"{name} {_quoted(was)} -> {_quoted(now)}" for name, (was, now) in changed.items())


def _clipped(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def _left_out(overview: dict[str, Any]) -> Iterator[str]:
    """A forgotten `load_state_dict` halves the curve: it is said."""
    within = overview["shown_attempts"]
    others = [row["attempt"] for row in overview["attempts"] if row["records"] and row["attempt"] not in within]
    if others and within:
        before = [attempt for attempt in others if attempt < within[0]]
        why = [f"attempt {within[0]} is not marked as resumed (load_state_dict)"] if before else []
        for attempt, after in pairwise(within):
            if any(attempt < other < after for other in others):
                why.append(f"attempt {after} was resumed from attempt {attempt}")
        numbers = ", ".join(map(str, others))
        yield f"not in these numbers: attempt {numbers}; {'; '.join(why)}; --attempts all shows every one"


def _trouble(overview: dict[str, Any]) -> Iterator[str]:
    for each in overview["stragglers"]:
        yield (
            f"slow: rank {each['rank']}, {each['ratio']:.2f} times the others' {each['metric']}, "
            f"{duration(each['excess_s'])} more a step, slowest at {each['slowest_share']:.0%} of the steps"
        )
    for name, statistics in overview["metrics"].items():
        if first := statistics["first_nonfinite"]:
            count = statistics["nan"] + statistics["posinf"] + statistics["neginf"]
            yield f"not finite: {name}, {count} values, first at step {shown(first['step'])} of rank {first['rank']}"
    if overview["missing"]:
        yield _clipped(f"never came: ranks {', '.join(map(str, overview['missing']))}")
        if overview["ranks"] and [row["rank"] for row in overview["ranks"]] == [0]:
            yield "if rank 0 alone is meant to log: AdvancedLogger(rank=0, world_size=1)"
    for each in overview["stopped_early"]:
        yield (
            f"stopped early: rank {each['rank']} ({each['status']}) "
            f"at step {each['last_step']}, others at {each['furthest_step']}"
        )
    for each in overview["silent"]:
        yield f"silent: rank {each['rank']} on {each['host']}, for {duration(each['silent_s'])}"
    if overview["not_recovered"]:
        ranks = _clipped(", ".join(map(str, overview["not_recovered"])))
        yield f"killed and not recovered yet: ranks {ranks}; `advlog recover DIR` completes their files and summaries"
    yield from _counted(overview)
    for note in overview["notes"]:
        fields = _clipped(" ".join(f"{name}={shown(value)}" for name, value in note["fields"].items()))
        yield f"{note['event']}: {fields} (attempt {note['attempt']}, rank {note['rank']})"
    if overview["errors"]:
        yield f"errors: {overview['errors']}"
    for error in overview["last_errors"]:
        where = f"attempt {error['attempt']}, rank {error['rank']}"
        if error["operation"]:
            where += f", in {shown(error['operation'])}"
        yield f"  {shown(error['type'])}: {_clipped(shown(error['message']))} ({where})"


def _counted(overview: dict[str, Any]) -> Iterator[str]:
    """What is known by its count alone."""
    if overview["lost"]:
        counts = ", ".join(f"{count} {_LOST.get(reason, reason)}" for reason, count in overview["lost"].items())
        yield f"records that are in no file: {counts} (`advlog verify DIR` has each)"
    if overview["unresolved"]:
        counts = ", ".join(f"{count} by {reason}" for reason, count in overview["unresolved"].items())
        yield f"values that never came from a GPU: {counts}"
    if overview["hook_faults"]:
        counts = ", ".join(f"{hook} {count}" for hook, count in overview["hook_faults"].items())
        yield f"faults of the integration, by hook: {counts} (the errors have each)"


def _ranks(row: dict[str, Any]) -> str:
    world_size = row["world_size"]
    return str(row["ranks"]) if world_size in (None, row["ranks"]) else f"{row['ranks']} of {world_size}"


def _since(row: dict[str, Any], now: datetime) -> str:
    """Return when a rank last logged a record and, if it is running, how long ago."""
    last = row["last_record"]
    age = f" ({duration((now - last).total_seconds())} ago)" if row["status"] == "running" and last is not None else ""
    return shown(last) + age


def _origin(row: dict[str, Any], overview: dict[str, Any]) -> str | None:
    attempt, step = row["resumed_from_attempt"], row["resumed_from_step"]
    if attempt is None:
        return None
    other = "" if row["resumed_from_run_id"] == overview["run_id"] else f"run {row['resumed_from_run_id']}, "
    return f"{other}attempt {attempt}, step {shown(step)}"
