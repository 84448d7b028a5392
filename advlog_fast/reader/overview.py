"""Summarizes a run over all of its ranks: the processes, the progress of each, the time of a step, and the slow
ranks."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..exceptions import expected
from ..parquet.part_reader import BATCH_ROWS
from ..records import TIMES
from ..store.paths import RunPaths
from .events import is_own
from .lineage import Lineage
from .processes import rank_summaries, together
from .select import rank_batches
from .sources import RankKey
from .statistics import of_ranks
from .steps import (
    INTERVAL_COLUMN,
    STEP_INTERVAL,
    Course,
    RankSteps,
    StepTimes,
    Straggler,
    find_stragglers,
    rows_a_rank,
    windows,
    with_intervals,
)
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_RANKS = 100_000
"""A file that says more is not believed."""
SILENT_STEPS = 10
SILENT_AFTER_S = 30.0
"""A running rank is silent if it has logged nothing for that many of its steps and that many seconds."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """The records of a run that are shown."""

    reader: StreamReader
    lineage: Lineage
    jumps: Mapping[RankKey, Sequence[tuple[int, int]]]
    """Where the wall clock was set, by attempt and rank: before one of the records from the one to the other."""

    def windows(self, columns: list[str]) -> Iterator[tuple[int, dict[int, pa.Table]]]:
        """Yields the records of all ranks, one window of steps of one attempt at a time, with the attempt's number.
        Only records with a step, and only from the rank itself, not from its child processes.

        :param columns: metrics; `INTERVAL_COLUMN` is made of the timestamps.
        """
        for attempt in sorted(self.lineage.cuts):
            ranks = self.reader.ranks(attempt)
            rows = min(rows_a_rank(len(ranks)), BATCH_ROWS)
            steps = {rank: RankSteps(self._steps_of((attempt, rank), columns, rows)) for rank in ranks}
            for window in windows(steps):
                yield attempt, window

    def _steps_of(self, rank_key: RankKey, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
        import pyarrow.compute as pc

        timed = INTERVAL_COLUMN in columns
        given = [name for name in columns if name != INTERVAL_COLUMN]
        wanted = self.reader.fields(["step", "worker", *(["timestamp", "seq"] if timed else []), *given])
        before = None
        for batch in rank_batches(self.reader, self.lineage, rank_key, wanted, rows):
            own = pc.and_(pc.is_valid(batch.column("step")), pc.equal(batch.column("worker"), 0))
            mine = batch if pc.all(own).as_py() else batch.filter(own)
            if not mine.num_rows:
                continue
            if timed:
                mine, before = with_intervals(mine, before, self.jumps.get(rank_key, ()))
            yield mine.select(["step", *columns])

    def times(self) -> list[str]:
        """Returns the times that the newest attempt with records has logged, of any rank; none if it logged none."""
        for attempt in sorted(self.lineage.cuts, reverse=True):
            keys = [key for key in self.reader.keys if key[0] == attempt]
            if keys:
                return [name for name in TIMES if any(self.reader.has_value(key, name) for key in keys)]
        return []

    def ranks_with(self, attempt: int, metric: str) -> set[int]:
        """Returns the ranks that log a metric in an attempt."""
        keys = (key for key in self.reader.keys if key[0] == attempt)
        return {key[1] for key in keys if self.reader.has_value(key, metric)}


def clock_jumps(lines: Iterable[Mapping[str, Any]]) -> dict[RankKey, list[tuple[int, int]]]:
    """Returns where the wall clock was set, from the events of a run."""
    found: dict[RankKey, list[tuple[int, int]]] = {}
    for line in lines:
        first, last = line.get("first_seq"), line.get("last_seq")
        if is_own(line, "clock_jump") and type(first) is int and type(last) is int:
            found.setdefault((line["attempt"], line["rank"]), []).append((first, last))
    return found


@dataclasses.dataclass
class Walk:
    """The result of one pass over the steps of all ranks."""

    times: list[StepTimes]
    courses: list[Course]

    @property
    def step_s(self) -> float:
        """The duration of a step: the largest of the mean times."""
        return max((each.mean_s for each in self.times if each.steps), default=math.nan)

    def stragglers(self, ratio: float) -> list[Straggler]:
        """See :func:`find_stragglers`."""
        return find_stragglers(self.times, ratio, self.step_s)


def walk(shown: Shown, courses: tuple[str, ...] = ()) -> Walk:
    """One pass over the steps of all ranks."""
    names = shown.times()
    times = [StepTimes(name) for name in names] or [StepTimes(STEP_INTERVAL, INTERVAL_COLUMN)]
    found = Walk(times, [Course(name) for name in courses])
    of: dict[tuple[int, str], set[int]] = {}
    for attempt, window in shown.windows([*(each.column or each.metric for each in times), *courses]):
        for each in found.times:
            each.add(window)
        for course in found.courses:
            key = attempt, course.metric
            if key not in of:
                of[key] = shown.ranks_with(*key)
            course.add(window, of[key])
    return found


def account(
    paths: RunPaths,
    run_id: str | None,
    shown: Shown,
    processes: pa.Table,
    errors: dict[int, int],
    step_s: float = math.nan,
) -> dict[str, Any]:
    """What :meth:`Run.overview` tells without a pass over the steps.

    :param errors: how many, by attempt.
    :param step_s: the duration of a step; NaN where it is not known.
    """
    rows = processes.to_pylist()
    newest = max((row["attempt"] for row in rows), default=0)
    now = [row for row in rows if row["attempt"] == newest]
    summaries = rank_summaries(paths, newest, [row["rank"] for row in now])
    return {
        "name": paths.name,
        "private_folder": paths.private.is_dir(),
        "run_id": run_id,
        "status": together([row["status"] for row in now]),
        "records": sum(row["records"] for row in rows),
        "attempts": [
            _attempt(attempt, list(mine), errors) for attempt, mine in groupby(rows, key=lambda row: row["attempt"])
        ],
        "shown_attempts": sorted(shown.lineage.cuts),
        "ranks": [{name: value for name, value in row.items() if name != "run_id"} for row in now],
        "missing": _missing(now),
        "stopped_early": _stopped_early(now),
        "silent": _silent(now, step_s),
        "errors": sum(errors.values()),
        "unresolved": _counted(summaries, "unresolved"),
        "hook_faults": _counted(summaries, "hook_faults"),
        "lost": _lost(summaries),
        "not_recovered": _not_recovered(paths, now),
        "metrics": of_ranks(summaries),
        "best": next((s.get("best") for s in summaries if s["rank"] == 0), None),
        "rates": _rates(summaries),
    }


def overview(
    paths: RunPaths, run_id: str | None, shown: Shown, processes: pa.Table, errors: dict[int, int], ratio: float
) -> dict[str, Any]:
    """See :meth:`Run.overview`.

    :param errors: how many, by attempt.
    """
    found = walk(shown, ("loss",))
    return {
        **account(paths, run_id, shown, processes, errors, found.step_s),
        "loss": _course(found.courses[0]),
        "step_times": [_times(each) for each in found.times if each.steps],
        "stragglers": [dataclasses.asdict(each) for each in found.stragglers(ratio)],
    }


def _rates(summaries: list[dict[str, Any]]) -> dict[str, float]:
    """Batches, samples and tokens a second of rank 0, those that are known."""
    told = next((summary.get("performance") for summary in summaries if summary["rank"] == 0), None)
    told = told if isinstance(told, dict) else {}
    names = ("batches_per_s", "samples_per_s", "tokens_per_s")
    return {name: told[name] for name in names if isinstance(told.get(name), (int, float))}


def _counted(summaries: list[dict[str, Any]], what: str) -> dict[str, int]:
    """The counts of that name in the ranks' accounting, over all ranks."""
    told: Counter[str] = Counter()
    for summary in summaries:
        told.update((summary.get("accounting") or {}).get(what) or {})
    return {reason: count for reason, count in told.items() if count}


