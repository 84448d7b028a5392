"""Sinks whose files are rotated by size: NAME, NAME.1, ... so that `max_log_files` files stand."""

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
    """Writes to `path`. What stood there before is rotated away, so nothing is appended to or overwritten.

    :param may_expire: asked before a file goes, with what is known of it, None for a file of an earlier attempt;
        None: every file may.
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
        if file.path.parent == self._temporary:  # else: resumed where it stands in the series
            self._waiting.append(file)
        self._join()
        self.trim()

    def _join(self) -> None:
        """Puts the files that wait for it into the series, in their order: one that the disk refused before, first."""
        while self._waiting:
            if is_file(self._waiting[0].path, self._waiting[0]):
                join_series(self._waiting[0].path, self.path)
            self._waiting.pop(0)

    def in_place(self, file: OpenFile) -> bool:
        self._join()
        return super().in_place(file)

    def place(self, file: OpenFile) -> Path:  # noqa: ARG002 - the latest file stands in one place
        return self.path

    def publish(self, closed: ClosedFile, last: bool) -> None:
        self._finished[closed.file.ino] = closed
        if last:
            self._join()
            self.trim()

    def trim(self) -> None:
        """Removes the oldest files beyond `max_files`, as far as they may expire."""
        inodes: dict[Path, int] = {}

        def may_remove(path: Path) -> bool:
            try:
                inodes[path] = os.stat(path).st_ino
            except OSError:
                return True
            may_expire = self._may_expire is None or self._may_expire(self._finished.get(inodes[path]))
            return may_expire and begins_as_ours(path)  # another program may number its files likewise

        for path in trim(self.path, self.max_files, may_remove):
            gone = self._finished.pop(inodes.get(path, -1), None)
            if gone is not None:
                failpoint("rotate_trimmed")
                self.expired += gone.records


def join_series(file: Path, path: Path) -> None:
    """Makes `file` the latest of the series of `path`; what stood there becomes number 1.

    :raises OSError: it could not be renamed, or something that is no regular file stands in its place.
    """
    with contextlib.suppress(FileNotFoundError):
        standing = os.lstat(path)
        check_regular(standing, path)
        if standing.st_size:
            shift(path)
        else:
            os.unlink(path)
    failpoint("rotate_before_rename")
    os.rename(file, path)
    failpoint("rotate_renamed")


def join_left(path: Path, temporary: Path) -> None:
    """Puts files of the series that no sink could rename, and whose attempts have ended, into it; the empty ones,
    opened ahead, go.

    :raises OSError: one could not be renamed.
    """
    left = []
    for file in temporary.glob(f"{path.name}.attempt*"):
        number = re.fullmatch(re.escape(path.name) + r"\.attempt(\d+)-(\d+)", file.name)
        if number:
            left.append((int(number[1]), int(number[2]), file))
    for _, _, file in sorted(left):
        if not is_own(file):
            continue
        if file.lstat().st_size:
            join_series(file, path)
        else:
            file.unlink()
