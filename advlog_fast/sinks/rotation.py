"""Sinks that rotate their files by size: NAME, NAME.1, ..., at most `max_log_files` files."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from .._failpoints import failpoint
from ..store.files import begins_as_ours, check_regular, is_own, open_file
from ..store.rotated_files import rotated_files, shift, trim
from .base import ClosedFile, OpenFile, Sink, is_file


class RotatedSink(Sink):
    """Writes to `path`. Each file must begin with a line of ours (`store.files.begins_as_ours`): rotation removes no
    other. Rotates an existing file away first, so it never appends to or overwrites one.

    :param may_expire: called before a file is removed, with the closed file, or None for a file of an earlier attempt;
        returns whether to remove it. None: remove every file.
    """

    def __init__(
        self,
        path: Path,
        temporary: Path,
        attempt: int,
        max_bytes: int,
        max_files: int,
        may_expire: Callable[[ClosedFile | None], bool] | None = None,
    ) -> None:
        super().__init__()
        self.path = path
        self.attempt = attempt
        self.max_bytes = max_bytes
        self.max_files = max_files
        self._temporary = temporary
        self._may_expire = may_expire
        self._finished: dict[int, ClosedFile] = {}
        self._waiting: list[OpenFile] = []

    def limits(self) -> dict[str, int]:
        return {"max_bytes": self.max_bytes}

    def next_path(self) -> Path:
        return self._temporary / self._ahead(self.last_number + 1)

    def _ahead(self, number: int) -> str:
        return f"{self.path.name}.attempt{self.attempt}-{number}"

    def candidates(self, number: int) -> Iterator[Path]:
        yield self.path
        yield from rotated_files(self.path)
        yield self._temporary / self._ahead(number)

    def contents(self, file: OpenFile) -> tuple[int, int | None]:
        with open_file(file.path) as content:
            return sum(chunk.count(b"\n") for chunk in iter(lambda: content.read(1 << 20), b"")), None

    def on_open(self, file: OpenFile) -> None:
        if file.path.parent == self._temporary:  # else a resumed file, which is in the series already
            self._waiting.append(file)
        self._join()
        self.trim()

    def _join(self) -> None:
        """Moves the waiting files into the series, in order, beginning with one that the disk refused before."""
        while self._waiting:
            if is_file(self._waiting[0].path, self._waiting[0]):
                join_series(self._waiting[0].path, self.path)
            self._waiting.pop(0)

    def in_place(self, file: OpenFile) -> bool:
        self._join()
        return super().in_place(file)

    def place(self, file: OpenFile) -> Path:  # noqa: ARG002 - the latest file is always at the same path
        return self.path

    def publish(self, closed: ClosedFile, last: bool) -> None:
        self._finished[closed.file.ino] = closed
        if last:
            self._join()
            self.trim()

    def trim(self) -> None:
        """Removes the oldest files beyond `max_files` that may expire."""
        inodes: dict[Path, int] = {}

        def may_remove(path: Path) -> bool:
            try:
                inodes[path] = os.stat(path).st_ino
            except OSError:
                return True
            may_expire = self._may_expire is None or self._may_expire(self._finished.get(inodes[path]))
            return may_expire and begins_as_ours(path)  # another program may number its files in the same way

        for path in trim(self.path, self.max_files, may_remove):
            closed = self._finished.pop(inodes.get(path, -1), None)
            if closed is not None:
                failpoint("rotate_trimmed")
                self.expired += closed.records


def join_series(file: Path, path: Path) -> None:
    """Makes `file` the latest of the series of `path`; the current latest becomes number 1.

    :raises OSError: a file cannot be renamed, or `path` is no regular file.
    """
    with contextlib.suppress(FileNotFoundError):
        current = os.lstat(path)
        check_regular(current, path)
        if current.st_size:
            shift(path)
        else:
            os.unlink(path)
    failpoint("rotate_before_rename")
    os.rename(file, path)
    failpoint("rotate_renamed")


def join_left(path: Path, temporary: Path) -> None:
    """Moves files of ended attempts that no sink could rename into the series, and removes empty ones opened ahead.

    :raises OSError: a file cannot be renamed.
    """
    waiting = []
    for file in temporary.glob(f"{path.name}.attempt*"):
        number = re.fullmatch(re.escape(path.name) + r"\.attempt(\d+)-(\d+)", file.name)
        if number:
            waiting.append((int(number[1]), int(number[2]), file))
    for _, _, file in sorted(waiting):
        if not is_own(file):
            continue
        if file.lstat().st_size:
            join_series(file, path)
        else:
            file.unlink()
