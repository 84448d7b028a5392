"""JSON lines read back, rotated or still being written."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from ..store.files import open_file
from ..store.paths import local_path
from ..store.rotated_files import latest_first


def read_jsonl(path: str | os.PathLike[str], *, rotated: bool = True) -> list[dict[str, Any]]:
    """Read the objects of a JSON-lines file and, with `rotated`, of its rotated files `path.1` …, oldest first.

    Use it for a young run or in a script. It holds all objects in memory; :func:`read_run` is faster, because it reads
    Parquet. `timestamp` becomes an aware datetime in UTC. A metric that was NaN or infinite is that float again, and
    the object `nonfinite` is removed. A metric that never arrived is None, and `unresolved` says why. An incomplete
    last line, still being written or torn by a crash, is left out.

    :raises FileNotFoundError: neither the file nor a rotated one exists.
    :raises ValueError: a line is not a strict JSON object; the message names file and line.

    >>> log.flush()
    True
    >>> [row["loss"] for row in read_jsonl("logs/run_metrics.jsonl")]
    [0.5]
    """
    path = local_path("path", path)
    return [row_of(line, file, number) for file, number, line in _lines(path, rotated)]


def sound_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the rows of a file and of its rotated ones as :func:`read_jsonl` does, without the lines that are no row
    or that name no attempt and rank.

    :raises FileNotFoundError: as there.
    """
    for file, number, line in _lines(path, rotated=True):
        with contextlib.suppress(ValueError):
            row = row_of(line, file, number)
            if names_its_rank(row):
                yield row


def rows_of_attempts(path: Path, wanted: Callable[[int], bool]) -> Iterator[dict[str, Any]]:
    """Yields the rows of the attempts that are wanted, as :func:`read_jsonl` does. A file whose first and last lines
    show that it holds none of them is not read.

    :raises FileNotFoundError: as there.
    """
    for file, number, line in _lines(path, rotated=True, holds=lambda lines: _may_hold(lines, wanted)):
        row = row_of(line, file, number)
        # A file of that name may be somebody else's.
        if names_its_rank(row) and wanted(row["attempt"]):
            yield row


_PEEK_BYTES = 1 << 16


def _may_hold(lines: BinaryIO, wanted: Callable[[int], bool]) -> bool:
    """Returns whether a file, whose lines come in the order of the attempts, may hold one that is wanted."""
    size = os.fstat(lines.fileno()).st_size
    if size <= 2 * _PEEK_BYTES:
        return True
    head = lines.read(_PEEK_BYTES)
    lines.seek(size - _PEEK_BYTES)
    tail = lines.read(_PEEK_BYTES)
    lines.seek(0)
    try:
        ends = [json.loads(head[: head.index(b"\n")])["attempt"], json.loads(tail.splitlines()[-2])["attempt"]]
        return any(wanted(attempt) for attempt in range(ends[0], ends[1] + 1))
    except (IndexError, KeyError, TypeError, ValueError):
        return True


def names_its_rank(row: Mapping[str, Any]) -> bool:
    """Returns whether a row says of which attempt and rank it is."""
    return all(type(row.get(name)) is int for name in ("attempt", "rank"))


def _lines(
    path: Path, rotated: bool, holds: Callable[[BinaryIO], bool] = lambda _: True
) -> Iterator[tuple[Path, int, bytes]]:
    """Yields each line with its file and number.

    :param holds: asked of each file, at its begin, whether it is read.
    """
    # The newest first: a file that is rotated meanwhile is met again, under another number, and known by its inode. It
    # may have grown, and the one before it may have come since: where it was met last, it is read again. All are read
    # before the first is parsed, which takes long enough for a rotation.
    read: dict[tuple[int, int], tuple[Path, bytes]] = {}
    for file in latest_first(path) if rotated else (path,):
        with contextlib.suppress(FileNotFoundError), open_file(file, follow=True) as lines:
            found = os.fstat(lines.fileno())
            identity = found.st_dev, found.st_ino
            before = read.pop(identity, None)
            if before is None or len(before[1]) < found.st_size:
                before = file, lines.read() if holds(lines) else b""
            read[identity] = before
    if not read:
        raise FileNotFoundError(f"path: expected a JSON-lines file, got {str(path)!r}, which does not exist")
    for file, data in reversed(read.values()):
        for number, line in _whole_lines(data):
            yield file, number, line


def _whole_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    *lines, rest = data.split(b"\n")
    yield from enumerate(lines, 1)
    if rest:
        with contextlib.suppress(ValueError):
            json.loads(rest)
            yield len(lines) + 1, rest


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def json_object(text: bytes, where: str) -> dict[str, Any]:
    why = ""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
        if isinstance(value, dict):
            return value
    except ValueError as error:
        why = f" ({error})"
    raise ValueError(f"{where}: expected a JSON object, got {text[:80]!r}{why}")


def moment(text: str) -> datetime:
    """A time of a line, which ends with Z.

    :raises AttributeError, ValueError: it is no such time.
    """
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00")  # Python 3.10 does not read the Z


def row_of(line: bytes, file: Path, number: int) -> dict[str, Any]:
    where = f"{file}, line {number}"
    row = json_object(line, where)
    try:
        timestamp = row.get("timestamp")
        if timestamp is not None:
            row["timestamp"] = moment(timestamp)
        # An event of the user's may have a field of that name.
        if not isinstance(row.get("event"), str):
            for name, word in row.pop("nonfinite", {}).items():
                row[name] = float(word)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a line of a log, got {line[:80]!r} ({error})") from None
    return row