def _lost(summaries: list[dict[str, Any]]) -> dict[str, int]:
    """The records that never came into the ring, by reason, and those of the metrics that are in no file any more, over
    all ranks."""
    found: Counter[str] = Counter()
    for summary in summaries:
        accounting = summary.get("accounting") or {}
        found.update(accounting.get("dropped_at_entry") or {})
        sinks = (accounting.get("sinks") or {}).items()
        gone = [
            {why: sink.get(why) or 0 for why in ("dropped", "expired", "vanished")}
            for name, sink in sinks
            if name.startswith("metrics_")
        ]
        found.update(min(gone, key=lambda counts: sum(counts.values()), default={}))
    return {reason: count for reason, count in found.items() if count}


def _not_recovered(paths: RunPaths, rows: list[dict[str, Any]]) -> list[int]:
    """The ranks that were killed and not recovered: their last records may lie in the ring alone."""
    ledgers = paths.ledgers_of_all_ranks()
    return [row["rank"] for row in rows if row["status"] == "killed" and (row["attempt"], row["rank"]) not in ledgers]


def _attempt(attempt: int, mine: list[dict[str, Any]], errors: dict[int, int]) -> dict[str, Any]:
    return {
        "attempt": attempt,
        "status": together([row["status"] for row in mine]),
        "ranks": len(mine),
        "world_size": _world_size(mine),
        "hosts": sorted({row["host"] for row in mine if row["host"] is not None}),
        "started": min((row["started"] for row in mine if row["started"] is not None), default=None),
        "last_record": max((row["last_record"] for row in mine if row["last_record"] is not None), default=None),
        "records": sum(row["records"] for row in mine),
        "errors": errors.get(attempt, 0),
        **{name: mine[0][name] for name in ("resumed_from_run_id", "resumed_from_attempt", "resumed_from_step")},
    }


