"""The control plane of a child process: each event becomes a line of its parent's training log."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from .. import checks
from ..checks import Intake
from ..exceptions import tell
from ..records import ErrorLog
from . import events
from .base import empty_summary
from .console import Console
from .error_text import category_of, message_of, raise_site, traceback_text, type_of
from .events import Event
from .main_log import RunLogger, extra_text, message_of_record
from .masking import masked
from .text import clipped, escape

_MAX_BYTES = 4000
_MAX_MESSAGE = 1000


class ChildControl:
    """The control plane in a child, in place of its parent's :class:`ControlPlane`, whose files and locks the child
    must not use.

    Every method checks its arguments as the parent's does, and raises for nothing else.

    :param line: puts a line of a level into the child's ring; False where it cannot.
    :param leave_out: counts a line that nothing takes; None where the run has a training log for the lines to reach.
    """

    status = "worker"

    def __init__(
        self, name: str, level: int, line: Callable[[int, str], bool], leave_out: Callable[[], None] | None = None
    ) -> None:
        self._line = line
        self._leave_out = leave_out
        self.console = Console("off", 0, logging.CRITICAL)
        self.logger = RunLogger(f"advlog_fast.{name}", level)
        self.handler = _RingHandler(self._put)
        self.logger.addHandler(self.handler)

    def emit(self, event: Event) -> None:
        """A line of the parent's training log."""
        self._write(event)

    def state(self) -> dict[str, Any]:
        """Returns nothing: only the parent knows the training's position."""
        return {}

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
        intake: Intake | None = None,
    ) -> ErrorLog:
        """Writes an error as a line of the parent's training log; a warning or an error that no line can carry stands
        on standard error."""
        error, operation, context, severity = checks.report(intake or Intake(), error, operation, context, severity)
        fields = {
            **masked(context),
            "category": category_of(error),
            "operation": operation,
            "type": type_of(error),
            "message": clipped(message_of(error), _MAX_MESSAGE),
            "where": _place(error),
        }
        self._write(Event("error", fields, fields, int(getattr(logging, severity))))
        return ErrorLog(
            error_type=type_of(error),
            error_message=message_of(error),
            operation=operation,
            timestamp=datetime.now(timezone.utc),
            traceback=traceback_text(error),
            context=dict(context) if context else {},
            severity=severity,
        )

    def log_leaving(self, error: BaseException, operation: str) -> None:
        if isinstance(error, Exception):
            self.log_error(error, operation)

    def context_started(self, path: tuple[str, ...]) -> int:
        self._write(events.context_start(path))
        return 0

    def context_ended(self, path: tuple[str, ...], _: int, duration_s: float, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self.log_error(error, path[-1])
        self._write(events.context_end(path, duration_s))

    def summary(self) -> dict[str, Any]:
        """Returns the first keys of a summary without counts, which only the parent has."""
        return empty_summary(self.status)

    def write_summary(self, _timeout_s: float = 0.0, *, sync: bool = False) -> bool:  # noqa: ARG002
        return True

    def _write(self, event: Event) -> bool:
        return self._put(event.level, clipped(event.line(), _MAX_BYTES))

    def _put(self, level: int, line: str) -> bool:
        """Returns whether the line reaches the training log. Where it cannot, it counts as dropped, and a warning or an
        error stands on standard error."""
        written = self._leave_out is None and self._line(level, line)
        if self._leave_out is not None:
            self._leave_out()
        if not written and level >= logging.WARNING:
            tell(line)
        return written


def _place(error: BaseException | str) -> str | None:
    """Where it was raised: the traceback itself has no room in a line."""
    file, number = raise_site(error)
    return f"{file}:{number}" if file else None


class _RingHandler(logging.Handler):
    def __init__(self, line: Callable[[int, str], bool]) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        text = message_of_record(record)
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            text += f" {type_of(error)}: {message_of(error)}"
        self._line(record.levelno, clipped(escape(text) + extra_text(record), _MAX_BYTES))
