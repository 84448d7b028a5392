"""Writes the summary of a killed attempt: what its files and its events tell, in the form of a live one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from ..control.base import empty_summary
from ..control.events import Event
from ..control.summaries import build_summary, write_summary
from ..control.training import Training, TrainingState
from ..reader.events import is_own, number_of
from ..reader.lines import sound_rows
from ..reader.overview import clock_jumps
from ..records import UNRESOLVED
from ..snapshots import Health
from ..store.files import read_file
from ..store.ledger import Ledger
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from .counted import Counted, count

_ENDED = ("completed", "failed", "interrupted")
_OF_THE_LIVE_ONE = ("memory", "contexts", "misuse", "overhead", "provenance", "recoveries")
"""Keys that neither the records nor the events tell: they stay as the last summary has them."""


def ended_status(paths: RunPaths, attempt: int) -> str | None:
    """Returns how the training ended, if it ended before its process was killed."""
    summary = _last_summary(paths, attempt)
    return summary["status"] if summary.get("status") in _ENDED else None


def write_killed_summary(
    paths: RunPaths, attempt: int, ledger: Ledger | None, detail: str = "", *, accepted: int = 0
) -> None:
    """Replaces the rank's summary by one of status "killed", unless a later attempt has written its own.

    :param ledger: the recovery's counts; None if the ring was lost.
    :param accepted: the records that the ring took, should no file hold them as data.
    """
    if _summary(paths).get("attempt", 0) > attempt:
        return
    before = _last_summary(paths, attempt)
    counted = Counted()
    try:
        lines = _lines(paths, attempt)
        story = _EventReplay(paths, attempt, lines)
        jumps = clock_jumps(lines).get((attempt, paths.rank), [])
        with contextlib.suppress(Exception):  # a file that somebody has damaged
            counted = count(paths, attempt, story.epochs_until, jumps)
        summary = _built(story, counted, before)
    except Exception:  # noqa: BLE001 - anybody may have written the events, and no summary may end a start
        summary = {**before, "experiment": paths.name, "attempt": attempt, "rank": paths.rank}
        summary["status"] = ended_status(paths, attempt) or "killed"
        summary.setdefault("total_metrics", 0)
    if ledger is not None:
        records = [sink.accepted for name, sink in ledger.sinks.items() if name.startswith("metrics_")] or [accepted]
        summary["total_metrics"] = max([*records, summary["total_metrics"]])
        unresolved = {reason: counted.totals.unresolved.get(reason, 0) for reason in UNRESOLVED[1:]}
        summary["accounting"] = {**ledger.as_dict(), "unresolved": unresolved}
    if detail:
        summary["recovery"] = detail
    write_summary(paths.summary, summary, paths.temporary)


def _built(story: _EventReplay, counted: Counted, before: Mapping[str, Any]) -> dict[str, Any]:
    errors = story.errors()
    told = before.get("total_errors")
    errors["total"] = max(errors["total"], told if isinstance(told, int) else 0)
    build = lambda state: build_summary(  # noqa: E731
        story.run,
        story.ended(state, counted.latest_ns),
        totals=counted.totals,
        health=Health.nothing(story.status),
        memory={},
        errors=errors,
        recoveries={},
        contexts={},
        group=story.options.get("group"),
        tags=story.options.get("tags") or (),
    )
    summary = story.training.read(build)
    summary |= {name: before[name] for name in _OF_THE_LIVE_ONE if name in before}
    if not counted.totals.metric_records:  # no file has the records as data
        kept = (*empty_summary(""), "metrics", "last", "performance", "metric_names")
        summary |= {name: before[name] for name in kept if name in before and name not in ("total_errors", "status")}
    return summary


class _EventReplay:
    """What the events of an attempt tell.

    :param lines: those of this attempt of this rank.
    :ivar epochs_until: the seq of the last record of the epochs that have ended.
    """

    def __init__(self, paths: RunPaths, attempt: int, lines: list[dict[str, Any]]) -> None:
        before = _last_summary(paths, attempt)
        start = next((line for line in lines if is_own(line, "attempt_start")), {})
        self.options = _mapping(start.get("options"))
        self.run = RunIdentity(
            run_id=start.get("run_id") or before.get("run_id") or "",
            name=paths.name,
            attempt=attempt,
            rank=paths.rank,
            world_size=start.get("world_size") or before.get("world_size") or 1,
            host=start.get("host") or before.get("host") or "",
            pid=start.get("pid") or before.get("pid") or 0,
            local_rank=start.get("local_rank"),
        )
        self.training = Training(self.run, (self.options.get("best_metric"), self.options.get("best_mode")))
        self.epochs_until = 0
        self._lines = lines
        self._started: datetime | None = start.get("timestamp")
        self._ended: datetime | None = None
        for line in lines:
            with contextlib.suppress(Exception):  # anybody may have written it
                self._take(line)
        self.status = ended_status(paths, attempt) or "killed"

    def _take(self, line: dict[str, Any]) -> None:
        kind = line["event"]
        if line.get("user_event") is True:
            return
        fields = {**line, **_mapping(line.get("fields"))}
        if isinstance(fields.get("metrics"), dict):
            fields["metrics"] = {name: number_of(value) for name, value in fields["metrics"].items()}
        if kind == "training_start":
            self._started = line["timestamp"]
        elif kind == "training_end":
            self._ended = line["timestamp"]
        elif kind == "epoch_end":
            self.epochs_until = line.get("seq") or 0
            own = ("timestamp", "attempt", "rank", "event", "level", "seq", "fields")
            fields = {name: value for name, value in fields.items() if name not in own}
        if kind == "resumed":
            fields.setdefault("kept", True)
        self.training.update(Event(kind, fields, {}))

    def ended(self, state: TrainingState, latest_ns: int) -> TrainingState:
        """The state as of the end of the attempt, which is that of its last record or event."""
        events = [line["timestamp"] for line in self._lines]
        ended_ns = _ns(self._ended) if self._ended is not None else max([latest_ns, *map(_ns, events[-1:])])
        started_ns = _ns(self._started) if self._started is not None else ended_ns
        ended_ns = max(ended_ns, started_ns)
        duration_s = (ended_ns - started_ns) / 1e9
        return dataclasses.replace(
            state, status=self.status, started_ns=started_ns, ended_ns=ended_ns, duration_s=duration_s
        )

    def errors(self) -> dict[str, Any]:
        """The counts of the errors as a live summary has them; of a storm as many as it was said to have."""
        lines = [line for line in self._lines if is_own(line, "error")]
        storms: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for line in lines:
            message = re.sub(r"[0-9]+", "0", str(line.get("message")))
            key = (*(str(line.get(name)) for name in ("type", "operation", "category", "level")), message)
            storms.setdefault(key, []).append(line)
        by: dict[str, Counter[str]] = {"category": Counter(), "level": Counter()}
        total = 0
        for storm in storms.values():
            # Each says how often the error had come by then.
            repeated = [line["repeated"] for line in storm if type(line.get("repeated")) is int]
            number = max([len(storm), *repeated])
            total += number
            for name, counter in by.items():
                counter[str(storm[0].get(name))] += number
        last = None
        if lines:
            latest = lines[-1]
            names = ("id", "category", "operation", "type", "message", "context")
            last = {"severity": latest.get("level"), **{name: latest.get(name) for name in names}}
            last["timestamp"] = latest["timestamp"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "total": total,
            "by_category": dict(by["category"]),
            "by_severity": dict(by["level"]),
            "repeated": total - len(lines),
            "last": last,
        }


def _lines(paths: RunPaths, attempt: int) -> list[dict[str, Any]]:
    """The events of this attempt of this rank, in their order."""
    try:
        rows: Iterable[dict[str, Any]] = list(sound_rows(paths.events_jsonl))
    except OSError:
        return []
    return [
        row
        for row in rows
        if (row["attempt"], row["rank"]) == (attempt, paths.rank)
        and isinstance(row.get("event"), str)
        and isinstance(row.get("timestamp"), datetime)
    ]


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _ns(moment: datetime) -> int:
    return int(moment.timestamp() * 1e6) * 1000


def _last_summary(paths: RunPaths, attempt: int) -> dict[str, Any]:
    """Returns the last summary of this attempt; empty if there is none."""
    summary = _summary(paths)
    return summary if summary.get("attempt") == attempt else {}


def _summary(paths: RunPaths) -> dict[str, Any]:
    """Returns the content of the summary; empty if it is missing or no JSON object."""
    try:
        summary = json.loads(read_file(paths.summary))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(summary, dict) or type(summary.get("attempt", 0)) is not int:
        return {}
    return summary
