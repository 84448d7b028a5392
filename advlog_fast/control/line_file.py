"""A file of lines that the control plane writes at once; a disk fault never raises."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

from .._native import Guard
from ..store.files import NotOursError, begins_as_ours, check_own, open_own
from ..store.rotated_files import shift, trim

LOCK_TIMEOUT_S = 1.0
"""How long an entry waits for another thread's. If that thread hangs in the disk, entries are lost, but no thread
hangs."""

_LOOK_INTERVAL_S = 1.0
_MAX_INTERRUPTED = 1000
# Faults of the place rather than of the disk: the caller that chose the place must know at once.
_WRONG_PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
)
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT


class LineFile:
    """Appends entries of one or more whole lines; rotates before the entry that would exceed `max_bytes`, so
    that `max_files` files stand. What an earlier start left at `path` is rotated first.

    :raises OSError: `path` is something else than a regular file, or no file can be made there. After that no
        method raises for a fault of the disk: it is counted, and the next entry tries again.
    """

    def __init__(self, path: Path, *, max_bytes: int, max_files: int) -> None:
        self.path = path
        self.written = 0
        """Entries that the operating system took whole."""
        self.error: str | None = None
        """The last fault; None while there was none."""
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._fd: int | None = None
        self._key = (0, 0)
        self._looked_at = 0.0
        self._closed = False
        self._pid = os.getpid()
        self._lost = 0
        # A thread that did not get the lock may only do what is atomic without it.
        self._gave_up: list[None] = []
        self._lock = Guard(LOCK_TIMEOUT_S)
        self._writing = False
        self._interrupted: list[tuple[bytes, bool]] = []
        self._unfinished: tuple[int, int] | None = None
        try:
            if _is_in_use(path):
                shift(path)
                trim(path, max_files, begins_as_ours)
            self._open()
        except OSError as error:
            if error.errno in _WRONG_PLACE or isinstance(error, NotOursError):
                raise
            self._note(error)

    @property
    def lost(self) -> int:
        """Entries that are not in the file."""
        return self._lost + len(self._gave_up)

    def write(self, entry: bytes | str, *, sync: bool = False) -> bool:
        """Appends the entry, whole or not at all, and with `sync` syncs it to the disk; returns whether it is in the
        file.

        A signal handler that logs while its thread is in here gets True: its entry follows the interrupted
        one.
        """
        if os.getpid() != self._pid:
            return False  # a forked child: neither the file nor the lock, which may be held for good, is its own
        data = entry.encode("utf-8", "backslashreplace") if isinstance(entry, str) else entry
        if not data.endswith(b"\n"):
            data += b"\n"
        with self._lock as held:
            if not held:
                self._gave_up.append(None)
                return False
            if self._writing:
                if len(self._interrupted) >= _MAX_INTERRUPTED:
                    self._lost += 1
                    return False
                self._interrupted.append((data, sync))
                return True
            self._writing = True
            try:
                done = self._append(data, sync)
                while self._interrupted:
                    self._append(*self._interrupted.pop(0))
                return done
            finally:
                self._writing = False

    def close(self) -> None:
        """Closes the file; later entries are lost and counted."""
        with self._lock as held:
            self._closed = True
            # Where another thread hangs in a write, its descriptor is leaked: a reused number would take its lines.
            if held:
                self._drop_fd()

    def _append(self, data: bytes, sync: bool) -> bool:
        if self._closed:
            self._lost += 1
            return False
        try:
            fd, size = self._ready(len(data))
            self._unfinished = (size, len(data))
            rest = memoryview(data)
            while rest:
                rest = rest[_put(fd, rest) :]
            self._unfinished = None
        except OSError as error:
            self._note(error)
            self._lost += 1
            with contextlib.suppress(OSError):  # the next entry tries again, before it is written
                self._mend()
            return False
        self.written += 1
        if sync:
            try:
                os.fsync(fd)
            except OSError as error:
                self._note(error)
        return True

    def _ready(self, incoming: int) -> tuple[int, int]:
        """A descriptor with room for `incoming` bytes, and the size of its file now."""
        if self._fd is not None and not self._is_ours(self._fd):
            self._fd = self._unfinished = None
        self._mend()
        fd = self._fd
        if fd is not None:
            now = os.fstat(fd)
            if now.st_nlink and self._is_still_there():
                if now.st_size == 0 or now.st_size + incoming <= self._max_bytes:
                    return fd, now.st_size
                return self._rotate(fd, now.st_size)
            self._drop_fd()
        fd = self._open()
        size = os.fstat(fd).st_size
        return (fd, size) if size == 0 or size + incoming <= self._max_bytes else self._rotate(fd, size)

    def _rotate(self, fd: int, size: int) -> tuple[int, int]:
        try:
            shift(self.path)
        except OSError as error:
            # Too long a file keeps every line; a lost line keeps no promise.
            self._note(error)
            return fd, size
        self._drop_fd()
        trim(self.path, self._max_files, begins_as_ours)  # another program may number its files too
        return self._open(), 0

    def _is_ours(self, fd: int) -> bool:
        """False where the program closed the descriptor: its number may be another file's by now."""
        try:
            status = os.fstat(fd)
        except OSError as error:
            return error.errno != errno.EBADF
        return (status.st_dev, status.st_ino) == self._key

    def _is_still_there(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at < _LOOK_INTERVAL_S:
            return True
        self._looked_at = now
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._key

    def _open(self) -> int:
        with contextlib.suppress(FileNotFoundError):
            check_own(self.path.lstat(), self.path)
        fd = open_own(self.path, _FLAGS, 0o644, sole=True)
        status = os.fstat(fd)
        self._fd = fd
        self._key = (status.st_dev, status.st_ino)
        self._looked_at = time.monotonic()
        return fd

    def _drop_fd(self) -> None:
        fd, self._fd, self._unfinished = self._fd, None, None
        if fd is not None and self._is_ours(fd):
            try:
                os.close(fd)
            except OSError as error:
                self._note(error)

    def _mend(self) -> None:
        """Removes a partly written entry, after a full disk or an exception of a signal handler."""
        if self._unfinished is None or self._fd is None:
            return
        start, length = self._unfinished
        if start < os.fstat(self._fd).st_size < start + length:
            os.ftruncate(self._fd, start)
        self._unfinished = None

    def _note(self, error: OSError) -> None:
        self.error = f"{type(error).__name__}: {error}"


def _put(fd: int, data: memoryview) -> int:
    taken = os.write(fd, data)
    if taken == 0:
        raise OSError(errno.EIO, "the file takes no more bytes")
    return taken


def _is_in_use(path: Path) -> bool:
    """Returns whether our file at `path` holds entries, or has another name, by a backup of hard links.

    :raises NotOursError: something else lies there.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    check_own(status, path)
    return status.st_size > 0 or status.st_nlink > 1
