"""The training's progress: milestones for the log, and the numbers behind the live bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .checks import Intake, Misuse
from .control.base import Control
from .control.milestones import Milestone, Milestones, Progress
from .control.position import Position
from .exceptions import expected


class _Logger(Protocol):
    @property
    def enabled(self) -> bool: ...

    @property
    def _plane(self) -> Control: ...

    def _emit(self, make: Callable[[Any], Any]) -> None: ...

    def _take_misuses(self, misuses: Sequence[Misuse]) -> None: ...


class TrainingProgressTracker:
    """Logs when 25, 50, 75 and 90 % of each epoch and of the whole training are reached, and feeds the live
    bar.

    Use it from one thread. The tracker of a disabled logger does nothing.

    :param logger: the run's :class:`AdvancedLogger`.
    :raises TypeError: `logger` is not a logger.

    >>> progress = TrainingProgressTracker(log)
    >>> for batch in range(1, 11):
    ...     progress.update_progress(epoch=1, batch=batch, total_batches=10, total_epochs=2)
    """

    def __init__(self, logger: _Logger) -> None:
        if not isinstance(getattr(logger, "enabled", None), bool):
            raise TypeError(expected("logger", "an AdvancedLogger", logger))
        self._logger = logger
        self._off = not logger.enabled
        self._milestones = Milestones()
        self._position = Position(epoch=-1)
        self._given: tuple[object, object, object] = (None, None, None)

    def update_progress(
        self, epoch: int, batch: int, total_batches: float | None, total_epochs: float | None = None
    ) -> None:
        """Report that `batch` of `total_batches` in `epoch` of `total_epochs` is done; all count from 1.

        Call it after each batch; a call that reaches no milestone only compares numbers. The first call that reaches a
        milestone logs it, with the epoch's batches per second and the time left. A training that resumes in a later
        epoch does not repeat the milestones of earlier epochs. A total may be unknown: None, infinity, -1 or
        `sys.maxsize`. Without `total_batches`, only the milestones of the whole training are logged, as epochs begin. A
        batch beyond the total counts as the last. A call whose `epoch` or `batch` is no number is left out: see the
        option `on_misuse`.

        >>> TrainingProgressTracker(log).update_progress(epoch=1, batch=1, total_batches=10, total_epochs=3)
        """
        if self._off:
            return
        position = self._position
        given = (epoch, total_batches, total_epochs)
        try:
            # An ordinary call checks no more than this.
            known = type(batch) is int and batch >= 0 and given == self._given
        except Exception:  # noqa: BLE001 - such as an array of several elements
            known = False
        if not known:
            taken = self._begin(epoch, batch, total_batches, total_epochs)
            if taken is None:
                return
            batch = taken
            self._given = given
        position.batch = batch
        for milestone in self._milestones.update(position.epoch, batch, position.total_batches, position.total_epochs):
            self._log(milestone)

    def _begin(self, epoch: object, batch: object, total_batches: object, total_epochs: object) -> int | None:
        """Takes in an epoch or totals that changed since the last call; returns the batch as a plain int, None if the
        call says no position."""
        intake = Intake()
        in_epoch, done = intake.integer("epoch", epoch, 0), intake.integer("batch", batch, 0)
        batches, epochs = intake.total("total_batches", total_batches, 0), intake.total("total_epochs", total_epochs, 0)
        self._logger._take_misuses(intake.misuses)
        if in_epoch is None or done is None:
            return None
        position = self._position
        first = position.epoch < 0
        if in_epoch != position.epoch:
            position.epoch_since_ns = time.monotonic_ns()
            position.epoch_from = done
        position.batch = done
        position.epoch = in_epoch
        position.total_batches = batches or None
        position.total_epochs = epochs or 0
        position.first_epoch = min(position.first_epoch, in_epoch)
        if first:
            position.run_since_ns = position.epoch_since_ns
            position.run_from = position.fraction()
            if in_epoch > 1:
                # The attempt that trained the earlier epochs has logged their milestones.
                self._milestones.update(in_epoch - 1, 1, 1, epochs or None)
            self._logger._plane.console.follow(position)
        return done

    def _log(self, milestone: Milestone) -> None:
        position = self._position
        eta_s = position.epoch_eta_s() if milestone.scope == "epoch" else position.run_eta_s()
        total = position.total_batches
        batch = position.batch if total is None else min(position.batch, total)
        passed = Progress(milestone.scope, milestone.percent, position.epoch, batch, total, position.rate(), eta_s)
        self._logger._emit(lambda events: events.milestone(passed))
