"""Lists the processes of a run: for each rank of each attempt, its process and how that ended."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import END_STATUSES
from ..parquet.columns import STREAMS
from ..store.attempts import Origins, origin_of, read_claim
from ..store.files import read_file
from ..store.ledger import read_ledger
from ..store.paths import RunPaths
from ..store.processes import machine_id, process_start
from .events import is_own
from .statistics import of_ranks

if TYPE_CHECKING:
    import pyarrow as pa

    from .stream_reader import StreamReader

SILENT_AFTER_S = 60.0
"""A rank of another machine whose summary is older is silent: a live one replaces it every 10 s."""

_MOST_TELLING_FIRST = ("running", "lost", "killed", "silent", "failed", "interrupted", "unknown")


@dataclass(frozen=True)
class Process:
    """One rank of one attempt."""

    attempt: int
    rank: int
    host: str | None
    pid: int | None
    local_rank: int | None
    world_size: int | None
    started_ns: int | None
    """Nanoseconds since 1970, UTC. This and the four before it are None where its claim was removed or damaged."""
    status: str
    """`running`, `completed`, `failed`, `interrupted`, `killed` (recovered or not), `lost`; `silent`: on another
    machine, not ended, and its summary is older than a minute; `unknown`: neither its claim nor its end is left."""
    accounted: bool
    """Whether it has ended and the files are complete, its summary included."""


Told = Mapping[tuple[int, int], Mapping[str, Any]]
"""What the events of a run tell of each process: its claim, and the `status` at its end."""


def told_processes(lines: Iterable[Mapping[str, Any]]) -> Told:
    """Returns what the events tell, for a copy of a run without its private folder."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for line in lines:
        told = found.setdefault((line["attempt"], line["rank"]), {})
        if is_own(line, "attempt_start"):
            told |= {name: line.get(name) for name in ("host", "pid", "local_rank", "world_size")}
            told["claimed_ns"] = int(line["timestamp"].timestamp() * 1e6) * 1000
        elif is_own(line, "attempt_end"):
            told["status"] = line.get("status")
    return found


def read_processes(paths: RunPaths, told: Told | None = None, *, newest_only: bool = False) -> list[Process]:
    """Returns every process that claimed a rank in the run, or left records in its datasets, by attempt and rank.

    :param told: what the events tell of processes without a claim.
    :param newest_only: those of the newest attempt alone.
    :raises OSError: a file could not be read.
    """
    told = told or {}
    files, ledgers = paths.claims_of_all_ranks(), paths.ledgers_of_all_ranks()
    # If only the datasets were copied, they and the events are the only source.
    datasets = {key[:2] for stream in STREAMS for key in paths.parts_of_all_ranks(stream)}
    keys = sorted({*ledgers, *files, *datasets, *told})
    newest = {rank: attempt for attempt, rank in keys}
    if newest_only:
        keys = [key for key in keys if key[0] == keys[-1][0]]
    claims = {key: read_claim(files[key]) if key in files else dict(told.get(key, {})) for key in keys}
    here = machine_id()
    return [
        Process(
            attempt=attempt,
            rank=rank,
            host=claim.get("host"),
            pid=claim.get("pid"),
            local_rank=claim.get("local_rank"),
            world_size=claim.get("world_size"),
            started_ns=claim.get("claimed_ns"),
            status=_status(
                RunPaths(paths.log_dir, paths.name, rank),
                attempt,
                claim,
                ledgers.get((attempt, rank)),
                here,
                is_newest=newest[rank] == attempt,
            ),
            accounted=(attempt, rank) in ledgers,
        )
        for attempt, rank in keys
        for claim in [claims.get((attempt, rank), {})]
    ]


