"""A lock that nobody waits for longer than a second."""

from __future__ import annotations

from typing import Protocol


class _Lock(Protocol):
    def acquire(self, blocking: bool = ..., timeout: float = ...) -> bool: ...

    def release(self) -> None: ...


class Deadline:
    """Holds a re-entrant lock for a `with` block if it comes free within a second, and goes on without it
    otherwise: what the lock guards is bookkeeping, and no bookkeeping is worth a training that hangs."""

    __slots__ = ("_held", "_lock")

    def __init__(self, lock: _Lock) -> None:
        self._lock = lock
        self._held = False

    def __enter__(self) -> None:
        self._held = self._lock.acquire(timeout=1.0)

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._lock.release()
