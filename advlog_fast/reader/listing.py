"""Lists the runs of a directory, one row for each."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from ..store.attempts import read_run_id
from ..store.paths import RunPaths, check_run, local_path, run_names
from .processes import Process, rank_summaries, read_processes, together
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import os

    import pyarrow as pa


def list_runs(log_dir: str | os.PathLike[str]) -> pa.Table:
    """List the runs in a directory, one row for each, the latest first; of ended runs it reads no records.

    The columns: `name`, its `group` and `tags`, `run_id`, `status` (of the newest attempt, over all ranks;
    `unreadable` where its files are damaged: `advlog show` says how), the number of `attempts`, and of the newest
    attempt: `ranks`, `hosts`, `started`, `duration_s` (so far), `records` (metrics records of all ranks), `errors`,
    `loss` (the mean of the ranks' last losses) and `loss_min` (the lowest of all). The last three come from the ranks'
    summaries, which a live rank replaces every 10 s; they are null if there is no summary yet.

    :raises RunNotFoundError: there is no such directory, or no run in it.

    >>> list_runs("logs").select(["name", "attempts", "ranks"]).to_pylist()
    [{'name': 'run', 'attempts': 1, 'ranks': 1}]
    """
    import pyarrow as pa

    directory = local_path("log_dir", log_dir)
    check_run(directory, None)
    rows = [_row_or_name(RunPaths(directory, name)) for name in run_names(directory)]
    schema = pa.schema(
        [
            ("name", pa.string()),
            ("group", pa.string()),
            ("tags", pa.list_(pa.string())),
            ("run_id", pa.string()),
            ("status", pa.string()),
            ("attempts", pa.int32()),
            ("ranks", pa.int32()),
            ("hosts", pa.list_(pa.string())),
            ("started", pa.timestamp("us", "UTC")),
            ("duration_s", pa.float64()),
            ("records", pa.int64()),
            ("errors", pa.int64()),
            ("loss", pa.float64()),
            ("loss_min", pa.float64()),
        ]
    )
    return pa.Table.from_pylist(rows, schema).sort_by([("started", "descending"), ("name", "ascending")])


def _row_or_name(paths: RunPaths) -> dict[str, Any]:
    try:
        return _row(paths)
    except Exception:  # noqa: BLE001 - one run whose files are damaged must not hide the others
        return {"name": paths.name, "status": "unreadable", "attempts": 0, "ranks": 0}


def _row(paths: RunPaths) -> dict[str, Any]:
    now = read_processes(paths, newest_only=True)
    newest = now[0].attempt if now else 0
    summaries = rank_summaries(paths, newest, [process.rank for process in now])
    started_ns = [process.started_ns for process in now if process.started_ns is not None]
    row: dict[str, Any] = {
        "name": paths.name,
        "group": next((summary.get("group") for summary in summaries), None),
        "tags": next((summary.get("tags") for summary in summaries), None) or [],
        "run_id": read_run_id(paths),
        "status": together([process.status for process in now]),
        "attempts": len({attempt for attempt, _ in paths.claims_of_all_ranks()}),
        "ranks": len(now),
        "hosts": _hosts(now),
        "started": min(started_ns) // 1000 if started_ns else None,
    }
    if not all(process.accounted for process in now):
        row |= _so_far(paths, newest, row["status"], min(started_ns, default=None))
    elif summaries:
        row["duration_s"] = max(summary.get("duration_s") or 0.0 for summary in summaries)
        row["records"] = sum(summary.get("total_metrics") or 0 for summary in summaries)
    # The first summary of a process that was killed knows nothing yet.
    if any(summary.get("total_metrics") for summary in summaries) or all(process.accounted for process in now):
        row |= {
            "errors": sum(summary.get("total_errors") or 0 for summary in summaries),
            "loss": _mean_of_last(summaries),
            "loss_min": min(_of_loss(summaries, "min"), default=None),
        }
    return row


def _so_far(paths: RunPaths, attempt: int, status: str, started_ns: int | None) -> dict[str, Any]:
    """Returns the progress of an attempt with ranks that have not ended properly, from its files, since summaries
    lag."""
    reader = StreamReader(paths, "metrics")
    extents = [reader.extent(attempt, rank) for rank in reader.ranks(attempt)]
    lasts = [extent.last_record.timestamp() for extent in extents if extent.last_record is not None]
    until_s = time.time() if status == "running" else max(lasts, default=None)
    found: dict[str, Any] = {"records": sum(extent.records for extent in extents)}
    if started_ns is not None and until_s is not None:
        found["duration_s"] = max(until_s - started_ns / 1e9, 0.0)
    return found


def _hosts(processes: list[Process]) -> list[str]:
    return sorted({process.host for process in processes if process.host is not None})


def _mean_of_last(summaries: list[dict[str, Any]]) -> float | None:
    """NaN where a rank's last is not finite, which a summary has as null."""
    lasts = [summary["last"].get("loss") for summary in summaries if "loss" in (summary.get("last") or {})]
    if not lasts:
        return None
    # Each divided first: the sum of two that have diverged may be no float.
    return math.nan if None in lasts else math.fsum(last / len(lasts) for last in lasts)


def _of_loss(summaries: list[dict[str, Any]], name: str) -> list[float]:
    told = [(summary.get("metrics") or {}).get("loss", {}).get(name) for summary in summaries]
    return [value for value in told if value is not None]
