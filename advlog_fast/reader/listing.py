"""Lists the runs of a directory, one row for each."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..store.attempts import read_claim
from ..store.paths import RunPaths, run_names
from .events import event_lines, is_own
from .lineage import chosen, origins_of, run_id_of
from .places import located
from .processes import Process, rank_summaries, read_processes, together
from .select import rank_batches
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import os

    import pyarrow as pa


def list_runs(log_dir: str | os.PathLike[str], *, metric: str = "loss") -> pa.Table:
    """List the runs in a directory, one row for each, the latest first. Of ended runs it reads no records, but those of
    the attempts that a resumed one went on from.

    The columns: `name`, its `group` and `tags`, `run_id`, `status` (of the newest attempt, over all ranks;
    `unreadable` where its files are damaged: `advlog show` says how), the number of `attempts`; of the newest attempt:
    `ranks`, `hosts`, `started`, `errors`, `batches_per_s` (of rank 0); of it and the attempts that it resumed from, as
    far as they are shown: `duration_s` (so far), `records` (metrics records of all ranks), `loss` (the mean of the
    ranks' last losses) and `loss_min` (the lowest of all). What comes from the ranks' summaries, a live rank replaces
    every 10 s.

    :param log_dir: a directory, or the URL of an `advlog mirror`, from which it downloads what it reads.
    :param metric: the metric in place of the loss; its columns have its name, and `_min` behind it, and `metrics/`
        before it where a column is called so.
    :raises RunNotFoundError: there is no such directory, or no run in it.

    >>> list_runs("logs").select(["name", "attempts", "ranks"]).to_pylist()
    [{'name': 'run', 'attempts': 1, 'ranks': 1}]
    """
    directory, view = located(log_dir)
    found = listed(directory, run_names(directory), metric)
    del view  # only now: the folder goes with it
    return found


def listed(directory: Path, names: Iterable[str], metric: str = "loss") -> pa.Table:
    """Returns the rows of :func:`list_runs` of some runs."""
    import pyarrow as pa

    fields = [
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
        ("batches_per_s", pa.float64()),
    ]
    own = {name for name, _ in fields}
    last = f"metrics/{metric}" if metric in own or f"{metric}_min" in own else metric
    schema = pa.schema([*fields, (last, pa.float64()), (f"{last}_min", pa.float64())])
    rows = []
    for name in names:
        row = _row_or_name(RunPaths(directory, name), metric)
        rows.append({**row, last: row.get("last"), f"{last}_min": row.get("lowest")})
    return pa.Table.from_pylist(rows, schema).sort_by([("started", "descending"), ("name", "ascending")])


def _row_or_name(paths: RunPaths, metric: str) -> dict[str, Any]:
    try:
        return _row(paths, metric)
    except Exception:  # noqa: BLE001 - one run whose files are damaged must not hide the others
        return {"name": paths.name, "status": "unreadable", "attempts": 0, "ranks": 0}


def _row(paths: RunPaths, metric: str) -> dict[str, Any]:
    now = read_processes(paths, newest_only=True)
    newest = now[0].attempt if now else 0
    attempts = sorted({attempt for attempt, _ in paths.claims_of_all_ranks()} | ({newest} if now else set()))
    if not paths.private.is_dir():
        attempts = sorted({line["attempt"] for line in event_lines(paths)}.union(attempts))
    summaries = rank_summaries(paths, newest, [process.rank for process in now])
    started_ns = min((process.started_ns for process in now if process.started_ns is not None), default=None)
    first = summaries[0] if summaries else {}
    row: dict[str, Any] = {
        "name": paths.name,
        "group": first.get("group"),
        "tags": first.get("tags") or [],
        "run_id": run_id_of(paths, lambda: event_lines(paths)),
        "status": together([process.status for process in now]),
        "attempts": len(attempts),
        "ranks": len(now),
        "hosts": _hosts(now),
        "started": None if started_ns is None else started_ns // 1000,
        "batches_per_s": (first.get("performance") or {}).get("batches_per_s"),
    }
    ended = all(process.accounted for process in now)
    reader = None
    if not ended:
        reader = StreamReader(paths, "metrics")
        row |= _progress(reader, newest, row["status"], started_ns)
    elif summaries:
        row["duration_s"] = max(summary.get("duration_s") or 0.0 for summary in summaries)
        row["records"] = sum(summary.get("total_metrics") or 0 for summary in summaries)
    if reader is None or any(summary.get("total_metrics") for summary in summaries):
        row["errors"] = sum(summary.get("total_errors") or 0 for summary in summaries)
        row["last"] = _mean_of_last(summaries, metric)
        row["lowest"] = min(_of_metric(summaries, metric, "min"), default=None)
    else:  # younger than its first summary with records
        row |= _young(paths, reader, newest, metric)
    return _with_lineage(row, paths, attempts, newest, metric)


def _progress(reader: StreamReader, attempt: int, status: str, started_ns: int | None) -> dict[str, Any]:
    """Returns the progress of an attempt with ranks that have not ended properly, from its files, since summaries
    lag."""
    extents = [reader.extent(attempt, rank) for rank in reader.ranks(attempt)]
    lasts = [extent.last_record.timestamp() for extent in extents if extent.last_record is not None]
    until_s = time.time() if status == "running" else max(lasts, default=None)
    found: dict[str, Any] = {"records": sum(extent.records for extent in extents)}
    if started_ns is not None and until_s is not None:
        found["duration_s"] = max(until_s - started_ns / 1e9, 0.0)
    return found


def _young(paths: RunPaths, reader: StreamReader, attempt: int, metric: str) -> dict[str, Any]:
    """The values of an attempt that no summary tells yet."""
    lasts, lows = [], []
    for rank in reader.ranks(attempt):
        last, lowest = None, None
        for key in reader.keys_of[attempt, rank]:
            for batch in reader.batches(key, reader.fields([metric])):
                last, lowest = _ends(batch.column(0), last, lowest)
        if last is not None:
            lasts.append(last)
        if lowest is not None:
            lows.append(lowest)
    errors = sum(is_own(line, "error") and line["attempt"] == attempt for line in event_lines(paths))
    return {"errors": errors, "last": _mean(lasts), "lowest": min(lows, default=None)}


def _ends(column: Any, last: float | None, lowest: float | None) -> tuple[float | None, float | None]:
    """The last value, and the lowest finite one, with those that came before."""
    import pyarrow.compute as pc

    values = column.drop_null()
    if not len(values):
        return last, lowest
    found = pc.min(values.filter(pc.is_finite(values))).as_py()
    return values[-1].as_py(), lowest if found is None else found if lowest is None else min(lowest, found)


def _with_lineage(
    row: dict[str, Any], paths: RunPaths, attempts: list[int], newest: int, metric: str
) -> dict[str, Any]:
    """Adds what the attempts before tell, as far as the newest goes on from them."""
    origins = origins_of(paths, lambda: event_lines(paths))
    lineage = chosen("chain", attempts, set(attempts), origins, row["run_id"])
    before = [attempt for attempt in lineage.cuts if attempt != newest]
    if newest not in lineage or not before:
        return row
    reader = StreamReader(paths, "metrics")
    records, lows, seconds = 0, [] if row.get("lowest") is None else [row["lowest"]], 0.0
    claims = paths.claims_of_all_ranks()
    for attempt in sorted(before, reverse=True):
        cut, starts, lasts = lineage.cuts[attempt], [], []
        for rank in reader.ranks(attempt):
            last, lowest = None, None
            for batch in rank_batches(reader, lineage, (attempt, rank), reader.fields([metric])):
                records += batch.num_rows
                last, lowest = _ends(batch.column(0), last, lowest)
            lows += [] if lowest is None else [lowest]
            lasts += [] if last is None else [last]
            if (attempt, rank) in claims:
                starts.append(read_claim(claims[attempt, rank]).get("claimed_ns"))
        if row.get("last") is None:
            row["last"] = _mean(lasts)
        told = [start for start in starts if isinstance(start, int)]
        if cut is not None and cut.duration_s is not None:
            seconds += cut.duration_s
        elif told and cut is not None:
            seconds += max(cut.time.timestamp() - min(told) / 1e9, 0.0)
    row["records"] = (row.get("records") or 0) + records
    row["duration_s"] = (row.get("duration_s") or 0.0) + seconds
    row["lowest"] = min(lows, default=None)
    return row


def _hosts(processes: list[Process]) -> list[str]:
    return sorted({process.host for process in processes if process.host is not None})


def _mean_of_last(summaries: list[dict[str, Any]], metric: str) -> float | None:
    """NaN where a rank's last is not finite, which a summary has as null."""
    lasts = [summary["last"].get(metric) for summary in summaries if metric in (summary.get("last") or {})]
    return _mean([math.nan if last is None else last for last in lasts])


def _mean(values: list[float]) -> float | None:
    # Each divided first: the sum of two that have diverged may be no float.
    return math.fsum(value / len(values) for value in values) if values else None


def _of_metric(summaries: list[dict[str, Any]], metric: str, name: str) -> list[float]:
    told = [(summary.get("metrics") or {}).get(metric, {}).get(name) for summary in summaries]
    return [value for value in told if value is not None]
