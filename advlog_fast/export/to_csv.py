"""Rows as a CSV file: a line a value, with where it stands and when it was logged."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..store.files import open_own
from ..store.paths import local_path
from .records import Record, Series, is_suffix
from .targets import ExportError, Run, Target

HEADER = b"attempt,rank,seq,step,timestamp_us,metric,value\n"


def connect(place: str, _run: Run) -> CsvFiles:
    """Return the target of a path; see `Destination.connect`."""
    return CsvFiles(local_path("--to", place))


class CsvFiles(Target):
    """A file for each series, that of all ranks at the path. A restart cuts each to the length that was accepted."""

    superseded = "told"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fds: dict[str, int] = {}
        self._lengths: dict[str, int] = {}
        self._is_restart = False

    def resume(self, memory: Mapping[str, Any] | None) -> bool:
        self._is_restart = memory is not None
        self._lengths = dict(memory["lengths"]) if memory is not None else {}
        for suffix in self._lengths:
            if not is_suffix(suffix):
                return False
            try:
                self._open(suffix)
            except FileNotFoundError:  # removed: it begins anew
                self.close()
                return False
        if not self._is_restart and os.path.lexists(self._path) and os.lstat(self._path).st_size:
            raise ExportError(f"{str(self._path)!r} exists, and is no file of this export: move it away")
        return True

    def send(self, series: Series, records: Iterable[Record]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for (attempt, rank, seq, step, time_us), values in records:
            for name, value in values:
                writer.writerow((attempt, rank, seq, step, time_us, name, repr(value)))
        if not text.tell():
            return
        suffix = series.suffix
        if suffix not in self._fds:
            self._lengths[suffix] = 0
            self._open(suffix, os.O_CREAT)
            self._write(suffix, HEADER)
        self._write(suffix, text.getvalue().encode())

    def accept(self) -> bool:
        return True

    def memory(self) -> dict[str, Any]:
        return {"lengths": dict(self._lengths)}

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])

    def _open(self, suffix: str, flags: int = 0) -> None:
        """:raises ExportError: the file is not as this export left it."""
        path = self._path.with_name(f"{self._path.stem}.{suffix}{self._path.suffix}") if suffix else self._path
        fd = self._fds[suffix] = open_own(path, os.O_RDWR | flags, sole=True)
        size, length = os.fstat(fd).st_size, self._lengths[suffix]
        is_ours = self._is_restart and os.pread(fd, len(HEADER), 0) == HEADER[:size]
        if size and (size < length or not is_ours):
            raise ExportError(f"{str(path)!r} is not as this export left it: move it away")
        os.ftruncate(fd, length)

    def _write(self, suffix: str, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fds[suffix], view, self._lengths[suffix])
            self._lengths[suffix] += written
            view = view[written:]
