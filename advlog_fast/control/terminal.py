"""Keeps what the program writes to a terminal itself apart from a bar that stands there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, NamedTuple, TextIO

from .._native import Guard


class TerminalWatch:
    """Has the bar make way before each text that the program writes to standard output or error, where that is a
    terminal: no rest of the bar is left in a line of `print`, `logging` or a traceback.

    It sets `write` on the stream object and leaves the object where it is, so that it also sees a handler that has
    held the stream since before, and nobody who puts another stream in its place keeps one of ours. What goes past
    the stream object (another process, C code) it does not see.

    :param lock: held while the bar makes way and the text is written.
    :param make_way: erases the bar. What it raises is lost; the program's text is written in any case.
    """

    def __init__(self, lock: Guard, make_way: Callable[[], None]) -> None:
        self._lock = lock
        self._make_way = make_way
        self._pid = os.getpid()
        self._ended = False
        self._streams: list[_Watched] = []
        self.line_is_open = False
        """Whether the program's last text ended within a line, which is then its own."""

    def start(self) -> None:
        """Watches the streams that standard output and error are now. What is watched already costs a comparison."""
        for stream in (sys.stdout, sys.stderr):
            if not any(stream is each.stream for each in self._streams) and is_terminal(stream):
                self._watch(stream)

    def write(self, stream: TextIO, text: str) -> None:
        """Writes the bar, or lines above it, past the watch."""
        next((each.own for each in self._streams if each.stream is stream), stream.write)(text)
        if text.endswith("\n"):
            self.line_is_open = False

    def end(self) -> None:
        self._ended = True
        for each in self._streams:
            # Where somebody stands before us by now, ours stays below and only passes on.
            with contextlib.suppress(Exception):
                if vars(each.stream).get("write") is each.ours:
                    if each.in_place_of_its_class:
                        del each.stream.write
                    else:
                        each.stream.write = each.own
        self._streams.clear()

    def _watch(self, stream: Any) -> None:
        try:
            own = stream.write

            def write(text: str) -> Any:
                # A child has a copy of the bar's state, and no bar.
                if self._ended or os.getpid() != self._pid:
                    return own(text)
                with self._lock:
                    self._prepare(text)
                    return own(text)

            watched = _Watched(stream, own, write, "write" not in vars(stream))
            stream.write = write
        except Exception:  # noqa: BLE001 - a stream of the user's may raise anything, or have no room for ours
            return
        self._streams.append(watched)

    def _prepare(self, text: str) -> None:
        with contextlib.suppress(Exception):
            self._make_way()
            # Blanks up to a carriage return: a line that was cleared, as tqdm does.
            cleared = text.endswith("\r") and not text.strip()
            if text:
                self.line_is_open = not (text.endswith("\n") or cleared)


class _Watched(NamedTuple):
    stream: Any
    own: Any
    ours: Any
    in_place_of_its_class: bool


def is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except Exception:  # noqa: BLE001 - a stream of the user's may raise anything
        return False
