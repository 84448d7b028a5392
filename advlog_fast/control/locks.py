"""A lock that nobody waits for longer than a deadline."""

from __future__ import annotations

from typing import Protocol


class _Lock(Protocol):
    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...

    def release(self) -> None: ...


class Deadline:
    """Holds a re-entrant lock for a `with` block if it comes free within `timeout_s`, and goes on without it
    otherwise: what the lock guards is bookkeeping, and no bookkeeping is worth a training that hangs."""

    __slots__ = ("_held", "_lock", "_timeout_s")

    def __init__(self, lock: _Lock, timeout_s: float = 1.0) -> None:
        self._lock = lock
        self._timeout_s = timeout_s
        self._held = False

    def __enter__(self) -> None:
        self._held = self._lock.acquire(timeout=self._timeout_s)

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._lock.release()
