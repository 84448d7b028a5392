"""Keeps the parts of a summary that are not statistics, as events come in."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .._native import Guard
from ..snapshots import EpochTotals
from ..store.ranks import RunIdentity
from .epochs import Best, Epochs
from .events import Event
from .text import time_text

_KEPT_SIGNALS = 100
Built = TypeVar("Built")
FINAL_STATUSES = ("completed", "failed", "interrupted", "killed")


@dataclass(frozen=True)
class TrainingState:
    """A training as of one moment."""

    status: str
    started_ns: int
    ended_ns: int | None
    duration_s: float
    epochs: Epochs
    best: Mapping[str, Any] | None
    validations: int
    config: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    model: Mapping[str, Any] | None
    milestones: Mapping[str, Any]
    final_metrics: Mapping[str, Any]
    provenance: Mapping[str, Any]
    resumed_from: Mapping[str, Any] | None = None
    signals: Sequence[Mapping[str, str]] = ()


class Training:
    """Takes in events, from any thread, and completes each with what only the whole training knows: the duration of an
    epoch, whether a validation is the best so far.

    :param best: the metric that decides which validation is the best, and its mode; see :class:`Best`.
    """

    def __init__(self, run: RunIdentity, best: tuple[str | None, str | None] = (None, None)) -> None:
        self._run = run
        self._lock = Guard()
        self._epochs = Epochs()
        self._best = Best(*best)
        self._status = "running"
        self._started_ns = time.time_ns()
        self._started_s = time.monotonic()
        self._ended_ns: int | None = None
        self._ended_s = 0.0
        self._notes: dict[str, dict[str, Any]] = {"config": {}, "hyperparameters": {}, "final_metrics": {}}
        self._model: Mapping[str, Any] | None = None
        self._provenance: Mapping[str, Any] = {}
        self._resumed_from: Mapping[str, Any] | None = None
        self._signals: deque[dict[str, str]] = deque(maxlen=_KEPT_SIGNALS)
        self._milestones: dict[str, Any] = {"total": 0, "overall": {}, "epoch": {"epoch": None, "percents": []}}
        self._updates: dict[str, Callable[[Event], Event]] = {
            "training_start": self._start,
            "training_end": self._finish,
            "epoch_end": self._epochs.take,
            "validation": self._validate,
            "hyperparameters": self._note_hyperparameters,
            "model_info": self._note_model,
            "milestone": self._note_milestone,
            "resumed": self._resume,
            "signal": self._note_signal,
        }

    @property
    def status(self) -> str:
        """ "running", "completed", "failed", "interrupted" or "killed"."""
        return self._status

    @property
    def epoch(self) -> int | None:
        """The epoch that has begun and not ended."""
        return self._epochs.current

    @property
    def is_over(self) -> bool:
        """Whether it has ended and has not started again."""
        return self._ended_ns is not None

    def update(self, event: Event) -> Event:
        """Takes an event in; the same event, completed."""
        update = self._updates.get(event.kind)
        if update is None:
            return event
        with self._lock:
            return update(event)

    def start_epoch(self, event: Event, counted: Callable[[], EpochTotals | None]) -> Event:
        """Takes in the start of an epoch.

        :param counted: returns what was counted of one of that number; not asked where there was none.
        """
        epoch = event.fields["epoch"]
        before = counted() if self._epochs.has_seen(epoch) else None
        with self._lock:
            self._epochs.start(epoch, event.fields["total_epochs"], before)
        return event

    def end_epoch(self, event: Event, totals: EpochTotals | None) -> Event:
        """Takes in the end of an epoch.

        :param totals: what was counted of it.
        """
        epoch, metrics = event.fields["epoch"], event.fields["metrics"]
        with self._lock:
            entry = self._epochs.end(epoch, metrics, totals)
            of = "" if self._epochs.total is None else f"/{self._epochs.total}"
        took = "" if entry["duration_s"] is None else f" in {entry['duration_s']:.1f} s"
        shown = {name: value for name, value in entry.items() if name != "metrics"}
        return dataclasses.replace(
            event, fields=entry, shown={**shown, **metrics}, console=f"epoch {epoch}{of} done{took}"
        )

    def end(self, status: str, *, by_user: bool = False) -> tuple[str, float]:
        """Ends the training unless it has ended; returns its status and its duration in seconds.

        :param by_user: the status holds, whatever was known before.
        """
        with self._lock:
            if by_user:
                self._status = status
            return self._end(status)

    def interrupt(self) -> None:
        """A Ctrl-C came: unless something else ends it before, the training was interrupted."""
        with self._lock:
            if self._status == "running":
                self._status = "interrupted"

    def read(self, build: Callable[[TrainingState], Built]) -> Built:
        """Returns what `build` makes of the current training, while no event changes it. The result must share nothing
        with the state."""
        with self._lock:
            return build(
                TrainingState(
                    status=self._status,
                    started_ns=self._started_ns,
                    ended_ns=self._ended_ns,
                    duration_s=self._duration_s(),
                    epochs=self._epochs,
                    best=self._best.summary(),
                    validations=self._best.validations,
                    model=self._model,
                    milestones=self._milestones,
                    provenance=self._provenance,
                    resumed_from=self._resumed_from,
                    signals=list(self._signals),
                    **self._notes,
                )
            )

    # -- under the lock ------------------------------------------------------------------------------------------

    def _start(self, event: Event) -> Event:
        self._notes["config"].update(event.fields["config"])
        self._provenance = event.fields["provenance"]
        self._started_ns = time.time_ns()
        self._started_s = time.monotonic()
        self._ended_ns = None
        self._status = "running"
        return dataclasses.replace(
            event,
            shown={"attempt": self._run.attempt, **event.shown},
            brief={},
        )

    def _finish(self, event: Event) -> Event:
        final = event.fields["final_metrics"]
        self._notes["final_metrics"].update(final)
        was_running = self._ended_ns is None
        if event.fields["status"] is not None:
            self._status = event.fields["status"]
        status, duration_s = self._end("completed")
        fields = {"status": status, "duration_s": round(duration_s, 6)}
        return dataclasses.replace(
            event,
            fields={**fields, "final_metrics": final},
            shown={**fields, **final},
            console=f"{self._run.name}: {status} after {duration_s:.1f} s" if was_running or final else None,
            console_fields=final,
            console_last=True,
        )

    def _validate(self, event: Event) -> Event:
        fields = event.fields
        best = self._best.offer(fields["epoch"], fields["metrics"], fields["is_best"], fields["step"])
        return dataclasses.replace(event, fields={**fields, "best_so_far": best})

    def _note_hyperparameters(self, event: Event) -> Event:
        self._notes["hyperparameters"].update(event.fields["hyperparameters"])
        return event

    def _note_model(self, event: Event) -> Event:
        self._model = event.fields["model"]
        return event

    def _note_milestone(self, event: Event) -> Event:
        fields = event.fields
        self._milestones["total"] += 1
        if fields["scope"] == "overall":
            self._milestones["overall"][str(fields["percent"])] = time_text(time.time_ns())
        else:
            if self._milestones["epoch"]["epoch"] != fields["epoch"]:
                self._milestones["epoch"] = {"epoch": fields["epoch"], "percents": []}
            self._milestones["epoch"]["percents"].append(fields["percent"])
        return event

    def _note_signal(self, event: Event) -> Event:
        self._signals.append({"signal": event.fields["signal"], "time": time_text(time.time_ns())})
        return event

    def _resume(self, event: Event) -> Event:
        if event.fields["kept"]:
            origin = self._resumed_from = event.fields["resumed_from"]
            if origin["run_id"] == self._run.run_id:
                self._best.go_on(origin.get("best"))
        return event

    def _end(self, status: str) -> tuple[str, float]:
        if self._status == "running":
            self._status = status
        if self._ended_ns is None:
            self._ended_ns = time.time_ns()
            self._ended_s = time.monotonic()
        return self._status, self._duration_s()

    def _duration_s(self) -> float:
        return (self._ended_s if self._ended_ns is not None else time.monotonic()) - self._started_s
