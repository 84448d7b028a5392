"""NAME_errors.log: every error at once, whole the first times and counted in a storm; and the recoveries from
them."""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from ..exceptions import expected
from ..records import SEVERITIES, ErrorLog
from .error_text import category_of, message_of, raise_site, traceback_lines, traceback_text, type_of
from .line_file import LineFile
from .locks import Deadline
from .masking import masked
from .text import clipped, dumps, escape, fields_text, quoted, time_text, value_text

FULL_COPIES = 5
"""Equal errors written whole; of those that follow, one line at every power of two."""

MAX_DISTINCT = 1000
"""Different errors whose repetition is known; the one seen longest ago is forgotten first."""

_SYNCED = ("ERROR", "CRITICAL")
_DIGITS = re.compile(r"0[xX][0-9a-fA-F]+|\d+")
_MAX_MESSAGE = 4000
_MAX_OPERATIONS = 1000


@dataclass(frozen=True)
class RecordedError:
    """What became of one error."""

    log: ErrorLog
    id: str
    """`e1`, `e2` ...; that of its first copy for an error that was only counted."""
    category: str
    count: int
    """How often this error, or one equal to it, came so far."""
    written: bool
    """Whether it was due to be written: false inside a storm, where it is only counted."""


@dataclass
class _Storm:
    id: str
    head: str
    severity: str
    count: int = 0
    told: int = 0


