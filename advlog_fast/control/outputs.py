"""Writes events to `NAME_events.jsonl`, the main log, the training log (through the ring) and the console; opens and
closes the three files of the control plane together."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config import LoggerConfig
from ..store.paths import RunPaths
from ..store.ranks import RunIdentity
from .base import RingLink
from .console import Console
from .event_log import EventLog
from .events import Event
from .line_file import LineFile
from .main_log import MainLog
from .text import clipped, fields_text

_CONSOLE_DIGITS = 4


class EventOutputs:
    """The outputs of one attempt of one rank. Any thread; no method raises for a fault of the disk.

    :param on_error: called with each exception that `logger` is given: see :class:`MainLog`.
    :raises OSError: one of the files cannot be made.
    """

    def __init__(
        self,
        config: LoggerConfig,
        paths: RunPaths,
        run: RunIdentity,
        link: RingLink,
        console: Console,
        on_error: Callable[[BaseException, int, str, str], object],
    ) -> None:
        self.console = console
        self._config = config
        self._link = link
        self._files: list[LineFile] = []
        self._silent = False
        try:
            main, errors, events = map(self._open, (paths.main_log, paths.errors_log, paths.events_jsonl))
        except OSError:
            self._close_files()
            raise
        self.errors_file = errors
        self._main = MainLog(main, run.name, config.log_level, config.capture_logging, on_error, link.line, self._show)
        self._events = EventLog(events, run.attempt, run.rank)

    @property
    def logger(self) -> logging.Logger:
        """A logger of the standard library that writes to the main log."""
        return self._main.logger

    def write(self, event: Event, *, in_main_log: bool = True) -> None:
        """Writes an event to each output that shows it."""
        level = logging.getLevelName(event.level)
        seq = self._link.seq()
        self._events.write(event.kind or event.name, event.fields, seq=seq, level=level, users=not event.kind)
        if in_main_log:
            self._main.say(event.level, event.line(digits=self._config.text_digits))
        if event.in_training_log:
            self._link.line(event.level, clipped(event.line(event.brief, self._config.text_digits)))
        if event.console is not None:
            fields = event.shown if event.console_fields is None else event.console_fields
            self.announce(event.console, fields, event.level, last=event.console_last)

    def note(self, level: int, line: str) -> None:
        """Writes a line, escaped, to the main log alone."""
        self._main.say(level, line)

    def announce(
        self, what: str, fields: Mapping[str, Any] | None = None, level: int = logging.INFO, *, last: bool = False
    ) -> None:
        """Writes a line to the console alone."""
        # What no longer reaches a file must not be shown as if it did.
        if not self._silent:
            self.console.say(f"{what} {fields_text(fields or {}, _CONSOLE_DIGITS)}".rstrip(), level, last=last)

    @property
    def main(self) -> MainLog:
        """The main log."""
        return self._main

    def _show(self, text: str, level: int) -> None:
        if not self._silent:
            self.console.say(text, level)

    def lost(self) -> dict[str, int]:
        """Entries that could not be written, by file name."""
        return {file.path.name: file.lost for file in self._files}

    def fault(self) -> str | None:
        """The last fault of one of the files, named; None while there was none."""
        faults = (f"{file.path.name}: {file.error}" for file in self._files if file.error is not None)
        return next(faults, None)

    def close(self) -> None:
        """Closes the files; what comes later reaches nothing."""
        self._main.close()
        self._close_files()
        self._silent = True

    def _open(self, path: Path) -> LineFile:
        file = LineFile(path, max_bytes=self._config.max_log_size, max_files=self._config.max_log_files)
        self._files.append(file)
        return file

    def _close_files(self) -> None:
        for file in self._files:
            file.close()
