"""Reads JSON lines as they come, across rotation."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..store.files import open_file
from ..store.paths import RunPaths
from ..store.rotated_files import latest_first
from .lines import names_its_rank, row_of

_FileId = tuple[int, int]
_HEAD_BYTES = 128
"""Of the first line: its time and its number."""
_KEY = re.compile(rb'"attempt":(\d{1,9}),"rank":(\d{1,9})\b')

RankKey = tuple[int, int]


class LineTail:
    """The JSON lines of a stream of all ranks. It looks at each line once."""

    def __init__(self, paths: RunPaths, stream: str) -> None:
        self._paths = paths
        self._stream = stream
        self._read: dict[_FileId, tuple[bytes, int]] = {}
        """How each file begins, and how far it was read, by its device and inode."""
        self._files: dict[Path, set[_FileId]] = {}
        """Those of each series."""

    def new(
        self, has_parquet: Callable[[RankKey], bool], seqs: Mapping[RankKey, int]
    ) -> dict[RankKey, list[dict[str, Any]]]:
        """Returns the new rows of each rank of each attempt that has no Parquet, in order.

        :param seqs: the last rows that are known.
        """
        rows: dict[RankKey, list[dict[str, Any]]] = {}
        for file in self._paths.lines_of_all_ranks(self._stream):
            for row in self._new_rows(file, has_parquet):
                key = row["attempt"], row["rank"]
                if not has_parquet(key) and type(row.get("seq")) is int and row["seq"] > seqs.get(key, 0):
                    rows.setdefault(key, []).append(row)
        return rows

    def _new_rows(self, path: Path, has_parquet: Callable[[RankKey], bool]) -> Iterator[dict[str, Any]]:
        # The newest first: a file that is rotated meanwhile is met again, and known by its inode. It stands where it
        # was met last, behind the one that has come since.
        opened: dict[_FileId, tuple[Path, io.FileIO]] = {}
        with contextlib.ExitStack() as stack:
            for file in latest_first(path):
                with contextlib.suppress(FileNotFoundError):
                    lines = stack.enter_context(open_file(file, follow=True))
                    state = os.fstat(lines.fileno())
                    identity = state.st_dev, state.st_ino
                    opened[identity] = opened.pop(identity, (file, lines))
            for identity, (file, lines) in reversed(opened.items()):
                whole = self._rest_of(identity, lines)
                if not _is_covered(whole, has_parquet):
                    yield from _rows(whole, file)
        mine = self._files.setdefault(path, set())
        for gone in mine - opened.keys():
            self._read.pop(gone, None)
        self._files[path] = set(opened)

    def _rest_of(self, identity: _FileId, lines: io.FileIO) -> bytes:
        """The whole lines that are new."""
        head = lines.read(_HEAD_BYTES)
        known, offset = self._read.get(identity, (head, 0))
        # A new file may have the inode of one that has expired.
        if not head.startswith(known) or os.fstat(lines.fileno()).st_size < offset:
            offset = 0
        lines.seek(offset)
        data = lines.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[identity] = head, offset + len(whole)
        return whole


def _is_covered(lines: bytes, has_parquet: Callable[[RankKey], bool]) -> bool:
    """Returns whether all lines are of attempts that have Parquet: they come in the order of the attempts."""
    if not lines:
        return True
    first = _KEY.search(lines, 0, lines.find(b"\n"))
    last = _KEY.search(lines, lines.rfind(b"\n", 0, -1) + 1)
    if first is None or last is None or first[2] != last[2]:
        return False
    return all(has_parquet((attempt, int(first[2]))) for attempt in range(int(first[1]), int(last[1]) + 1))


def _rows(lines: bytes, file: Path) -> Iterator[dict[str, Any]]:
    for line in lines.splitlines():
        with contextlib.suppress(ValueError):
            row = row_of(line, file, 0)
            if names_its_rank(row):
                yield row
