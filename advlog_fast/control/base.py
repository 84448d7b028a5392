"""The interfaces between a logger, its control plane and its session, and the summary of a run with no counts."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..checks import Intake
from ..records import ErrorLog
from ..snapshots import Health, Totals
from .events import Event
from .position import Position


class RingLink(Protocol):
    """The control plane's way to the ring and to what the drain has counted. No method but `shielded` raises."""

    def shielded(self, task: Callable[[], object]) -> None:
        """Runs the task where no interrupt reaches it, and waits for it; raises what the task raises."""

    def line(self, level: int, text: str) -> None:
        """Puts a line into the training log, in the order of the records. `text` is escaped, one line, at
        most 4096 bytes of UTF-8; `level` is on the scale of the logging module."""

    def seq(self) -> int:
        """The seq of the last metrics record accepted; 0 while there is none."""

    def first_epoch(self) -> int | None:
        """The number of the first epoch, from which steps are derived; None while it is not known."""

    def go_on(self, state: Mapping[str, Any], *, same_run: bool) -> None:
        """Derives steps and counts batches from a state on, from which the attempt resumes."""

    def totals(self, timeout_s: float = 1.0) -> Totals:
        """Returns the counts, which cover every call that returned before; waits for them at most that long."""

    def health(self) -> Health:
        """Returns the current delivery counts."""

    def memory(self) -> dict[str, object]:
        """Returns how memory developed, as :meth:`MemorySampler.trend` gives it."""


class Bar(Protocol):
    """An output that can show a live bar."""

    def follow(self, position: Position) -> None:
        """Draws a bar from `position`, which is changed in place."""


class Control(Protocol):
    """The interface of a control plane: the run's own, a child process's, or a disabled logger's. It takes checked
    events; only what is wrong at every call raises."""

    @property
    def status(self) -> str: ...

    @property
    def logger(self) -> logging.Logger:
        """A logger of the standard library that writes to the main log."""

    @property
    def handler(self) -> logging.Handler:
        """A handler that writes what any logger is given to the main log."""

    @property
    def console(self) -> Bar: ...

    def emit(self, event: Event) -> None:
        """Takes an event in and writes it."""

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
        intake: Intake | None = None,
    ) -> ErrorLog:
        """Writes an error now.

        :param intake: takes what is wrong with the arguments.
        """

    def log_leaving(self, error: BaseException, operation: str) -> None:
        """Notes an exception that leaves the whole run, unless it was logged before."""

    def context_started(self, path: tuple[str, ...]) -> int:
        """A context calls it when it is entered; returns a number for the exit."""

    def context_ended(
        self, path: tuple[str, ...], started: int, duration_s: float, error: BaseException | None
    ) -> None:
        """A context calls it when it is left."""

    def state(self) -> dict[str, Any]:
        """Returns where the attempt stands, for a checkpoint."""

    def summary(self) -> dict[str, Any]:
        """Returns the current summary."""

    def write_summary(self) -> bool:
        """Replaces the summary's file; returns whether it succeeded."""


def empty_summary(status: str) -> dict[str, Any]:
    """The first keys of a summary, with nothing counted."""
    nothing = dict.fromkeys(("min", "max", "mean", "std"), math.nan)
    return {
        "total_metrics": 0,
        "total_errors": 0,
        "training_duration": "0:00:00",
        "loss_stats": dict(nothing),
        "accuracy_stats": dict(nothing),
        "status": status,
    }
