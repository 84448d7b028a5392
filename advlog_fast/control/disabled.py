"""The control plane of a disabled logger: every call is accepted and does nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..checks import Intake
from ..records import ErrorLog
from .base import empty_summary
from .console import Console
from .error_text import message_of, type_of
from .events import Event
from .main_log import RunLogger
from .position import Position

# One handler for all: the end of a handler takes the logging module's lock, in any thread that collects garbage.
_NOWHERE = logging.NullHandler()


_said: list[bool] = []


def say_disabled() -> None:
    """Says once a process that the environment switched the logger off."""
    if not _said:
        _said.append(True)
        Console("plain", 0, logging.INFO).say("ADVLOG_DISABLED is set: nothing is logged")


class _NoConsole:
    def follow(self, position: Position) -> None: ...


class DisabledControl:
    """Takes the place of a :class:`ControlPlane`, so that no code has to ask whether logging is on."""

    status = "disabled"

    def __init__(self, name: str) -> None:
        self.logger = RunLogger(f"advlog_fast.{name}")
        self.handler = _NOWHERE
        self.logger.addHandler(_NOWHERE)
        self.console = _NoConsole()

    def emit(self, event: Event) -> None: ...
    def log_leaving(self, error: BaseException, operation: str) -> None: ...

    def context_started(self, path: tuple[str, ...]) -> int:  # noqa: ARG002 - nobody counts it
        return 0

    def context_ended(
        self, path: tuple[str, ...], started: int, duration_s: float, error: BaseException | None
    ) -> None: ...

    def write_summary(self) -> bool:
        return True

    def state(self) -> dict[str, Any]:
        return {}

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
        intake: Intake | None = None,  # noqa: ARG002
    ) -> ErrorLog:
        now = datetime.now(timezone.utc)
        values = dict(context) if type(context) is dict else {}
        return ErrorLog(type_of(error), message_of(error), operation, now, "", values, severity)

    def summary(self) -> dict[str, Any]:
        return empty_summary(self.status)
