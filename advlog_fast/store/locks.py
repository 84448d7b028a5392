"""Locks that show whether another process is alive."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import struct
import time
from pathlib import Path

from .._native import lib
from .files import check_own, remove_own
from .processes import process_start

RECOVERING = ", which recovers it"
COMPACTING = ", which compacts it"
"""Ends of the owner's name for a recovery or a compaction: unlike a logger, these end soon."""

DEAD_OWNER_S = 2.0
"""How long a start and a recovery wait for the last child of a dead owner."""

_HELD = (errno.EAGAIN, errno.EACCES)
_TRIES = 8
_PAUSE_S = 0.005
_FORK_TRIES = 200
_FORK_PAUSE_S = 0.001
_OWNER = re.compile(r"pid (\d{1,10}) on (\S+)")


class LockedError(Exception):
    """Another live process, named in the message, holds the lock."""


class FileLock:
    """A lock on a file of its own, held until `release` or the end of the process, however it ends.

    It is an OFD lock, which belongs to the open file: closing another descriptor of the file, as a copy of the log
    folder does, does not free it. A forked child would keep it past the end of its parent, so a fork hook closes the
    child's descriptor. Without OFD locks or that hook, it is a POSIX record lock: a fork does not inherit one, but such
    a copy frees it. Both kinds exclude each other, and the locks of earlier versions.

    :param doing: text about this process, for the error message of a process that finds the lock held.
    :param dead_owner_s: how long to wait if the owner that the file names is dead. A child that a process forked just
        before it was killed holds the lock until the child's fork hook runs.
    :raises LockedError: another live process holds the lock.
    :raises OSError: the file cannot be opened, or is not ours.
    """

    _held: dict[str, int] = {}  # noqa: RUF012 - one table a process: path to the pid that holds it

    def __init__(self, path: Path, doing: str = "", *, dead_owner_s: float = 0.0) -> None:
        self.path = os.path.realpath(path)
        self._pid = os.getpid()
        self._fd = -1
        self._by_file = False
        self._closes_on_fork = False
        self._key = (0, 0)
        deadline = time.monotonic() + dead_owner_s
        while True:
            try:
                self._take(path)
                break
            except LockedError as owner:
                self._close()
                if time.monotonic() >= deadline or not has_ended(str(owner)):
                    raise
            except BaseException:
                self._close()
                raise
            time.sleep(_PAUSE_S)
        name = f"pid {self._pid} on {os.uname().nodename}{doing}\n".encode()
        # After a failure (full disk, second name of the file) the lock holds; others only do not learn its owner.
        with contextlib.suppress(OSError):
            check_own(os.fstat(self._fd), path, sole=True)
            os.pwrite(self._fd, name, 0)
            os.ftruncate(self._fd, len(name))
        self._held[self.path] = self._pid

    def _take(self, path: Path) -> None:
        for remaining in reversed(range(_TRIES)):
            self._open(path)
            # The previous holder may have removed the file between the open and the lock.
            if self._is_in_place(path, any_inode=not remaining):
                return
            self._close()
        raise LockedError("a process that is ending")

    def _open(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        for _ in range(_FORK_TRIES):
            moment = lib.advlog_fork_moment()
            self._fd = os.open(path, flags, 0o600)
            status = os.fstat(self._fd)
            self._key = status.st_dev, status.st_ino  # before any close, which asks whether it is still the lock's
            self._closes_on_fork = lib.advlog_close_on_fork(self._fd) == 0
            if not self._closes_on_fork or (moment and moment == lib.advlog_fork_moment()):
                break
            # A child that another thread forked meanwhile has the open file, and would have the lock.
            self._close()
            time.sleep(_FORK_PAUSE_S)
        else:
            raise LockedError("a process that forks all the time")
        if status.st_nlink:
            check_own(status, path)
        try:
            self._lock()
        except OSError as error:
            if error.errno not in _HELD:
                return  # a file system without locks: claims still separate the files of two attempts
            owner = os.pread(self._fd, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
            raise LockedError(owner) from None

    def _lock(self) -> None:
        """:raises OSError: the lock is held, or the file system has no locks."""
        if hasattr(fcntl, "F_OFD_SETLK") and self._closes_on_fork:
            try:
                fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK))
            except OSError as error:
                if error.errno in _HELD:
                    raise
                lib.advlog_keep_on_fork(self._fd)
            else:
                self._by_file = True
                return
        fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _is_in_place(self, path: Path, *, any_inode: bool) -> bool:
        """Returns whether `path` is the open file.

        :param any_inode: accept any file at `path`: some file systems renumber files.
        """
        mine = os.fstat(self._fd)
        try:
            current = os.lstat(path)
        except FileNotFoundError:
            return False
        return any_inode or (current.st_dev, current.st_ino) == (mine.st_dev, mine.st_ino)

    def _is_open(self, fd: int) -> bool:
        """Returns whether the descriptor is still the lock's: a program may close descriptors that it does not own."""
        try:
            status = os.fstat(fd)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._key

    @classmethod
    def held_here(cls, path: Path) -> bool:
        """Returns whether this process holds the lock of that file."""
        return cls._held.get(os.path.realpath(path)) == os.getpid()

    def release(self, *, remove: bool = False) -> None:
        """Frees the lock; a second call does nothing, and so does a call in a forked child.

        :param remove: remove the lock file first.
        """
        if self._fd < 0 or os.getpid() != self._pid:
            return
        if remove:
            remove_own(self.path)
        self._held.pop(self.path, None)
        self._close()

    def __del__(self) -> None:
        # An interrupt may leave the lock without anything that refers to it.
        with contextlib.suppress(Exception):
            self.release()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        is_open = self._is_open(fd)
        with contextlib.suppress(OSError):
            # Unlock first: a child forked before the close inherits an open file without a lock.
            if is_open and self._by_file:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK))
        lib.advlog_keep_on_fork(fd)
        with contextlib.suppress(OSError):
            if is_open:
                os.close(fd)


def has_ended(owner: str) -> bool:
    """Returns whether the process that a lock file names ran on this host and has ended."""
    match = _OWNER.match(owner)
    if match is None or match[2].rstrip(",") != os.uname().nodename or not process_start(os.getpid()):
        return False
    return process_start(int(match[1])) == 0


def _flock(kind: int) -> bytes:
    """Returns a `struct flock` for the whole file."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)
