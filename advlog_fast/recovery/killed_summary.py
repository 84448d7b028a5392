"""Writes the summary of a killed attempt: its last summary, corrected from its files."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from typing import Any

from ..control.summaries import duration_text, write_summary
from ..control.text import time_text
from ..parquet.columns import columns_schema
from ..parquet.part_reader import flattened_batches, part_metrics
from ..reader.events import is_own
from ..reader.lines import json_object, moment
from ..reader.statistics import merged, statistics_of
from ..records import CORE_METRICS, INTEGER_COLUMNS, UNRESOLVED
from ..store.files import read_file, read_lines
from ..store.ledger import Ledger
from ..store.paths import RunPaths
from ..store.rotated_files import rotated_files


def write_killed_summary(paths: RunPaths, attempt: int, ledger: Ledger | None, detail: str = "") -> None:
    """Replaces the rank's summary by one of status "killed", unless a later attempt has written its own.

    :param ledger: the recovery's counts; None if the ring was lost.
    """
    summary = _last_summary(paths)
    if summary.get("attempt", attempt) != attempt:
        return
    ended = summary.get("status") in ("completed", "failed", "interrupted")
    status = summary["status"] if ended else "killed"
    summary |= {"experiment": paths.name, "attempt": attempt, "rank": paths.rank, "status": status}
    errors = summary.get("total_errors")
    summary["total_errors"] = max(_errors(paths, attempt), errors if isinstance(errors, int) else 0)
    if ledger is not None:
        metrics = [sink.accepted for name, sink in ledger.sinks.items() if name.startswith("metrics_")]
        summary["total_metrics"] = max(metrics, default=summary.get("total_metrics"))
        summary["pending"] = 0
        summary["accounting"] = ledger.as_dict()
    if detail:
        summary["recovery"] = detail
    unresolved: Counter[str] = Counter()
    summary |= _from_parts(paths, attempt, summary.get("metrics") or {}, unresolved)
    if ledger is not None:
        summary["accounting"]["unresolved"] = {reason: unresolved[reason] for reason in UNRESOLVED[1:]}
    summary |= _duration(summary.get("started_at"), summary.get("ended_at"))
    for name in ("loss_stats", "accuracy_stats"):
        summary.setdefault(name, dict.fromkeys(("min", "max", "mean", "std")))
    write_summary(paths.summary, summary, paths.temporary)


def _duration(started_at: Any, ended_at: Any) -> dict[str, Any]:
    """Returns the time from the start to the last record; empty if either is not known."""
    try:
        seconds = (moment(ended_at) - moment(started_at)).total_seconds()
    except (AttributeError, ValueError):
        return {}
    return {"duration_s": seconds, "training_duration": duration_text(int(seconds))}


def _last_summary(paths: RunPaths) -> dict[str, Any]:
    """Returns the content of the summary; empty if it is missing or no JSON object."""
    try:
        summary = json.loads(read_file(paths.summary))
    except (OSError, ValueError, RecursionError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _errors(paths: RunPaths, attempt: int) -> int:
    """Counts the errors among the events of the attempt."""
    count = 0
    for file in (*rotated_files(paths.events_jsonl), paths.events_jsonl):
        with contextlib.suppress(OSError):
            for line in read_lines(file):
                if b'"event":"error"' in line:  # few are parsed
                    with contextlib.suppress(ValueError):
                        event = json_object(line, "")
                        count += is_own(event, "error") and (event["attempt"], event["rank"]) == (attempt, paths.rank)
    return count


def _from_parts(paths: RunPaths, attempt: int, before: dict[str, Any], unresolved: Counter[str]) -> dict[str, Any]:
    """Returns the statistics of every metric and the last record, from the sealed parts; empty if there are none.

    :param before: the metrics of the last summary: only they say where a metric first was not finite.
    :param unresolved: receives the counts of unresolved values, by reason.
    """
    import pyarrow as pa

    statistics: dict[str, list[dict[str, Any]]] = {}
    last: dict[str, Any] = {}
    try:
        # One file at a time instead of a dataset, since other ranks' parts come and go.
        for file in sorted(paths.part("metrics", attempt, 1).parent.glob(f"rank{paths.rank:05d}-*.parquet")):
            metrics = part_metrics(file)
            names = (*CORE_METRICS, *metrics)
            wanted = ("timestamp", *INTEGER_COLUMNS, *names, "unresolved")
            fields = [field for field in columns_schema("metrics", metrics) if field.name in wanted]
            for batch in flattened_batches(file, pa.schema(fields)):
                for name in names:
                    statistics.setdefault(name, []).append(statistics_of(batch.column(name)))
                last |= _last_values(batch)
                if batch.column("unresolved").null_count < batch.num_rows:
                    rows = batch.column("unresolved").drop_null().to_pylist()
                    unresolved.update(reason for row in rows for _, reason in row)
    except OSError:
        return {}
    if not last:
        return {}
    totals = {name: {**(before.get(name) or {}), **merged(each)} for name, each in statistics.items() if name in last}
    summary: dict[str, Any] = {
        "ended_at": last["timestamp"],
        "last": last,
        "metrics": {name: {**each, "last": last[name]} for name, each in totals.items()},
    }
    for name in ("loss", "accuracy"):
        summary[f"{name}_stats"] = {key: totals.get(name, {}).get(key) for key in ("min", "max", "mean", "std")}
    return summary


def _last_values(batch: Any) -> dict[str, Any]:
    """Returns the last value of each metric that has one, and the integers and the time of the last record."""
    values: dict[str, Any] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name == "timestamp":
            values[name] = time_text(column[-1].value * 1000)
        elif name in INTEGER_COLUMNS:
            values[name] = column[-1].as_py()
        elif name != "unresolved" and len(valid := column.drop_null()):
            values[name] = valid[-1].as_py()
    return values
