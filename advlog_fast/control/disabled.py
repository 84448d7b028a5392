"""The control plane of a disabled logger: every call is accepted and does nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from ..records import ErrorLog
from .base import empty_summary
from .contexts import DisabledContext
from .milestones import Progress
from .position import Position

# One for all: a handler that the module knows ends under the module's lock, wherever the collector happens to be.
_NOWHERE = logging.NullHandler()


class _NoConsole:
    def follow(self, position: Position) -> None: ...


class DisabledControl:
    """Stands where a :class:`ControlPlane` stands, so that nothing has to ask whether logging is on."""

    status = "disabled"

    def __init__(self, name: str) -> None:
        self.logger = logging.Logger(f"advlog_fast.{name}")  # noqa: LOG001 - one a run, not one a process
        self.logger.addHandler(_NOWHERE)
        self.console = _NoConsole()

    def start_training(self, config: object = None) -> None: ...
    def end_training(self, final_metrics: Mapping[str, Any] | None = None) -> None: ...
    def start_epoch(self, epoch: int, total_epochs: int | None = None) -> None: ...
    def end_epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> None: ...
    def log_validation(self, epoch: int, metrics: Mapping[str, Any], is_best: bool = False) -> None: ...
    def log_hyperparameters(self, hyperparameters: object) -> None: ...
    def log_model_info(self, model: Any) -> None: ...
    def log_recovery(self, operation: str, action: str, success: bool = True) -> None: ...
    def log_event(self, name: str, /, **fields: Any) -> None: ...
    def log_leaving(self, error: BaseException, operation: str) -> None: ...
    def milestone(self, passed: Progress) -> None: ...
    def write_summary(self) -> None: ...
    def resume(self, state: object) -> None: ...

    def state(self) -> dict[str, Any]:
        return {}

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
    ) -> ErrorLog:
        kind = type(error).__name__ if isinstance(error, BaseException) else "str"
        now = datetime.now(timezone.utc)
        return ErrorLog(kind, str(error), operation, now, "", dict(context or {}), severity)

    def training_context(self, _name: str) -> DisabledContext:
        return DisabledContext()

    def summary(self) -> dict[str, Any]:
        return empty_summary(self.status)
