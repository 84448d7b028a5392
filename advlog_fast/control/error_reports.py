"""Sends errors to the outputs. Each exception counts once, whether a context, the standard logger, the user or the end
of the run reports it first."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .. import checks
from ..checks import Intake
from ..records import SEVERITIES, ErrorLog
from .errors import ErrorRecorder, RecordedError
from .events import Event
from .recorded_errors import RecordedErrors
from .text import clipped

_MAX_MESSAGE = 1000
_MAX_CONSOLE_MESSAGE = 120


class ErrorReports:
    """The errors of one attempt of one rank. Any thread.

    :param emit: writes an event, to the main log too if the flag says so.
    """

    def __init__(self, recorder: ErrorRecorder, emit: Callable[[Event, bool], None]) -> None:
        self.recorder = recorder
        self._recorded = RecordedErrors()
        self._emit = emit

    def log(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
        intake: Intake | None = None,
    ) -> ErrorLog:
        """Writes the error to errors.log now. An exception that a context has recorded before does not count again:
        this report adds to the first."""
        error, operation, context, severity = checks.report(intake or Intake(), error, operation, context, severity)
        before = self._recorded.take(error)
        if before is None:
            return self._record(error, operation, context, severity, by_context=False).log
        added = self.recorder.add_context(before, operation, context, severity)
        if added.written:
            fields = {"id": added.id, "operation": added.log.operation, "context": added.context}
            level = int(getattr(logging, severity))
            self._emit(Event("error_context", fields, {}, level, in_training_log=False), False)
        return added.log

    def log_once(self, error: BaseException, operation: str) -> None:
        """Writes an exception that leaves the run, unless it was recorded before."""
        if isinstance(error, Exception) and not self.is_recorded(error):
            self.log(error, operation)

    def log_from_context(self, error: Exception, operation: str, context: Mapping[str, Any]) -> None:
        """Writes an exception that leaves a context."""
        self._record(error, operation, context, "ERROR", by_context=True)

    def log_from_logger(self, error: BaseException, level: int, function: str, message: str) -> None:
        """Writes an exception that came with a message to the main log, which has the message only; not if it was
        recorded before."""
        if self.is_recorded(error):
            return
        severity = next((name for name in reversed(SEVERITIES) if getattr(logging, name) <= level), SEVERITIES[0])
        self._record(error, function, {"logged": message}, severity, by_context=True, in_main_log=False)

    def recovered(self, event: Event) -> Event:
        """Counts a recovery, and returns it with the category of its error."""
        fields = event.fields
        category = self.recorder.recovery(fields["operation"], fields["action"], fields["success"])
        completed = {**fields, "category": category}
        return replace(event, fields=completed, shown=completed)

    def is_recorded(self, error: BaseException, since: int = 0) -> bool:
        """Returns whether the exception was recorded, after the moment that `tick` gave."""
        return self._recorded.since(error, since)

    def tick(self) -> int:
        """This moment, for `is_recorded`."""
        return self._recorded.tick()

    def _record(
        self,
        error: BaseException | str,
        operation: str,
        context: Mapping[str, Any] | None,
        severity: str,
        *,
        by_context: bool,
        in_main_log: bool = True,
    ) -> RecordedError:
        recorded = self.recorder.record(error, operation, context, severity)
        self._recorded.remember(error, recorded, by_context=by_context)
        if recorded.written:  # in a storm, as rarely as errors.log does
            self._emit(_event_of(recorded), in_main_log)
        return recorded


def _event_of(recorded: RecordedError) -> Event:
    log = recorded.log
    fields: dict[str, Any] = {
        "id": recorded.id,
        "category": recorded.category,
        "operation": log.operation,
        "type": log.error_type,
        "message": clipped(log.error_message, _MAX_MESSAGE),
        "repeated": recorded.count if recorded.count > 1 else None,
    }
    level = int(getattr(logging, log.severity))
    # Python's own traceback follows on the console, where the error leaves the program.
    brief = {**fields, "message": clipped(log.error_message, _MAX_CONSOLE_MESSAGE)}
    return Event(
        "error",
        {**fields, "context": recorded.context},
        fields,
        level,
        console=log.severity.lower(),
        console_fields=brief,
    )
