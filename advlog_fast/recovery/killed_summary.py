"""The summary of an attempt whose process was killed: what its last one said, corrected by what its files hold."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from typing import Any

from .._accounts import Account
from .._generations import generations
from .._paths import RunPaths
from ..control.summaries import duration_text, write_summary
from ..control.text import time_text


def write_killed_summary(paths: RunPaths, attempt: int, account: Account | None, detail: str = "") -> None:
    """Replaces the rank's summary by one of status "killed", unless a later attempt has written its own.

    :param account: what the recovery counted; None where the ring was lost and nothing could be counted.
    """
    summary = _last_summary(paths)
    if summary.get("attempt", attempt) != attempt:
        return
    ended = summary.get("status") in ("completed", "failed", "interrupted")
    status = summary["status"] if ended else "killed"
    summary |= {"experiment": paths.name, "attempt": attempt, "rank": paths.rank, "status": status}
    errors = summary.get("total_errors")
    summary["total_errors"] = max(_errors(paths, attempt), errors if isinstance(errors, int) else 0)
    if account is not None:
        metrics = [sink.accepted for name, sink in account.sinks.items() if name.startswith("metrics_")]
        summary["total_metrics"] = max(metrics, default=summary.get("total_metrics"))
        summary["pending"] = 0
        summary["accounting"] = account.as_dict()
    if detail:
        summary["recovery"] = detail
    summary |= _from_parts(paths, attempt)
    summary |= _duration(summary.get("started_at"), summary.get("ended_at"))
    for name in ("loss_stats", "accuracy_stats"):
        summary.setdefault(name, dict.fromkeys(("min", "max", "mean", "std")))
    write_summary(paths.summary, summary, paths.temporary)


def _duration(started_at: object, ended_at: object) -> dict[str, Any]:
    """From the start to the last record; empty where one of them is not known."""
    try:
        seconds = (_moment(ended_at) - _moment(started_at)).total_seconds()
    except (TypeError, ValueError):
        return {}
    return {"duration_s": seconds, "training_duration": duration_text(int(seconds))}


def _moment(text: object) -> datetime:
    """:raises TypeError, ValueError: it is no time of ours."""
    return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)


def _last_summary(paths: RunPaths) -> dict[str, Any]:
    """What the file says; nothing where it is missing, or no JSON object."""
    try:
        found = json.loads(paths.summary.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _errors(paths: RunPaths, attempt: int) -> int:
    """The errors that the events of the attempt tell of."""
    count = 0
    for file in (*generations(paths.events_jsonl), paths.events_jsonl):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if '"event":"error"' in line and f'"attempt":{attempt},' in line and f'"rank":{paths.rank},' in line:
                count += 1
    return count


def _from_parts(paths: RunPaths, attempt: int) -> dict[str, Any]:
    """The guide's statistics, and the last record's time, from the sealed parts; empty where there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    folder = paths.part("metrics", attempt, 1).parent
    files = sorted(folder.glob(f"rank{paths.rank:05d}-*.parquet"))
    columns = ["timestamp", "loss", "accuracy"]
    try:
        # One file at a time, and no dataset: other ranks' parts come and go.
        tables = [pq.ParquetFile(file).read(columns=columns) for file in files]
    except (OSError, pa.ArrowInvalid):
        return {}
    if not tables:
        return {}
    table = pa.concat_tables(tables)
    found: dict[str, Any] = {"ended_at": time_text(pc.max(table["timestamp"]).value * 1000)}
    for name in ("loss", "accuracy"):
        finite = pc.filter(table[name], pc.is_finite(table[name]), null_selection_behavior="drop")
        if len(finite):
            ends = pc.min_max(finite).as_py()
            moments = {"mean": pc.mean(finite).as_py(), "std": pc.stddev(finite).as_py()}
            found[f"{name}_stats"] = {**ends, **moments}
        else:
            found[f"{name}_stats"] = dict.fromkeys(("min", "max", "mean", "std"), math.nan)
    return found
