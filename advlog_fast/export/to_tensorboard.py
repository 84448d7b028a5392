"""Rows as TensorBoard's event files: an event for each record, with a value for each metric."""

from __future__ import annotations

import math
import os
import re
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..records import RESERVED_NAMES
from ..store.files import make_folder, open_file, open_new
from ..store.paths import local_path
from .records import Record, Series, is_suffix
from .targets import ExportError, Notice, Run, Target, name_of, require

_LARGEST = 3.4028235677973366e38
"""From here on a float32 is infinite."""
_ENDING = ".advlog"
_FRAME = struct.Struct("<QI")
_LONGEST = 1 << 28

Written = tuple[str, int, float, bytes]
"""The tag, the step, the time, the bits of the float32."""


def connect(place: str, _run: Run) -> EventFiles:
    """Return the target of a folder; see `Destination.connect`.

    :raises ExportError: tensorboard is not installed.
    """
    require("tensorboard", "tensorboard")
    return EventFiles(local_path("--to", place))


class EventFiles(Target):
    """A folder for each series, that of all ranks at the path, and in each an event file for each start of an export.

    A file that a killed export left is read from where it was accepted, and what it holds beyond is not written again.
    """

    superseded = "hidden"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._name = _file_name(int(time.time()))
        self._files: dict[str, BinaryIO] = {}
        self._lengths: dict[str, dict[str, int]] = {}
        """For each series its files, and how much of each was accepted."""
        self._sizes: dict[tuple[str, str], int] = {}
        """How long the files of earlier exports are, with what was not accepted."""
        self._already: dict[str, Counter[Written]] = {}
        self._say = Notice()

    def resume(self, memory: Mapping[str, Any] | None) -> bool:
        self._lengths, self._sizes, self._already = {}, {}, {}
        if memory is None:
            self._check_alone(set())
            return True
        for suffix, files in memory["lengths"].items():
            if not is_suffix(suffix):
                return False
            self._lengths[suffix] = dict(files)
            for name, length in files.items():
                path = self._folder(suffix) / os.path.basename(name)
                if length and not path.exists():
                    return False  # the user has removed it, to have it made anew
        # TensorBoard reads the files of a folder by their names, and never goes back.
        self._name = _file_name(max(int(time.time()), _second_of(memory["name"]) + 1))
        # Of a series that came just before the kill the cursor knows nothing.
        self._look(memory["name"])
        self._check_alone(set(self._lengths.get("", ())))
        return True

    def _check_alone(self, own: set[str]) -> None:
        """:raises ExportError: the folder has event files of another export: points of two runs would be one curve."""
        others = [path.name for path in self._path.glob(f"*{_ENDING}") if path.name not in own]
        if others:
            raise ExportError(f"{str(self._path)!r} has event files of another export: choose another folder")

    def _look(self, name: str) -> None:
        """Read what the files of the export before hold beyond what was accepted."""
        name = os.path.basename(name)
        folders = [self._path, *(self._path / suffix for suffix in self._lengths if suffix)]
        if self._path.is_dir():
            folders += [path for path in sorted(self._path.iterdir()) if is_suffix(path.name) and path.is_dir()]
        for folder in dict.fromkeys(folders):
            suffix = "" if folder == self._path else folder.name
            lengths = self._lengths.setdefault(suffix, {})
            for each in {*map(os.path.basename, lengths), name}:
                path = folder / each
                if path.is_file() and path.stat().st_size > lengths.setdefault(each, 0):
                    self._already.setdefault(suffix, Counter()).update(_values_in(path, lengths[each]))
                    self._sizes[suffix, each] = path.stat().st_size

    def send(self, series: Series, records: Iterable[Record]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        writer, value_of = RecordWriter(self._file(series.suffix)), Summary.Value
        already = self._already.get(series.suffix)
        for (_, _, _, step, time_us), values in records:
            wall_time = time_us / 1e6
            shown = [(_tag(name), self._held(value)) for name, value in values]
            if already:
                shown = [each for each in shown if not _taken(already, (each[0], step, wall_time, _bits(each[1])))]
                if not shown:
                    continue
            summary = Summary(value=[value_of(tag=name, simple_value=value) for name, value in shown])
            writer.write(Event(wall_time=wall_time, step=step, summary=summary).SerializeToString())

    def _held(self, value: float) -> float:
        """The value, or what stands for it in a float32."""
        if -_LARGEST < value < _LARGEST or not math.isfinite(value):
            return value
        self._say("float32", "TensorBoard keeps float32: values beyond 3.4e38 are shown as infinite")
        return math.copysign(math.inf, value)

    def hide_from(self, series: Series, step: int) -> None:
        """A start of a session hides the points from its step on, of all that TensorBoard has read before it."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        already = self._already.get(series.suffix)
        if already and _taken(already, _start(step)):
            return  # a second one would hide what comes behind the first
        start = Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START))
        RecordWriter(self._file(series.suffix)).write(start.SerializeToString())

    def accept(self) -> bool:
        for suffix, file in self._files.items():
            file.flush()
            self._lengths.setdefault(suffix, {})[self._name] = file.tell()
        for (suffix, name), size in self._sizes.items():
            if not self._already[suffix].total():  # all that they hold beyond was sent again
                self._lengths[suffix][name] = size
        return True

    def memory(self) -> dict[str, Any]:
        return {"name": self._name, "lengths": self._lengths}

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _folder(self, suffix: str) -> Path:
        return self._path / suffix if suffix else self._path

    def _file(self, suffix: str) -> BinaryIO:
        if suffix not in self._files:
            from tensorboard.compat.proto.event_pb2 import Event
            from tensorboard.summary.writer.record_writer import RecordWriter

            folder = self._folder(suffix)
            self._path.mkdir(parents=True, exist_ok=True)
            if suffix:
                make_folder(folder)
            file = os.fdopen(open_new(folder / self._name), "wb", buffering=1 << 20)
            self._files[suffix] = file
            head = Event(wall_time=time.time(), file_version="brain.Event:2")
            RecordWriter(file).write(head.SerializeToString())
        return self._files[suffix]


def _file_name(second: int) -> str:
    host = name_of(socket.gethostname(), "A-Za-z0-9.-", 60)
    return f"events.out.tfevents.{second}.{host}.{os.getpid()}.{os.urandom(4).hex()}{_ENDING}"


def _second_of(name: str) -> int:
    match = re.match(r"events\.out\.tfevents\.(\d{1,11})\.", name)
    return int(match[1]) if match else 0


def _start(step: int) -> Written:
    """What stands for the start of a session."""
    return "", step, 0.0, b""


def _bits(value: float) -> bytes:
    return struct.pack("<f", value)


def _taken(already: Counter[Written], written: Written) -> bool:
    """Whether a value is there already, once for each time that it is."""
    if not already[written]:
        return False
    already[written] -= 1
    return True


def _tag(name: str) -> str:
    """The metric's name as a program gave it: an integration prefixes those that records have for themselves."""
    plain = name.removeprefix("metric/")
    return plain if plain in RESERVED_NAMES else name


def _values_in(path: Path, start: int) -> Iterator[Written]:
    """Yields the values in an event file from an offset on, up to a record that a kill cut off."""
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    with open_file(path) as file:
        file.seek(start)
        data = file.readall()
    at = 0
    while at + _FRAME.size <= len(data):
        length, _ = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + length
        if length > _LONGEST or end + 4 > len(data):
            return
        event = Event.FromString(data[at + _FRAME.size : end])
        if event.session_log.status == SessionLog.START:
            yield _start(event.step)
        for value in event.summary.value:
            yield value.tag, event.step, event.wall_time, _bits(value.simple_value)
        at = end + 4