def _world_size(rows: list[dict[str, Any]]) -> int | None:
    return max((row["world_size"] or 0 for row in rows), default=0) or None


def _missing(rows: list[dict[str, Any]]) -> list[int]:
    """The ranks of the world that never began to log."""
    world = min(_world_size(rows) or 0, _MOST_RANKS)
    return sorted(set(range(world)).difference(row["rank"] for row in rows))


def _stopped_early(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the ranks that ended and are more than one step behind another. A kill of all ranks leaves a difference
    of one step."""
    furthest = max((row["last_step"] for row in rows if row["last_step"] is not None), default=0)
    return [
        {"rank": row["rank"], "status": row["status"], "last_step": row["last_step"], "furthest_step": furthest}
        for row in rows
        if row["status"] != "running" and row["last_step"] is not None and row["last_step"] < furthest - 1
    ]


def _silent(rows: list[dict[str, Any]], step_s: float) -> list[dict[str, Any]]:
    """Returns the ranks that seem to run and have logged nothing for long."""
    silent_after = timedelta(seconds=max(SILENT_AFTER_S, 0.0 if math.isnan(step_s) else SILENT_STEPS * step_s))
    now = datetime.now(timezone.utc)
    found = []
    for row in rows:
        since = row["last_record"] or row["started"]
        if row["status"] == "silent" or (
            row["status"] == "running" and since is not None and now - since > silent_after
        ):
            silent_s = None if since is None else (now - since).total_seconds()
            found.append({"rank": row["rank"], "host": row["host"], "last_record": since, "silent_s": silent_s})
    return found


def _course(course: Course) -> dict[str, Any] | None:
    if course.first is None:
        return None
    ends = {name: getattr(course, name) for name in ("first", "last", "lowest")}
    return {name: None if end is None else {"step": end[0], "mean": end[1]} for name, end in ends.items()}


def _times(times: StepTimes) -> dict[str, Any]:
    return {
        "metric": times.metric,
        "steps": times.steps,
        "min_s": times.min_s,
        "mean_s": times.mean_s,
        "max_s": times.max_s,
        "skew": times.skew,
        "ranks": [
            {"rank": each.rank, "mean_s": each.mean_s, "ratio": each.ratio, "slowest_share": each.slowest_share}
            for each in times.ranks.values()
        ],
    }


def check_ratio(ratio: float) -> None:
    """:raises ValueError: by which no rank can be slow."""
    if not ratio > 1:
        raise ValueError(expected("ratio", "a number above 1", ratio))
