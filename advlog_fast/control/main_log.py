"""NAME_main.log: what the run says in words, and what a stdlib logger is given."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from .line_file import LineFile
from .text import escape, time_text


class MainLog:
    """The stdlib logger of a run, writing one escaped line an entry, tracebacks included.

    :param level: the lowest level that is written.
    :param capture: attach to the root logger too, until :meth:`close`.
    """

    def __init__(self, file: LineFile, name: str, level: int, capture: bool = False) -> None:
        # Not from getLogger: a name there is shared by the whole process, and outlives the run.
        self.logger = logging.Logger(f"advlog_fast.{name}", level)  # noqa: LOG001
        self._handler = _LineHandler(file, self.logger.name, level)
        self.logger.addHandler(self._handler)
        self._captures = capture
        if capture:
            logging.getLogger().addHandler(self._handler)

    def say(self, level: int, message: str) -> None:
        """Writes the message as it is, without %-formatting."""
        if self.logger.isEnabledFor(level):
            self.logger.handle(self.logger.makeRecord(self.logger.name, level, "", 0, message, (), None))

    def close(self) -> None:
        """Detaches from the root logger; the file is its owner's to close."""
        if self._captures:
            logging.getLogger().removeHandler(self._handler)
            self._captures = False


class _LineHandler(logging.Handler):
    def __init__(self, file: LineFile, own_name: str, level: int) -> None:
        super().__init__(level)
        self._file = file
        self._own_name = own_name

    def handle(self, record: logging.LogRecord) -> bool:
        # The handler's own lock has no deadline; the file's has.
        # Since 3.12 a filter may answer with another record.
        passed: Any = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._file.write(self._line(record))
        except Exception as error:  # noqa: BLE001
            self._file.write(f"{time_text(0)} ERROR unreadable log record: {type(error).__name__}\n")

    def _line(self, record: logging.LogRecord) -> str:
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001
            text = f"{record.msg!r} (not formatted: {type(error).__name__}: {error})"
        if record.name != self._own_name:
            text = f"{record.name}: {text}"
        if record.exc_info and record.exc_info[1] is not None:
            text += "\n" + "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        elif record.exc_text:
            text += "\n" + record.exc_text
        if record.stack_info:
            text += "\n" + str(record.stack_info)
        when = time_text(int(record.created * 1_000_000) * 1000)
        return f"{when} {escape(record.levelname)} {escape(text)}\n"
