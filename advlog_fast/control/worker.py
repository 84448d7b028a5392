"""The control plane of a child process: what it is told becomes a line of its parent's training log."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any

from ..records import ErrorLog
from . import checks
from .base import empty_summary
from .console import Console
from .contexts import TrainingContext
from .error_text import category_of, message_of, traceback_text, type_of
from .main_log import message_of_record
from .masking import masked
from .milestones import Progress
from .model_info import describe_model
from .resumption import checked_state
from .text import clipped, escape, fields_text

_MAX_BYTES = 4000
_MAX_MESSAGE = 1000


class WorkerControl:
    """Stands in a child where a :class:`ControlPlane` stands in its parent, whose files and locks are not the child's.

    Every method checks its arguments as that one's does, and raises for nothing else.

    :param line: puts a line of a level into the child's ring; False where it cannot.
    :param has_text: whether the run has a training log for the lines to reach.
    """

    status = "worker"

    def __init__(self, name: str, level: int, line: Callable[[int, str], bool], has_text: bool = True) -> None:
        self._line = line
        self._has_text = has_text
        self.console = Console("off", 0, logging.CRITICAL)
        self.logger = logging.Logger(f"advlog_fast.{name}", level)  # noqa: LOG001 - one a run, not one a process
        self.logger.addHandler(_RingHandler(line))

    def start_training(self, config: object = None) -> None:
        given = checks.settings("config", config) if config is not None else {}
        self._tell(logging.INFO, "training_start", masked(given))

    def end_training(self, final_metrics: Mapping[str, Any] | None = None) -> None:
        given = checks.mapping("final_metrics", final_metrics) if final_metrics is not None else {}
        self._tell(logging.INFO, "training_end", masked(given))

    def start_epoch(self, epoch: int, total_epochs: int | None = None) -> None:
        total = checks.whole_or_none("total_epochs", total_epochs)
        self._tell(logging.INFO, "epoch_start", {"epoch": checks.whole("epoch", epoch), "total_epochs": total})

    def end_epoch(self, epoch: int, metrics: Mapping[str, Any] | None = None) -> None:
        values = checks.metric_values("metrics", metrics) if metrics is not None else {}
        self._tell(logging.INFO, "epoch_end", {"epoch": checks.whole("epoch", epoch), **values})

    def log_validation(self, epoch: int, metrics: Mapping[str, Any], is_best: bool = False) -> None:
        values = checks.metric_values("metrics", metrics)
        best = {"best": True} if checks.flag("is_best", is_best) else {}
        self._tell(logging.INFO, "validation", {"epoch": checks.whole("epoch", epoch), **values, **best})

    def state(self) -> dict[str, Any]:
        """Nothing: where the training stands is its parent's to say."""
        return {}

    def resume(self, state: object) -> None:
        origin = checked_state(state)
        if origin is not None:
            self._tell(logging.INFO, "resumed", origin)

    def log_hyperparameters(self, hyperparameters: object) -> None:
        self._tell(logging.INFO, "hyperparameters", masked(checks.settings("hyperparameters", hyperparameters)))

    def log_model_info(self, model: Any) -> None:
        found = masked(describe_model(model))
        self._tell(logging.INFO, "model", {name: value for name, value in found.items() if name != "layers"})

    def log_recovery(self, operation: str, action: str, success: bool = True) -> None:
        fields = {
            "operation": checks.text("operation", operation),
            "action": checks.text("action", action),
            "success": checks.flag("success", success),
        }
        self._tell(logging.INFO if success else logging.WARNING, "recovery", fields)

    def log_event(self, name: str, /, **fields: Any) -> None:
        self._tell(logging.INFO, escape(checks.text("name", name)), masked(fields))

    def milestone(self, passed: Progress) -> None:
        self._tell(logging.INFO, "milestone", passed.fields())

    def log_error(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
    ) -> ErrorLog:
        """An error is the last thing to lose: where no line can tell of it, it is said on stderr."""
        severity = checks.report(error, operation, context, severity)
        given = masked(context or {})
        fields = {
            "category": category_of(error),
            "operation": operation,
            "type": type_of(error),
            "message": clipped(message_of(error), _MAX_MESSAGE),
            **given,
        }
        told = self._tell(int(getattr(logging, severity)), "error", fields) and self._has_text
        if not told and sys.stderr is not None:
            print(f"advlog_fast: error {fields_text(fields)}", file=sys.stderr)  # noqa: T201
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

    def training_context(self, name: str) -> TrainingContext:
        return TrainingContext(self, checks.text("name", name))

    def context_started(self, path: tuple[str, ...]) -> int:
        self._tell(logging.INFO, "context_start", {"context": "/".join(path)})
        return 0

    def context_ended(self, path: tuple[str, ...], _: int, duration_s: float, error: BaseException | None) -> None:
        if isinstance(error, Exception):
            self.log_error(error, path[-1])
        fields = {"context": "/".join(path), "duration_s": round(duration_s, 6)}
        self._tell(logging.INFO, "context_end", fields)

    def summary(self) -> dict[str, Any]:
        """The guide's keys, with nothing counted: the numbers are the parent's."""
        return empty_summary(self.status)

    def write_summary(self, _timeout_s: float = 0.0, *, sync: bool = False) -> bool:  # noqa: ARG002
        return True

    def _tell(self, level: int, what: str, fields: Mapping[str, Any]) -> bool:
        return self._line(level, clipped(f"{what} {fields_text(fields)}".rstrip(), _MAX_BYTES))


class _RingHandler(logging.Handler):
    def __init__(self, line: Callable[[int, str], bool]) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        text = message_of_record(record)
        if record.exc_info and record.exc_info[1] is not None:
            text += f" {record.exc_info[1]!r}"
        self._line(record.levelno, clipped(escape(text), _MAX_BYTES))