def _status(
    paths: RunPaths, attempt: int, claim: dict[str, Any], ledger: Path | None, here: str, *, is_newest: bool
) -> str:
    if ledger is not None:
        with contextlib.suppress(ValueError, FileNotFoundError):
            return read_ledger(ledger).status
    if "machine" not in claim:
        return _told_status(paths, attempt, claim)
    start = claim.get("process_start")
    # The rank's summary is that of its newest attempt.
    if claim.get("machine") == here and start:  # else it cannot be told here
        if process_start(claim.get("pid", 0)) != start:
            return "killed"
        return _training_status(paths, attempt) if is_newest else "running"
    with contextlib.suppress(FileNotFoundError):
        if is_newest and time.time() - paths.summary.stat().st_mtime < SILENT_AFTER_S:
            return _training_status(paths, attempt)
    return "silent"


def _told_status(paths: RunPaths, attempt: int, claim: Mapping[str, Any]) -> str:
    """Returns how a process without a claim ended, as its last event or its summary says."""
    status = claim.get("status")
    if status is None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            summary = json.loads(read_file(paths.summary))
            status = summary["status"] if summary["attempt"] == attempt else None
    return status if status in END_STATUSES or status == "killed" else "unknown"


def _training_status(paths: RunPaths, attempt: int) -> str:
    """Returns the status of a training whose process lives: it may have ended, and the logger be open still."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        summary = json.loads(read_file(paths.summary))
        if summary["status"] in END_STATUSES and summary["attempt"] == attempt:
            return str(summary["status"])
    return "running"


def together(statuses: list[str]) -> str:
    """Returns the status of all from that of each: the worst one, or one that still runs; "unknown" if there is no
    process."""
    if not statuses:
        return "unknown"
    return next((status for status in _MOST_TELLING_FIRST if status in statuses), "completed")


def rank_summaries(paths: RunPaths, attempt: int, ranks: list[int]) -> list[dict[str, Any]]:
    """Returns each rank's summary of the attempt, without summaries of other attempts and damaged ones."""
    found = []
    for rank in ranks:
        with contextlib.suppress(OSError, ValueError):
            summary = json.loads(read_file(RunPaths(paths.log_dir, paths.name, rank).summary))
            if isinstance(summary, dict) and summary.get("attempt") == attempt and _is_ours(summary):
                found.append({**summary, "rank": rank})
    return found


def _is_ours(summary: dict[str, Any]) -> bool:
    """Returns whether the keys that we read have the types that a session writes."""
    kinds = {"metrics": dict, "last": dict, "accounting": dict, "total_metrics": int, "total_errors": int}
    if not all(isinstance(summary.get(name), (kind, type(None))) for name, kind in kinds.items()):
        return False
    try:
        of_ranks([summary])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return isinstance(summary.get("duration_s"), (int, float, type(None)))


def process_table(run_id: str | None, processes: list[Process], reader: StreamReader, origins: Origins) -> pa.Table:
    """A row a process; see :attr:`Run.processes`."""
    import pyarrow as pa

    schema = pa.schema(
        [
            ("run_id", pa.string()),
            ("attempt", pa.int32()),
            ("rank", pa.int32()),
            ("host", pa.string()),
            ("pid", pa.int64()),
            ("local_rank", pa.int32()),
            ("world_size", pa.int32()),
            ("started", pa.timestamp("us", "UTC")),
            ("status", pa.string()),
            ("records", pa.int64()),
            ("last_step", pa.int64()),
            ("last_record", pa.timestamp("us", "UTC")),
            ("resumed_from_run_id", pa.string()),
            ("resumed_from_attempt", pa.int32()),
            ("resumed_from_step", pa.int64()),
        ]
    )
    rows = []
    for process in processes:
        extent = reader.extent(process.attempt, process.rank)
        of_attempt = origins.get(process.attempt, {})
        origin = of_attempt.get(process.rank) or origin_of(origins, process.attempt)
        started_ns = process.started_ns
        rows.append(
            {
                **vars(process),
                "run_id": run_id,
                "started": None if started_ns is None else started_ns // 1000,
                "records": extent.records,
                "last_step": extent.last_step,
                "last_record": extent.last_record,
                "resumed_from_run_id": origin.get("run_id"),
                "resumed_from_attempt": origin.get("attempt"),
                "resumed_from_step": origin.get("step"),
            }
        )
    return pa.Table.from_pylist(rows, schema)
