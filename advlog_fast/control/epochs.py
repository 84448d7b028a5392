"""The epochs of a run: how long each took, how fast it was, and which was the best."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..records import mode_of, weight_of
from ..snapshots import EpochTotals
from .events import Event
from .resumption import carried_best

KEPT_EPOCHS = 1000
"""Epochs whose numbers stay in the summary, the latest ones."""


class Epochs:
    """Times epochs by the monotonic clock. An epoch number may come again, as in the folds of a cross-validation or
    after a rollback: each pass has the batches since it began."""

    def __init__(self) -> None:
        self.finished: deque[dict[str, Any]] = deque(maxlen=KEPT_EPOCHS)
        self.count = 0
        self.batches = 0
        self.samples = 0.0
        self.tokens = 0.0
        self.seconds = 0.0
        """Sums over the finished epochs that had batches."""
        self.current: int | None = None
        self.total: int | None = None
        self._started_s: float | None = None
        self._before: dict[int, EpochTotals | None] = {}
        """What an epoch had counted when its latest pass began or ended; None where it began before any record."""

    def has_seen(self, epoch: int) -> bool:
        """Returns whether an epoch of that number began or ended before."""
        return epoch in self._before

    def start(self, epoch: int, total: int | None, counted: EpochTotals | None = None) -> None:
        """Begins an epoch; one that was not ended is forgotten.

        :param counted: what was counted of an epoch of that number before.
        """
        self.current = epoch
        self.total = total if total is not None else self.total
        self._started_s = time.monotonic()
        self._note(epoch, counted)

    def end(self, epoch: int, metrics: Mapping[str, float], counted: EpochTotals | None) -> dict[str, Any]:
        """Ends an epoch and returns its numbers; a missing one, such as the duration of an epoch never started, is
        None."""
        entry: dict[str, Any] = {"epoch": epoch, "duration_s": None, "batches": None}
        mine = None if counted is None or counted.epoch != epoch else counted.since(self._before.get(epoch))
        whole = timed = mine if mine is None or not mine.batches else mine.ended
        duration_s = None
        if self._started_s is not None and self.current == epoch:
            duration_s = time.monotonic() - self._started_s
        elif mine is not None and mine.last_ns > mine.first_ns:
            duration_s = (mine.last_ns - mine.first_ns) / 1e9
            timed = mine.started
        if duration_s is not None:
            entry["duration_s"] = round(duration_s, 6)
        if whole is not None and timed is not None:
            entry["batches"] = whole.batches
            if duration_s:
                entry.update(rates(timed.batches, timed.samples, timed.tokens, duration_s))
                self.batches += timed.batches
                self.samples += timed.samples
                self.tokens += timed.tokens
                self.seconds += duration_s
            for name, stats in (("loss", whole.loss), ("accuracy", whole.accuracy)):
                if stats.count:
                    entry[f"mean_{name}"] = stats.mean
        entry["metrics"] = dict(metrics)
        self.finished.append(entry)
        self.count += 1
        self.current = None
        self._started_s = None
        self._note(epoch, counted)
        return entry

    def take(self, event: Event) -> Event:
        """Takes the end of an epoch as its event tells it: a recovery has no other word of it."""
        entry = event.fields
        self.finished.append(dict(entry))
        self.count += 1
        duration_s = entry.get("duration_s")
        if duration_s and entry.get("batches_per_s"):
            amounts = [(entry.get(f"{name}_per_s") or 0.0) * duration_s for name in ("batches", "samples", "tokens")]
            self.batches += round(amounts[0])
            self.samples += amounts[1]
            self.tokens += amounts[2]
            self.seconds += duration_s
        return event

    def rates(self, latest: EpochTotals | None) -> dict[str, float]:
        """The rates over all epochs, the running one included. Between its first and its last record lie all of its
        batches but those of the first."""
        batches, samples, tokens, seconds = float(self.batches), self.samples, self.tokens, self.seconds
        if latest is not None:
            mine = latest.since(self._before.get(latest.epoch))
            if mine.batches and mine.last_ns > mine.first_ns:
                timed = mine.started
                batches += timed.batches
                samples += timed.samples
                tokens += timed.tokens
                seconds += (mine.last_ns - mine.first_ns) / 1e9
        return rates(batches, samples, tokens, seconds) if seconds > 0 else {}

    def _note(self, epoch: int, counted: EpochTotals | None) -> None:
        self._before.pop(epoch, None)
        self._before[epoch] = counted
        if len(self._before) > KEPT_EPOCHS:
            del self._before[next(iter(self._before))]


def rates(batches: float, samples: float, tokens: float, seconds: float) -> dict[str, float]:
    """`batches_per_s`, and `samples_per_s` and `tokens_per_s` where they were logged; six digits."""
    amounts = {"batches_per_s": batches, "samples_per_s": samples, "tokens_per_s": tokens}
    logged = {name: amount for name, amount in amounts.items() if amount or name == "batches_per_s"}
    return {name: float(f"{amount / seconds:.6g}") for name, amount in logged.items()}


class Best:
    """The best validation so far.

    The best is the latest validation that the user marked as best. If there is none, the metric that the user named
    decides; else the one that says most of a validation: one that is named as a validation's before one that is named
    as the training's, an accuracy before a loss. One that says more and comes later takes over. A value that is not
    finite is never the best.

    :param metric: the metric that decides; None leaves the choice to the names.
    :param mode: "max" or "min", for that metric.
    """

    def __init__(self, metric: str | None = None, mode: str | None = None) -> None:
        self.validations = 0
        self._told = None if metric is None else Headline(metric, mode or mode_of(metric) or "min", (0, 0))
        self._best: dict[str, Any] | None = None
        self._weight = (-1, -1)
        self._by_user = False

    def offer(self, epoch: int | None, metrics: Mapping[str, float], is_best: bool, step: int | None = None) -> bool:
        """Takes a validation; returns whether it is the best so far."""
        self.validations += 1
        found = self._told if self._told is not None else headline(metrics)
        value = math.nan if found is None else metrics.get(found.metric, math.nan)
        if not is_best and (self._by_user or found is None or not self._beats(found, value)):
            return False
        self._by_user = self._by_user or is_best
        # Where the user says what is best, only the user can say by what.
        named = found if found is not None and math.isfinite(value) and (found is self._told or not is_best) else None
        self._weight = (-1, -1) if named is None else named.weight
        self._best = {
            "metric": None if named is None else named.metric,
            "value": None if named is None else value,
            "epoch": epoch,
            "step": step,
            "mode": None if named is None else named.mode,
            "metrics": dict(metrics),
            "is_best": self._by_user,
        }
        return True

    def go_on(self, carried: object) -> None:
        """Goes on from the best validation of the attempt before, unless this one has had its own."""
        before = carried_best(carried)
        if before is not None and not self.validations:
            self._best, self._weight, self._by_user = None, (-1, -1), False
            self.offer(before["epoch"], before["metrics"], before["is_best"], before["step"])
            self.validations = 0

    def _beats(self, found: Headline, value: float) -> bool:
        if not math.isfinite(value):
            return False
        if self._best is None or found.weight > self._weight:
            return True
        if self._best["metric"] != found.metric:
            return False
        best = self._best["value"]
        return bool(value > best if found.mode == "max" else value < best)

    def summary(self) -> dict[str, Any] | None:
        """`metric`, `value`, `epoch`, `step`, `mode` ("max" or "min"), all `metrics` of that validation, and `is_best`:
        whether the user called it so; then the metric is None, unless the user named one."""
        return None if self._best is None else {**self._best, "metrics": dict(self._best["metrics"])}


class Headline(NamedTuple):
    """The metric that decides about a validation."""

    metric: str
    mode: str
    """"max" or "min"."""
    weight: tuple[int, int]
    """How much its name says of a validation: larger is more."""


def headline(metrics: Mapping[str, float]) -> Headline | None:
    """Returns the metric that decides about a validation; None if no name says that it could."""
    found = [(weight, name) for name in metrics if (weight := weight_of(name)) is not None]
    if not found:
        return None
    most = max(weight for weight, _ in found)
    name = next(name for weight, name in found if weight == most)
    return Headline(name, mode_of(name) or "min", most)
