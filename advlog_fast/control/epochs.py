"""The epochs of a run: how long each took, how fast it was, and which was the best."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..records import mode_of, weight_of
from ..snapshots import EpochTotals

KEPT_EPOCHS = 1000
"""Epochs whose numbers stay in the summary, the latest ones."""


class Epochs:
    """Times epochs by the monotonic clock."""

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

    def start(self, epoch: int, total: int | None) -> None:
        """Begins an epoch; one that was not ended is forgotten."""
        self.current = epoch
        self.total = total if total is not None else self.total
        self._started_s = time.monotonic()

    def end(self, epoch: int, metrics: Mapping[str, float], totals: EpochTotals | None) -> dict[str, Any]:
        """Ends an epoch and returns its numbers; a missing one, such as the duration of an epoch never started, is
        None."""
        duration_s = None
        if self._started_s is not None and self.current == epoch:
            duration_s = time.monotonic() - self._started_s
        elif totals is not None and totals.epoch == epoch and totals.last_ns > totals.first_ns:
            duration_s = (totals.last_ns - totals.first_ns) / 1e9
        entry: dict[str, Any] = {"epoch": epoch, "duration_s": None, "batches": None}
        if duration_s is not None:
            entry["duration_s"] = round(duration_s, 6)
        if totals is not None and totals.epoch == epoch:
            entry["batches"] = totals.batches
            if duration_s:
                entry.update(rates(totals.batches, totals.samples, totals.tokens, duration_s))
                self.batches += totals.batches
                self.samples += totals.samples
                self.tokens += totals.tokens
                self.seconds += duration_s
            for name, stats in (("loss", totals.loss), ("accuracy", totals.accuracy)):
                if stats.count:
                    entry[f"mean_{name}"] = stats.mean
        entry["metrics"] = dict(metrics)
        self.finished.append(entry)
        self.count += 1
        self.current = None
        self._started_s = None
        return entry


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
