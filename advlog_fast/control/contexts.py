"""`training_context`: named spans of the training, their durations, and the errors that leave them."""

from __future__ import annotations

import contextvars
import time
from types import TracebackType
from typing import Any, Protocol

from .._native import Guard

_MAX_NAMES = 1000

# A task or a thread has its own; entries name the owner, for contexts of two loggers may nest.
_Path = tuple[tuple[int, str], ...]
_open: contextvars.ContextVar[_Path] = contextvars.ContextVar("advlog_fast_contexts", default=())


class ContextOwner(Protocol):
    """The receiver of a context's start and end."""

    def context_started(self, path: tuple[str, ...]) -> int:
        """Takes in the start of a context; `path` has the names of the contexts around it and its own. Returns a number
        for the end."""

    def context_ended(
        self, path: tuple[str, ...], started: int, duration_s: float, error: BaseException | None
    ) -> None:
        """Takes in the end of a context, by `error` or normally."""


class TrainingContext:
    """Logs when a block starts and ends, and an exception that leaves it, which goes on to the caller.

    For `with` and `async with`; blocks may nest, and one object may be used again.
    """

    def __init__(self, owner: ContextOwner, name: str) -> None:
        self.name = name
        self._owner = owner
        self._entered: list[tuple[_Path, int, float]] = []

    def __enter__(self) -> TrainingContext:  # noqa: PYI034 - Self came with Python 3.11
        around = _open.get()
        _open.set((*around, (id(self._owner), self.name)))
        started = self._owner.context_started(self._path())
        self._entered.append((around, started, time.monotonic()))
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if not self._entered:
            return
        around, started, since_s = self._entered.pop()
        path = self._path()
        # Not by token: an async generator may be left in another context than it was entered in.
        _open.set(around)
        self._owner.context_ended(path, started, time.monotonic() - since_s, error)

    async def __aenter__(self) -> TrainingContext:  # noqa: PYI034
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _path(self) -> tuple[str, ...]:
        return tuple(name for owner, name in _open.get() if owner == id(self._owner)) or (self.name,)


class ContextStats:
    """Counts and durations by name."""

    def __init__(self) -> None:
        self._lock = Guard()
        self._by_name: dict[str, dict[str, Any]] = {}

    def started(self, name: str) -> None:
        """Counts one more open context of this name."""
        with self._lock:
            self._of(name)["open"] += 1

    def ended(self, name: str, duration_s: float, failed: bool) -> None:
        """Counts the end of one."""
        with self._lock:
            entry = self._of(name)
            entry["open"] = max(entry["open"] - 1, 0)
            entry["count"] += 1
            entry["errors"] += failed
            entry["total_s"] += duration_s
            entry["max_s"] = max(entry["max_s"], duration_s)
            entry["last_s"] = duration_s

    def summary(self) -> dict[str, dict[str, Any]]:
        """By name: `open`, `count` and `errors` of those that ended, `total_s`, `max_s`, `last_s`."""
        with self._lock:
            return {name: dict(entry) for name, entry in self._by_name.items()}

    def _of(self, name: str) -> dict[str, Any]:
        if name not in self._by_name and len(self._by_name) >= _MAX_NAMES:
            name = "(others)"
        empty = {"open": 0, "count": 0, "errors": 0, "total_s": 0.0, "max_s": 0.0, "last_s": 0.0}
        return self._by_name.setdefault(name, empty)
