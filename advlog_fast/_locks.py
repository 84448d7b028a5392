"""Locks that tell whether another process lives."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

RECOVERING = ", which recovers it"
COMPACTING = ", which compacts it"
"""What the owner's name ends with where it is no logger, but a recovery or a compaction, which ends by itself."""


class LockedError(Exception):
    """The lock is held by another live process, which the message names."""


class FileLock:
    """A POSIX record lock on a file of its own, held until `release` or the end of the process, however it ends.

    Not inherited by a fork, freed by a SIGKILL. The kernel would free it too if this process closed any other
    descriptor of the file, and would grant this process a second lock on it: so a process opens such a file once, and
    never asks for a lock that it holds (see :meth:`held_here`).

    :param doing: said of this process to whoever finds the lock held.
    :raises LockedError: another live process holds it.
    :raises OSError: the file cannot be opened.
    """

    _held: dict[str, int] = {}  # noqa: RUF012 - one table a process: path to the pid that holds it

    def __init__(self, path: Path, doing: str = "") -> None:
        self.path = os.path.realpath(path)
        self._pid = os.getpid()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.pread(self._fd, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
            os.close(self._fd)
            raise LockedError(owner) from None
        except OSError:
            pass  # a file system without locks: claims still keep the files of two attempts apart
        name = f"pid {self._pid} on {os.uname().nodename}{doing}\n".encode()
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only nobody is told whose it is
            os.pwrite(self._fd, name, 0)
            os.ftruncate(self._fd, len(name))
        self._held[self.path] = self._pid

    @classmethod
    def held_here(cls, path: Path) -> bool:
        """Whether this very process holds the lock of that file."""
        return cls._held.get(os.path.realpath(path)) == os.getpid()

    def release(self, *, remove: bool = False) -> None:
        """Frees the lock, once; `remove` takes its file away first. A forked child frees nothing."""
        if self._fd < 0 or os.getpid() != self._pid:
            return
        if remove and os.path.exists(self.path):
            os.unlink(self.path)
        self._held.pop(self.path, None)
        os.close(self._fd)
        self._fd = -1
