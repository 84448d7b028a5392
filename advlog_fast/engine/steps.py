"""How a step follows from epoch, batch and total_batches where a call gives none: a run has one first epoch, 0 or 1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .._native import Producer
from ..control import events
from ..control.events import Event

_MOST_CHANGES = 16
"""Changes of `total_batches` in a process after which they are no longer looked at: a stream may bring one with each
batch."""


class StepBase:
    """The first epoch of a run, as one of its processes knows it. Any thread may call it; nothing here raises.

    :param told: the option `first_epoch`; None infers it from the first record that needs it.
    :param claim: notes the first epoch for all processes of the run, and returns the one that was noted first; None if
        neither could be done.
    :param say: takes an event.
    """

    def __init__(self, told: int | None, claim: Callable[[int], int | None], say: Callable[[Event], None]) -> None:
        self.first_epoch = told
        self._claim = claim
        self._say = say
        self._said: set[str] = set()
        self._changes = 0
        self._of_other_run = 1
        """The first epoch to assume where the first record is of neither 0 nor 1: that of another run whose state was
        loaded, else 1."""

    def note(self, claimed: int | None) -> Event | None:
        """Takes the first epoch that the run has; returns an event if the option says another, which holds."""
        if self.first_epoch is None:
            self.first_epoch = claimed
        elif claimed is not None and claimed != self.first_epoch:
            return events.steps_contradicted(self.first_epoch, f"the run has counted from epoch {claimed}")
        return None

    def begin(self, producer: Producer) -> None:
        """Prepares a producer of the run."""
        producer._settle_steps(self.first_epoch, None, None, True, True)

    def settle(self, producer: Producer, record: Mapping[str, Any]) -> None:
        """Settles how the step of a record follows, where C cannot: afterwards it can."""
        epoch, batch, total = (int(record[name]) for name in ("epoch", "batch", "total_batches"))
        first = self.first_epoch
        if first is None:
            inferred = epoch if epoch in (0, 1) else self._of_other_run
            claimed = self._claim(inferred)
            first = self.first_epoch = inferred if claimed is None else claimed
        before, last = producer._steps()
        step = (epoch - first) * total + batch
        collides = last is not None and epoch != first and total != before and step <= last
        if epoch < first:
            self._say_once(events.steps_contradicted(first, f"a record is of epoch {epoch}: its step is {step}"))
        elif collides and last is not None:
            self._say_once(events.steps_collide(epoch, total, step, last))
        self._changes += before is not None and total != before
        watches_total = not collides and self._changes < _MOST_CHANGES
        producer._settle_steps(first, total, last, epoch >= first, watches_total)

    def go_on(self, state: Mapping[str, Any], producers: Iterable[Producer], *, same_run: bool) -> None:
        """Goes on from a state: its first epoch holds where the run has none, and its steps are those that came
        before. A state of another run only suggests it."""
        first = state["first_epoch"]
        if not same_run:
            self._of_other_run = 1 if first is None else first
            return
        if self.first_epoch is None and first is not None:
            claimed = self._claim(first)
            self.first_epoch = first if claimed is None else claimed
        elif first not in (None, self.first_epoch) and self.first_epoch is not None:
            self._say_once(events.steps_contradicted(self.first_epoch, f"the state counts from epoch {first}"))
        last = state["max_step"] if state["max_step"] is not None else state["step"]
        for producer in producers:
            producer._settle_steps(self.first_epoch, state["total_batches"], last, True, True)

    def of(self, record: Mapping[str, Any]) -> int | None:
        """The step of a record, as far as it is known."""
        if "step" in record:
            return int(record["step"])
        if not {"epoch", "batch", "total_batches"} <= record.keys():
            return None
        first = 1 if self.first_epoch is None else self.first_epoch
        return int((record["epoch"] - first) * record["total_batches"] + record["batch"])

    def _say_once(self, event: Event) -> None:
        if event.kind not in self._said:
            self._said.add(event.kind)
            self._say(event)
