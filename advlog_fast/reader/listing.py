"""The runs of a directory, a row each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._attempts import read_run_id
from .._paths import RunPaths, check_run, run_names
from .._statistics import of_ranks
from .overview import rank_summaries
from .processes import Process, read_processes, together

if TYPE_CHECKING:
    import os

    import pyarrow as pa


def list_runs(log_dir: str | os.PathLike[str]) -> pa.Table:
    """The runs in a directory, a row each, the last begun first; what is cheap to tell, none of its records is read.

    `name`, `run_id`, `status` (of its newest attempt, over all ranks), `attempts` (how many), `ranks`, `hosts`,
    `started` (the newest attempt), `duration_s`, `records` (metrics, of all its ranks), `errors`, and `loss`: the mean
    over the ranks of their last, `loss_min` the least of all. The last five are null where no rank has written its
    summary yet.

    :raises RunNotFoundError: there is no such directory, or no run in it.
    """
    import pyarrow as pa

    directory = Path(log_dir)
    check_run(directory, None)
    rows = [_row(RunPaths(directory, name)) for name in run_names(directory)]
    schema = pa.schema(
        [
            ("name", pa.string()),
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


def _row(paths: RunPaths) -> dict[str, Any]:
    processes = read_processes(paths)
    newest = max((process.attempt for process in processes), default=0)
    now = [process for process in processes if process.attempt == newest]
    summaries = rank_summaries(paths, newest, [process.rank for process in now])
    started_ns = [process.started_ns for process in now if process.started_ns is not None]
    row: dict[str, Any] = {
        "name": paths.name,
        "run_id": read_run_id(paths),
        "status": together([process.status for process in now]),
        "attempts": len({process.attempt for process in processes}),
        "ranks": len(now),
        "hosts": _hosts(now),
        "started": min(started_ns) // 1000 if started_ns else None,
    }
    if summaries:
        row |= {
            "duration_s": max(summary.get("duration_s") or 0.0 for summary in summaries),
            "records": sum(summary.get("total_metrics") or 0 for summary in summaries),
            "errors": sum(summary.get("total_errors") or 0 for summary in summaries),
            "loss": _mean_of_last(summaries),
            "loss_min": _or_none(of_ranks(summaries).get("loss", {}).get("min")),
        }
    return row


def _hosts(processes: list[Process]) -> list[str]:
    return sorted({process.host for process in processes if process.host is not None})


def _mean_of_last(summaries: list[dict[str, Any]]) -> float | None:
    lasts = [last for summary in summaries if (last := (summary.get("last") or {}).get("loss")) is not None]
    return math.fsum(lasts) / len(lasts) if lasts else None


def _or_none(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
