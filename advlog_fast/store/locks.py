"""Locks that tell whether another process lives."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from pathlib import Path

from .._native import lib
from .files import check_own, remove_own

RECOVERING = ", which recovers it"
COMPACTING = ", which compacts it"
"""What the owner's name ends with where it is no logger, but a recovery or a compaction, which ends by itself."""

_HELD = (errno.EAGAIN, errno.EACCES)
_TRIES = 8


class LockedError(Exception):
    """The lock is held by another live process, which the message names."""


class FileLock:
    """A lock on a file of its own, held until `release` or the end of the process, however it ends.

    It belongs to the open file (an OFD lock of Linux), so that nothing else in the process can lose it by closing the
    file's other descriptors, as a copy of the log folder does. A child that was forked would keep it past the end of
    its parent; it closes its descriptor as it begins. Where there are no such locks, or no such hook, it is a POSIX
    record lock, which a fork does not inherit but such a copy frees. Each excludes the other, and those of earlier
    versions.

    :param doing: said of this process to whoever finds the lock held.
    :raises LockedError: another live process holds it.
    :raises OSError: the file cannot be opened, or is not ours.
    """

    _held: dict[str, int] = {}  # noqa: RUF012 - one table a process: path to the pid that holds it

    def __init__(self, path: Path, doing: str = "") -> None:
        self.path = os.path.realpath(path)
        self._pid = os.getpid()
        self._fd = -1
        self._by_file = False
        self._key = (0, 0)
        try:
            self._take(path)
        except BaseException:
            self._close()
            raise
        name = f"pid {self._pid} on {os.uname().nodename}{doing}\n".encode()
        # A full disk, or another name of the file's: the lock holds, only nobody is told whose it is.
        with contextlib.suppress(OSError):
            check_own(os.fstat(self._fd), path, sole=True)
            os.pwrite(self._fd, name, 0)
            os.ftruncate(self._fd, len(name))
        self._held[self.path] = self._pid

    def _take(self, path: Path) -> None:
        for left in reversed(range(_TRIES)):
            self._open(path)
            # Whoever held it before may have removed the file between the two.
            if self._is_still_there(path, any_inode=not left):
                return
            self._close()
        raise LockedError("a process that ends")

    def _open(self, path: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(path, flags, 0o600)
        found = os.fstat(self._fd)
        self._key = found.st_dev, found.st_ino
        if found.st_nlink:
            check_own(found, path)
        try:
            self._lock()
        except OSError as error:
            if error.errno not in _HELD:
                return  # a file system without locks: claims still keep the files of two attempts apart
            owner = os.pread(self._fd, 200, 0).decode("utf-8", "replace").strip() or "an unknown process"
            raise LockedError(owner) from None

    def _lock(self) -> None:
        """:raises OSError: it is held, or there are no locks here."""
        if hasattr(fcntl, "F_OFD_SETLK") and lib.advlog_close_on_fork(self._fd) == 0:
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

    def _is_still_there(self, path: Path, *, any_inode: bool) -> bool:
        """:param any_inode: some file systems number files anew each time."""
        mine = os.fstat(self._fd)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return False
        return any_inode or (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    def _is_open(self, fd: int) -> bool:
        """Whether the number is still the lock's: a program may close those that are not its own."""
        try:
            found = os.fstat(fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self._key

    @classmethod
    def held_here(cls, path: Path) -> bool:
        """Whether this very process holds the lock of that file."""
        return cls._held.get(os.path.realpath(path)) == os.getpid()

    def release(self, *, remove: bool = False) -> None:
        """Frees the lock, once; `remove` takes its file away first. A forked child frees nothing."""
        if self._fd < 0 or os.getpid() != self._pid:
            return
        if remove:
            remove_own(self.path)
        self._held.pop(self.path, None)
        self._close()

    def __del__(self) -> None:
        # An interrupt may come before anybody has it who could release it.
        with contextlib.suppress(Exception):
            self.release()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        is_open = self._is_open(fd)
        with contextlib.suppress(OSError):
            # Before the child of a fork just now could keep it: what it inherits then is not locked.
            if is_open and self._by_file:
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK))
        lib.advlog_keep_on_fork(fd)
        with contextlib.suppress(OSError):
            if is_open:
                os.close(fd)


def _flock(kind: int) -> bytes:
    """`struct flock` for the whole file."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0)
