"""Writes NAME_errors.log: each error at once, in full the first times, then counted; and the recoveries."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from .._native import Guard
from ..records import ErrorLog
from .error_text import category_of, message_of, raise_site, traceback_lines, traceback_text, type_of
from .line_file import LineFile
from .masking import masked
from .text import clipped, dumps, fields_text, quoted, time_text, value_text

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
    """The result of recording one error."""

    log: ErrorLog
    id: str
    """`e1`, `e2` ...; that of its first copy for an error that was only counted."""
    category: str
    context: dict[str, Any]
    """The context, readable and without secrets."""
    count: int
    """How often this error, or an equal one, has occurred so far."""
    written: bool
    """Whether it was to be written; False in a storm, where it is only counted."""


@dataclass(frozen=True)
class _Entry:
    """The file's entry for an error."""

    time_ns: int
    severity: str
    category: str
    operation: str
    kind: str
    message: str
    context: dict[str, Any]


@dataclass
class _Storm:
    id: str
    head: str
    severity: str
    count: int = 0
    written: int = 0


class ErrorRecorder:
    """Writes errors to their log and counts them.

    Errors are equal if they have the same type, operation, raising line and message (numbers in it aside).
    """

    def __init__(self, file: LineFile, attempt: int) -> None:
        self._file = file
        self._attempt = attempt
        self._lock = Guard()
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
        result is empty for an error that was only counted. The arguments are checked before."""
        entry = _Entry(
            time_ns=time.time_ns(),
            severity=severity,
            category=category_of(error),
            operation=operation,
            kind=type_of(error),
            message=clipped(message_of(error), _MAX_MESSAGE),
            context=masked({} if context is None else context),
        )
        with self._lock:
            storm, error_id, count = self._counted(entry, raise_site(error))
        full = count <= FULL_COPIES
        written = full or count & (count - 1) == 0
        if full:
            self._write(entry, error_id, traceback_lines(error))
        elif written:
            self._tell_repeats(storm)
        log = ErrorLog(
            error_type=entry.kind,
            error_message=message_of(error),
            operation=operation,
            timestamp=datetime.fromtimestamp(entry.time_ns / 1e9, timezone.utc),
            # Formatting a traceback costs most: a storm pays for it only where it is written.
            traceback=traceback_text(error) if full else "",
            context=dict(context) if context else {},
            severity=severity,
        )
        return RecordedError(log, error_id, entry.category, entry.context, count, written)

    def _counted(self, entry: _Entry, site: tuple[str, int]) -> tuple[_Storm, str, int]:
        """Counts an error under the lock; returns its storm, its id, and how often it has occurred."""
        key = (entry.kind, entry.operation, _DIGITS.sub("#", entry.message[:200]), site, entry.severity)
        storm = self._storms.get(key)
        if storm is None:
            head = self._head(replace(entry, context={}))
            storm = self._storms[key] = _Storm(f"e{self._next_id}", head, entry.severity)
            while len(self._storms) > MAX_DISTINCT:
                self._tell_repeats(self._storms.popitem(last=False)[1])
        self._storms.move_to_end(key)
        storm.count += 1
        error_id = storm.id
        if storm.count <= FULL_COPIES:
            error_id = f"e{self._next_id}"
            self._next_id += 1
            storm.written = storm.count
        else:
            self._repeated += 1
        self._total += 1
        for counts, name in ((self._by_category, entry.category), (self._by_severity, entry.severity)):
            counts[name] = counts.get(name, 0) + 1
        self._remember_operation(entry.operation, entry.category)
        self._last = {
            "id": error_id,
            "timestamp": time_text(entry.time_ns),
            "severity": entry.severity,
            "category": entry.category,
            "operation": entry.operation,
            "type": entry.kind,
            "message": entry.message,
            "context": entry.context,
        }
        return storm, error_id, storm.count

    def add_context(
        self,
        recorded: RecordedError,
        operation: str,
        context: Mapping[str, Any] | None,
        severity: str,
    ) -> RecordedError:
        """Adds the information of a later report of the same exception, which does not count again. The result's
        context is what was added."""
        log = recorded.log
        entry = _Entry(
            time_ns=time.time_ns(),
            severity=severity,
            category=recorded.category,
            operation=operation or log.operation,
            kind=log.error_type,
            message=clipped(log.error_message, _MAX_MESSAGE),
            context=masked({} if context is None else context),
        )
        with self._lock:
            if severity != log.severity:
                for name, change in ((log.severity, -1), (severity, 1)):
                    self._by_severity[name] = self._by_severity.get(name, 0) + change
            self._remember_operation(entry.operation, entry.category)
            if self._last is not None and self._last["id"] == recorded.id:
                merged = {**self._last["context"], **entry.context}
                self._last.update(operation=entry.operation, severity=severity, context=merged)
        if recorded.written:
            more = f"reported again on its way out; its traceback stands at the first id={recorded.id}"
            self._write(entry, recorded.id, [more])
        both = {**log.context, **(context or {})}
        merged_log = replace(log, operation=entry.operation, context=both, severity=severity)
        return replace(recorded, log=merged_log, context=entry.context)

    def recovery(self, operation: str, action: str, success: bool = True) -> str:
        """Writes an attempt to recover from the last error of `operation`; the category it counts for, which
        is "other" where the operation had no error."""
        with self._lock:
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
        with self._lock:
            return {
                "total": self._total,
                "by_category": dict(self._by_category),
                "by_severity": {name: count for name, count in self._by_severity.items() if count},
                "repeated": self._repeated,
                "last": dict(self._last) if self._last else None,
            }

    def recoveries(self) -> dict[str, dict[str, float]]:
        """For each category: `attempts`, `successes` and `rate`, their share."""
        with self._lock:
            return {
                category: {"attempts": attempts, "successes": successes, "rate": successes / attempts}
                for category, (attempts, successes) in self._recoveries.items()
            }

    def close(self) -> None:
        """Writes the counts of the storms that the file lacks; the owner closes the file."""
        with self._lock:
            storms = list(self._storms.values())
        for storm in storms:
            self._tell_repeats(storm)

    def _write(self, entry: _Entry, error_id: str, more: list[str]) -> None:
        lines = [f"{time_text(entry.time_ns)} {entry.severity} id={error_id} {self._head(entry)}"]
        if entry.context:
            lines.append(f"context {dumps(entry.context)}")
        self._file.write("\n  | ".join([*lines, *more]) + "\n", sync=entry.severity in _SYNCED)

    def _tell_repeats(self, storm: _Storm) -> None:
        """Writes how often the error has occurred, unless the file has that number."""
        if storm.count > storm.written:
            storm.written = storm.count
            now = time_text(time.time_ns())
            self._file.write(f"{now} {storm.severity} id={storm.id} repeated={storm.count} {storm.head}\n")

    def _head(self, entry: _Entry) -> str:
        place = _place(entry.context)
        fields = {"attempt": self._attempt, "category": entry.category, "operation": entry.operation, **place}
        return f"{fields_text(fields)} type={value_text(entry.kind)} message={quoted(entry.message)}"

    def _remember_operation(self, operation: str, category: str) -> None:
        self._last_category[operation] = category
        self._last_category.move_to_end(operation)
        while len(self._last_category) > _MAX_OPERATIONS:
            self._last_category.popitem(last=False)


def _place(context: Mapping[str, Any]) -> dict[str, Any]:
    return {name: context[name] for name in ("epoch", "batch") if isinstance(context.get(name), (int, float, str))}
