"""The base of all sinks.

The drain writes; a sink in Python owns the files. The drain asks for a file before it needs one, switches to it by
itself, and hands back the previous one. A sink runs on the drain's thread, then on the closing thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .._failpoints import failpoint
from .._native import ffi
from ..store.files import NotOursError, make_folder, open_new, open_own, remove_own

_APPEND = os.O_WRONLY | os.O_APPEND


@dataclass(frozen=True)
class Cursor:
    """A sink's progress, as stored in the ring: `length` bytes of whole records in the file (dev, ino)."""

    position: int
    next_seq: int
    written: int
    dropped: int
    dev: int
    ino: int
    length: int
    file_number: int


@dataclass(frozen=True)
class OpenFile:
    """A file that the drain may write to; `number` counts the sink's files."""

    fd: int
    dev: int
    ino: int
    number: int
    path: Path


@dataclass(frozen=True)
class ClosedFile:
    """A file that the drain has finished: it holds the records `first_seq` up to but not `next_seq`."""

    file: OpenFile
    first_seq: int
    next_seq: int
    records: int


class Sink(ABC):
    """One destination of records.

    :ivar name: `text`, `metrics_jsonl`, ...: the key of `Health.sinks`.
    :ivar kind: an `enum advlog_sink_kind`.
    :ivar stream: an `enum advlog_stream`.
    """

    name: str
    kind: int
    stream: int

    def __init__(self) -> None:
        self.last_number = 0
        self.sync = False
        """Whether an fdatasync follows every write."""
        self.expired = 0
        """Records of this attempt in files that rotation removed."""
        self.vanished = 0
        """Records of this attempt in files that somebody else removed while the drain wrote them."""
        self._open: dict[int, OpenFile] = {}

    @abstractmethod
    def limits(self) -> dict[str, int]:
        """Returns the fields of `advlog_sink_options` beside kind and stream."""

    @abstractmethod
    def next_path(self) -> Path:
        """Returns the path at which the next file is created."""

    @abstractmethod
    def candidates(self, number: int) -> Iterable[Path]:
        """Returns the paths that the sink's file of that number may have now."""

    @abstractmethod
    def contents(self, file: OpenFile) -> tuple[int, int | None]:
        """Returns the number of records in a resumed file, and the seq of the first if the file contains it.

        :raises OSError: the file cannot be read.
        """

    @abstractmethod
    def publish(self, closed: ClosedFile, last: bool) -> None:
        """Moves a finished, closed file to where readers expect it.

        :param last: no other file follows.
        :raises OSError: the file cannot be moved, and stays in place.
        """

    @abstractmethod
    def on_open(self, file: OpenFile) -> None:
        """Called when the drain switches to `file`, after the previous file is published.

        :raises OSError: the file cannot be put into place.
        """

    def in_place(self, file: OpenFile) -> bool:
        """Returns whether the file that the drain writes is where readers expect it.

        :raises OSError: the file is elsewhere, and cannot be moved.
        """
        return is_file(self.place(file), file)

    def place(self, file: OpenFile) -> Path:
        """Returns the path at which readers expect the file that the drain writes."""
        return file.path

    def exists(self, file: OpenFile) -> bool:
        """Returns whether the file is at one of its paths. True in doubt: no existing file may count as gone."""
        try:
            return any(is_file(path, file) for path in self.candidates(file.number))
        except OSError:
            return True

    def options(self) -> Any:
        """Returns this sink's options for the C drain."""
        fields = {"kind": self.kind, "stream": self.stream, "every": 1, "sync": self.sync, **self.limits()}
        return ffi.new("advlog_sink_options *", fields)

    def open_next(self) -> OpenFile:
        """Creates and opens the next file.

        :raises OSError: the file cannot be created.
        """
        path = self.next_path()
        make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_size == 0:
                remove_own(path)  # a process opened it ahead, and died before it used it
        fd = open_new(path, _APPEND, 0o644)
        self.last_number += 1
        return self._opened(fd, self.last_number, path)

    def resume(self, cursor: Cursor) -> tuple[OpenFile, int] | None:
        """Opens the file that a dead drain was writing, and cuts it to the whole records that the cursor counts.

        :returns: the file and the number of bytes cut off; None if the file is gone.
        :raises OSError: the file cannot be opened or cut.
        """
        self.last_number = cursor.file_number
        for path in self.candidates(cursor.file_number):
            try:
                fd = open_own(path, _APPEND)
            except (FileNotFoundError, NotOursError):
                continue
            except OSError as error:
                if error.errno == errno.ENXIO:  # a pipe that nobody reads
                    continue
                raise
            status = os.fstat(fd)
            same = (status.st_dev, status.st_ino) == (cursor.dev, cursor.ino)
            if not same or status.st_size < cursor.length:
                os.close(fd)
                continue
            if status.st_size > cursor.length:
                os.ftruncate(fd, cursor.length)
                failpoint("recover_cut")
            return self._opened(fd, cursor.file_number, path), status.st_size - cursor.length
        return None

    def _opened(self, fd: int, number: int, path: Path) -> OpenFile:
        status = os.fstat(fd)
        file = OpenFile(fd, status.st_dev, status.st_ino, number, path)
        self._open[fd] = file
        return file

    def open_files(self) -> list[OpenFile]:
        """Returns the open files in the order opened: the drain's current one, and one opened ahead."""
        return list(self._open.values())

    def on_vanished(self, closed: ClosedFile) -> None:
        """Called for a closed file that somebody else removed: counts its records."""
        self.vanished += closed.records

    def close_file(self, fd: int) -> OpenFile:
        file = self._open.pop(fd)
        if not is_open(file):
            return file  # another file has the descriptor now
        with contextlib.suppress(OSError):  # Linux frees the descriptor anyway, and a sync reports lost writes
            os.close(fd)
        return file

    def discard(self, fd: int) -> None:
        """Closes and removes a file that was opened ahead and never written."""
        file = self.close_file(fd)
        with contextlib.suppress(OSError):
            if is_file(file.path, file):
                os.unlink(file.path)


def is_file(path: Path, file: OpenFile) -> bool:
    """Returns whether `path` is that file.

    :raises OSError: the path cannot be examined, for example in a folder without permission.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (status.st_dev, status.st_ino) == (file.dev, file.ino)


def is_open(file: OpenFile) -> bool:
    """Returns whether the descriptor is still the file's: a program may close descriptors that it does not own."""
    try:
        status = os.fstat(file.fd)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == (file.dev, file.ino)
