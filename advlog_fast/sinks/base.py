"""What every sink of the drain has in common.

The drain writes; a sink in Python owns the files. The drain asks for a file ahead of its need, switches to it by
itself, and hands back the one it left. All of this happens on the drain's thread, or on the closing one after it.
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
    """What a sink had completed, as the ring says: `length` bytes of whole records in the file (dev, ino)."""

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
    """What the drain says of a file that it has left: it holds the records `first_seq` up to but not `next_seq`."""

    file: OpenFile
    first_seq: int
    next_seq: int
    records: int


class Sink(ABC):
    """One destination.

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
        """Every write is followed by an fdatasync."""
        self.expired = 0
        """Records of this attempt that stood in files which rotation removed."""
        self.vanished = 0
        """Records of this attempt that stood in files which somebody else removed while they were written."""
        self._open: dict[int, OpenFile] = {}

    @abstractmethod
    def limits(self) -> dict[str, int]:
        """The fields of `advlog_sink_options` beside kind and stream."""

    @abstractmethod
    def next_path(self) -> Path:
        """Where the next file is made."""

    @abstractmethod
    def candidates(self, number: int) -> Iterable[Path]:
        """Where the sink's file of that number may lie now."""

    @abstractmethod
    def contents(self, file: OpenFile) -> tuple[int, int | None]:
        """The records in a resumed file, and the seq of the first where the file says it.

        :raises OSError: it could not be read.
        """

    @abstractmethod
    def publish(self, closed: ClosedFile, last: bool) -> None:
        """Puts a finished, closed file where readers expect it. `last`: no other follows.

        :raises OSError: it could not be; the file stays where it is.
        """

    @abstractmethod
    def on_open(self, file: OpenFile) -> None:
        """Called when the drain writes to `file` from now on; the one before it is published.

        :raises OSError: it could not be put into place.
        """

    def in_place(self, file: OpenFile) -> bool:
        """Whether the file that the drain writes stands where readers expect it.

        :raises OSError: it does not, and could not be put there.
        """
        return is_file(self.place(file), file)

    def place(self, file: OpenFile) -> Path:
        """Where readers expect the file that the drain writes."""
        return file.path

    def exists(self, file: OpenFile) -> bool:
        """Whether the file can still be found; in doubt it is there, so that nothing is taken for gone that is not."""
        try:
            return any(is_file(path, file) for path in self.candidates(file.number))
        except OSError:
            return True

    def options(self) -> Any:
        """What the C drain is told of this sink."""
        fields = {"kind": self.kind, "stream": self.stream, "every": 1, "sync": self.sync, **self.limits()}
        return ffi.new("advlog_sink_options *", fields)

    def open_next(self) -> OpenFile:
        """Opens the next file, new and empty.

        :raises OSError: it could not be.
        """
        path = self.next_path()
        make_folder(path.parent)
        with contextlib.suppress(FileNotFoundError):
            if os.lstat(path).st_size == 0:
                remove_own(path)  # opened ahead by a process that died before it was used
        fd = open_new(path, _APPEND, 0o644)
        self.last_number += 1
        return self._opened(fd, self.last_number, path)

    def resume(self, cursor: Cursor) -> tuple[OpenFile, int] | None:
        """The file that a dead drain was writing, cut to the whole records that its cursor tells of, and how many
        bytes that took; None where no file here is that one any more.

        :raises OSError: it could not be opened or cut.
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
            found = os.fstat(fd)
            same = (found.st_dev, found.st_ino) == (cursor.dev, cursor.ino)
            if not same or found.st_size < cursor.length:
                os.close(fd)
                continue
            if found.st_size > cursor.length:
                os.ftruncate(fd, cursor.length)
                failpoint("recover_cut")
            return self._opened(fd, cursor.file_number, path), found.st_size - cursor.length
        return None

    def _opened(self, fd: int, number: int, path: Path) -> OpenFile:
        found = os.fstat(fd)
        file = OpenFile(fd, found.st_dev, found.st_ino, number, path)
        self._open[fd] = file
        return file

    def open_files(self) -> list[OpenFile]:
        """The files that are open, in the order opened: the drain's current one, and one opened ahead."""
        return list(self._open.values())

    def on_vanished(self, closed: ClosedFile) -> None:
        """Called for a closed file that somebody else took away: its records are counted."""
        self.vanished += closed.records

    def close_file(self, fd: int) -> OpenFile:
        file = self._open.pop(fd)
        if not is_open(file):
            return file  # the number is somebody else's by now
        with contextlib.suppress(OSError):  # Linux frees the descriptor even so; what it lost, a sync would have said
            os.close(fd)
        return file

    def discard(self, fd: int) -> None:
        """Closes and removes a file that was opened ahead and never written."""
        file = self.close_file(fd)
        with contextlib.suppress(OSError):
            if is_file(file.path, file):
                os.unlink(file.path)


def is_file(path: Path, file: OpenFile) -> bool:
    """Whether `path` is that very file.

    :raises OSError: it cannot be told, as where a folder may not be entered.
    """
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return (found.st_dev, found.st_ino) == (file.dev, file.ino)


def is_open(file: OpenFile) -> bool:
    """Whether the descriptor is still that of the file: a program may close numbers that are not its own."""
    try:
        found = os.fstat(file.fd)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (file.dev, file.ino)