class ErrorRecorder:
    """Writes errors to their log and counts them.

    Errors are equal that share type, operation, raising line and, numbers aside, message.
    """

    def __init__(self, file: LineFile, attempt: int) -> None:
        self._file = file
        self._attempt = attempt
        self._lock = threading.RLock()
        self._storms: OrderedDict[tuple[object, ...], _Storm] = OrderedDict()
        self._last_category: OrderedDict[str, str] = OrderedDict()
        self._next_id = 1
        self._total = 0
        self._repeated = 0
        self._by_category: dict[str, int] = {}
        self._by_severity: dict[str, int] = {}
        self._recoveries: dict[str, list[int]] = {}
        self._last: dict[str, Any] | None = None

    @property
    def total(self) -> int:
        """Errors recorded, the repeated ones included."""
        return self._total

    def record(
        self,
        error: BaseException | str,
        operation: str = "",
        context: Mapping[str, Any] | None = None,
        severity: str = "ERROR",
    ) -> RecordedError:
        """Writes the error now; from ERROR on it is on the disk when this returns. The traceback in the
        result is empty for an error that was only counted.

        :raises TypeError: the error is neither an exception nor a text, or another argument has the wrong
            type.
        :raises ValueError: the severity is unknown.
        """
        severity = checked_severity(severity)
        shown_context = checked_context(error, operation, context)
        when_ns = time.time_ns()
        category, kind, message = category_of(error), type_of(error), clipped(message_of(error), _MAX_MESSAGE)
        site = raise_site(error)
        key = (kind, operation, _DIGITS.sub("#", message[:200]), site, severity)
        with Deadline(self._lock):
            storm = self._storms.get(key)
            if storm is None:
                head = self._head(category, operation, {}, kind, message)
                storm = self._storms[key] = _Storm(f"e{self._next_id}", head, severity)
                while len(self._storms) > MAX_DISTINCT:
                    self._tell_repeats(self._storms.popitem(last=False)[1])
            self._storms.move_to_end(key)
            storm.count += 1
            count = storm.count
            full = count <= FULL_COPIES
            self._total += 1
            self._repeated += not full
            self._by_category[category] = self._by_category.get(category, 0) + 1
            self._by_severity[severity] = self._by_severity.get(severity, 0) + 1
            self._remember_operation(operation, category)
            error_id = storm.id
            if full:
                error_id = f"e{self._next_id}"
                self._next_id += 1
                storm.told = count
            self._last = {
                "id": error_id,
                "timestamp": time_text(when_ns),
                "severity": severity,
                "category": category,
                "operation": operation,
                "type": kind,
                "message": message,
                "context": shown_context,
            }
        written = full or count & (count - 1) == 0
        if full:
            head = self._head(category, operation, shown_context, kind, message)
            self._write(when_ns, severity, error_id, head, shown_context, traceback_lines(error))
        elif written:
            self._tell_repeats(storm)
        log = ErrorLog(
            error_type=kind,
            error_message=message_of(error),
            operation=operation,
            timestamp=datetime.fromtimestamp(when_ns / 1e9, timezone.utc),
            # Formatting is the dear part of an error: a storm pays it only where it is written.
            traceback=traceback_text(error) if full else "",
            context=dict(context) if context else {},
            severity=severity,
        )
        return RecordedError(log, error_id, category, count, written)

    def add_context(
        self,
        recorded: RecordedError,
        operation: str,
        context: Mapping[str, Any] | None,
        severity: str,
    ) -> RecordedError:
        """Adds what a later report of the same exception knows; it counts no second time."""
        severity = checked_severity(severity)
        shown_context = checked_context("", operation, context)
        operation = operation or recorded.log.operation
        with Deadline(self._lock):
            if severity != recorded.log.severity:
                for name, change in ((recorded.log.severity, -1), (severity, 1)):
                    self._by_severity[name] = self._by_severity.get(name, 0) + change
            self._remember_operation(operation, recorded.category)
            if self._last is not None and self._last["id"] == recorded.id:
                merged = {**self._last["context"], **shown_context}
                self._last.update(operation=operation, severity=severity, context=merged)
        if recorded.written:
            log = recorded.log
            head = self._head(
                recorded.category,
                operation,
                shown_context,
                log.error_type,
                clipped(log.error_message, _MAX_MESSAGE),
            )
            more = f"reported again on its way out; its traceback stands at the first id={recorded.id}"
            self._write(time.time_ns(), severity, recorded.id, head, shown_context, [more])
        merged_context = {**recorded.log.context, **(context or {})}
        merged_log = replace(recorded.log, operation=operation, context=merged_context, severity=severity)
        return replace(recorded, log=merged_log)

    def recovery(self, operation: str, action: str, success: bool = True) -> str:
        """Writes an attempt to recover from the last error of `operation`; the category it counts for, which
        is "other" where the operation had no error.

        :raises TypeError: an argument has the wrong type.
        """
        for name, value in (("operation", operation), ("action", action)):
            if not isinstance(value, str):
                raise TypeError(expected(name, "a string", value))
        if not isinstance(success, bool):
            raise TypeError(expected("success", "True or False", success))
        with Deadline(self._lock):
            category = self._last_category.get(operation, "other")
            counts = self._recoveries.setdefault(category, [0, 0])
            counts[0] += 1
            counts[1] += success
        fields = {"operation": operation, "action": action, "success": success, "category": category}
        level = "INFO" if success else "WARNING"
        self._file.write(
            f"{time_text(time.time_ns())} {level} recovery attempt={self._attempt} {fields_text(fields)}\n"
        )
        return category

    def summary(self) -> dict[str, Any]:
        """`total`, `by_category`, `by_severity`, `repeated` (counted, not written whole) and `last`."""
        with Deadline(self._lock):
            return {
                "total": self._total,
                "by_category": dict(self._by_category),
                "by_severity": {name: count for name, count in self._by_severity.items() if count},
                "repeated": self._repeated,
                "last": dict(self._last) if self._last else None,
            }

    def recoveries(self) -> dict[str, dict[str, float]]:
        """For each category: `attempts`, `successes` and `rate`, their share."""
        with Deadline(self._lock):
            return {
                category: {"attempts": attempts, "successes": successes, "rate": successes / attempts}
                for category, (attempts, successes) in self._recoveries.items()
            }

    def close(self) -> None:
        """Writes the counts of the storms that were not told yet; the file is its owner's to close."""
        with Deadline(self._lock):
            storms = list(self._storms.values())
        for storm in storms:
            self._tell_repeats(storm)

    def _write(
        self, when_ns: int, severity: str, error_id: str, head: str, context: Mapping[str, Any], more: list[str]
    ) -> None:
        lines = [f"{time_text(when_ns)} {severity} id={error_id} {head}"]
        if context:
            lines.append(f"context {escape(dumps(context))}")
        self._file.write("\n  | ".join([*lines, *more]) + "\n", sync=severity in _SYNCED)

    def _tell_repeats(self, storm: _Storm) -> None:
        """Writes how often it came by now, unless that stands in the file already."""
        if storm.count > storm.told:
            storm.told = storm.count
            now = time_text(time.time_ns())
            self._file.write(f"{now} {storm.severity} id={storm.id} repeated={storm.count} {storm.head}\n")

    def _head(self, category: str, operation: str, context: Mapping[str, Any], kind: str, message: str) -> str:
        fields = {"attempt": self._attempt, "category": category, "operation": operation, **_place(context)}
        return f"{fields_text(fields)} type={value_text(kind)} message={quoted(message)}"

    def _remember_operation(self, operation: str, category: str) -> None:
        self._last_category[operation] = category
        self._last_category.move_to_end(operation)
        while len(self._last_category) > _MAX_OPERATIONS:
            self._last_category.popitem(last=False)


def checked_severity(severity: object) -> str:
    """The severity in capitals.

    :raises TypeError: it is no string.
    :raises ValueError: it is none of the severities.
    """
    wanted = "one of " + ", ".join(SEVERITIES)
    if not isinstance(severity, str):
        raise TypeError(expected("severity", wanted, severity))
    if severity.upper() not in SEVERITIES:
        raise ValueError(expected("severity", wanted, severity))
    return severity.upper()


def checked_context(error: object, operation: object, context: object) -> dict[str, Any]:
    """The context, readable and without secrets, once all three arguments are what they should be.

    :raises TypeError: one of them has the wrong type.
    """
    if not isinstance(error, (BaseException, str)):
        raise TypeError(expected("error", "an exception or a string", error))
    if not isinstance(operation, str):
        raise TypeError(expected("operation", "a string", operation))
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        raise TypeError(expected("context", "a mapping or None", context))
    return masked(context)


def _place(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: context[name] for name in ("epoch", "batch") if isinstance(context.get(name), (int, float, str))}
