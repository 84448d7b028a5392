"""The training's progress: milestones for the log, and the numbers behind the live bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from .checks import whole, whole_or_none
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

    def update_progress(self, epoch: int, batch: int, total_batches: int | None, total_epochs: int) -> None:
        """Report that `batch` of `total_batches` in `epoch` of `total_epochs` is done; all count from 1.

        Call it after each batch; a call that reaches no milestone only compares numbers. The first call that reaches a
        milestone logs it, with the epoch's batches per second and the time left. A training that resumes in a later
        epoch does not repeat the milestones of earlier epochs. If `total_batches` is None (data without a length), only
        the milestones of the whole training are logged, as epochs begin. A batch beyond the total counts as the last.

        :raises TypeError: an argument is no integer.
        :raises ValueError: an argument is negative or not an int32, or a total is 0. The message names it.

        >>> TrainingProgressTracker(log).update_progress(epoch=1, batch=1, total_batches=10, total_epochs=3)
        """
        if self._off:
            return
        position = self._position
        # An ordinary call checks no more than these few comparisons.
        if (
            type(batch) is not int
            or batch < 0
            or epoch != position.epoch
            or total_batches != position.total_batches
            or total_epochs != position.total_epochs
        ):
            batch = self._begin(epoch, batch, total_batches, total_epochs)
        position.batch = batch
        for milestone in self._milestones.update(position.epoch, batch, position.total_batches, position.total_epochs):
            self._log(milestone)

    def _begin(self, epoch: int, batch: int, total_batches: int | None, total_epochs: int) -> int:
        """Takes in an epoch or totals that changed since the last call; returns the batch as a plain int."""
        epoch = whole("epoch", epoch, 0)
        batch = whole("batch", batch, 0)
        total_batches = whole_or_none("total_batches", total_batches, 1)
        total_epochs = whole("total_epochs", total_epochs, 1)
        position = self._position
        first = position.epoch < 0
        if epoch != position.epoch:
            position.epoch_since_ns = time.monotonic_ns()
            position.epoch_from = batch
        position.batch = batch
        position.epoch = epoch
        position.total_batches = total_batches
        position.total_epochs = total_epochs
        position.first_epoch = min(position.first_epoch, epoch)
        if first:
            position.run_since_ns = position.epoch_since_ns
            position.run_from = position.fraction()
            if epoch > 1:
                # The attempt that trained the earlier epochs has logged their milestones.
                self._milestones.update(epoch - 1, 1, 1, total_epochs)
            self._logger._plane.console.follow(position)
        return batch

    def _log(self, milestone: Milestone) -> None:
        position = self._position
        eta_s = position.epoch_eta_s() if milestone.scope == "epoch" else position.run_eta_s()
        total = position.total_batches
        batch = position.batch if total is None else min(position.batch, total)
        passed = Progress(milestone.scope, milestone.percent, position.epoch, batch, total, position.rate(), eta_s)
        self._logger._emit(lambda events: events.milestone(passed))
