"""Lists the processes of a run: for each rank of each attempt, its process and how that ended."""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import END_STATUSES
from ..parquet.columns import STREAMS
from ..store.attempts import read_claim, read_origins
from ..store.files import read_file
from ..store.ledger import read_ledger
from ..store.paths import RunPaths
from ..store.processes import machine_id, process_start
from .statistics import of_ranks

if TYPE_CHECKING:
    import pyarrow as pa

    from .stream_reader import StreamReader

SILENT_AFTER_S = 60.0
"""A rank of another machine whose summary is older is silent: a live one replaces it every 10 s."""

_MOST_TELLING_FIRST = ("running", "lost", "killed", "silent", "failed", "interrupted")


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
    machine, not ended, and its summary is older than a minute; `unknown`: only its records are left."""
    accounted: bool
    """Whether it has ended and the files are complete, its summary included."""


def read_processes(paths: RunPaths, *, newest_only: bool = False) -> list[Process]:
    """Returns every process that claimed a rank in the run, or left records in its datasets, by attempt and rank.

    :param newest_only: those of the newest attempt alone.
    :raises OSError: a file could not be read.
    """
    files, ledgers = paths.claims_of_all_ranks(), paths.ledgers_of_all_ranks()
    # If only the datasets were copied, they are the only source.
    datasets = {key[:2] for stream in STREAMS for key in paths.parts_of_all_ranks(stream)}
    keys = sorted({*ledgers, *files, *datasets})
    newest = {rank: attempt for attempt, rank in keys}
    if newest_only:
        keys = [key for key in keys if key[0] == keys[-1][0]]
    claims = {key: read_claim(files[key]) for key in keys if key in files}
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
    if not claim:
        return "unknown"
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


def process_table(paths: RunPaths, run_id: str | None, processes: list[Process], reader: StreamReader) -> pa.Table:
    """A row a process; see :attr:`Run.processes`."""
    import pyarrow as pa

    origins = read_origins(paths)
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
        origin = origins.get(process.attempt, {})
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
