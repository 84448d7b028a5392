"""Writes NAME_main.log: the run's own messages, and those to its standard logger."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from .line_file import LineFile
from .masking import masked
from .text import clipped, escape, fields_text, time_text, value_text, with_nulls

_ESCAPED = "advlog_escaped"
_OF_EVERY_RECORD = {*vars(logging.LogRecord("", 0, "", 0, "", (), None)), "message", "asctime", "taskName", _ESCAPED}
"""Attributes that the logging module gives a record; any other one is `extra` of the user's."""
_REPLACED = "capture_logging: the handlers of the root logger were replaced, and it"


class MainLog:
    """The stdlib logger of a run, writing one escaped line an entry.

    :param level: the lowest level that is written; of the run's own entries, until `logger.setLevel` says otherwise.
    :param capture: attach to the root logger too, until :meth:`close`.
    :param show: called with each warning and error of the user's, and its level.
    :param in_child: called with the level and the text of each message of a forked child, which must not use the file.
    :param on_error: called with each exception that an entry carries, the entry's level, the function that logged it
        and its message. The line holds the message only.
    """

    def __init__(
        self,
        file: LineFile,
        name: str,
        level: int,
        capture: bool = False,
        on_error: Callable[[BaseException, int, str, str], object] = lambda *_: None,
        in_child: Callable[[int, str], object] = lambda *_: None,
        show: Callable[[str, int], object] = lambda *_: None,
    ) -> None:
        # Not from getLogger: a name there is shared by the whole process, and outlives the run.
        self.logger = RunLogger(f"advlog_fast.{name}", level)
        self.logger.handlers.append(_LineHandler(file, self.logger.name, logging.NOTSET, on_error, in_child, show))
        # The levels of other loggers are the user's, so what they pass on is filtered here. They have handlers of their
        # own that show it.
        self.handler = _LineHandler(file, self.logger.name, level, on_error, in_child, lambda *_: None)
        self._capturing = self.handler if capture else None
        if capture:
            logging.getLogger().handlers.append(self.handler)

    def say(self, level: int, line: str) -> None:
        """Writes the line as it is: escaped by the caller, and not taken for a format. `logging.disable` is for what
        the user logs."""
        if level >= self.logger.level:
            extra = {_ESCAPED: True}
            record = self.logger.makeRecord(self.logger.name, level, "", 0, line, (), None, extra=extra)
            self.logger.handle(record)

    def has_lost_capture(self) -> bool:
        """Returns whether somebody took our handler from the root logger, as `logging.config.dictConfig` and
        `basicConfig(force=True)` do."""
        return self._capturing is not None and self._capturing not in logging.getLogger().handlers

    def capture_again(self) -> None:
        """Attaches to the root logger again, and says so."""
        if self._capturing is not None and self.has_lost_capture():
            logging.getLogger().handlers.append(self._capturing)
            self.say(logging.WARNING, f"{_REPLACED} is captured again; what was logged meanwhile is missing here")

    def close(self) -> None:
        """Detaches from every logger; the file is its owner's to close."""
        if self.has_lost_capture():
            self.say(logging.WARNING, f"{_REPLACED} was no longer captured at the end")
        self._capturing = None
        self.handler.detach()


class RunLogger(logging.Logger):
    """A logger that stands alone, with the children that it is asked for. What is enabled is looked up each time: the
    cache of the class is filled under the lock of the logging module, and for a logger that the module does not know
    nothing ever empties it."""

    def __init__(self, name: str, level: int = logging.NOTSET) -> None:
        super().__init__(name, level)
        self._children: dict[str, RunLogger] = {}

    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - the class's name
        return not self.disabled and level > self.manager.disable and level >= self.getEffectiveLevel()

    def getChild(self, suffix: str) -> RunLogger:  # noqa: N802
        """The logger of that name below this one: what it is given goes where this one's goes."""
        first, _, rest = suffix.partition(".")
        child = self._children.setdefault(first, RunLogger(f"{self.name}.{first}"))
        child.parent = self
        return child.getChild(rest) if rest else child


class _LineHandler(logging.Handler):
    def __init__(
        self,
        file: LineFile,
        own_name: str,
        level: int,
        on_error: Callable[[BaseException, int, str, str], object],
        in_child: Callable[[int, str], object],
        show: Callable[[str, int], object],
    ) -> None:
        # Not by the constructor of Handler, nor by createLock: the module would know the handler, and its beginning and
        # its end would wait for the module's lock. The thread that makes a logger may hold it while it waits for
        # another thread; and the collector may end one anywhere.
        logging.Filterer.__init__(self)
        self._name = None
        self._closed = False
        self.level = level
        self.formatter = None
        self.lock = threading.RLock()
        self._detached = False
        self._pid = os.getpid()
        self._in_child = in_child
        self._file = file
        self._own_name = own_name
        self._on_error = on_error
        self._show = show

    def handle(self, record: logging.LogRecord) -> bool:
        # The handler's own lock has no deadline; the file's has.
        # Since 3.12 a filter may answer with another record.
        passed: Any = self.filter(record)
        if passed:
            self.emit(passed if isinstance(passed, logging.LogRecord) else record)
        return bool(passed)

    def detach(self) -> None:
        """Writes nothing more, and leaves the root logger. Not by `removeHandler`, which waits for the lock of the
        logging module: the closing thread may hold another handler's lock, under which that lock must never be
        taken."""
        self._detached = True
        with contextlib.suppress(ValueError):
            logging.getLogger().handlers.remove(self)

    def emit(self, record: logging.LogRecord) -> None:
        if self._detached:
            # It may stand at a library's logger still: what reaches no other handler is for Python's last resort.
            if record.levelno >= logging.WARNING and logging.lastResort is not None and _has_no_other(record.name):
                logging.lastResort.handle(record)
            return
        try:
            text = message_of_record(record)
            if os.getpid() != self._pid:
                self._in_child(record.levelno, clipped(escape(text) + extra_text(record)))
                return
            self._file.write(self._line(record, text))
            if record.exc_info and record.exc_info[1] is not None:
                self._on_error(record.exc_info[1], record.levelno, record.funcName or "", text)
            elif record.levelno >= logging.WARNING and not hasattr(record, _ESCAPED):
                self._show(f"{record.levelname.lower()}: {escape(text)}{extra_text(record)}", record.levelno)
        except Exception as error:  # noqa: BLE001
            self._file.write(f"{time_text(time.time_ns())} ERROR unreadable log record: {type(error).__name__}\n")

    def _line(self, record: logging.LogRecord, text: str) -> str:
        if record.name != self._own_name:
            text = f"{record.name.removeprefix(self._own_name + '.')}: {text}"
        if record.exc_text and not record.exc_info:
            text += "\n" + record.exc_text  # of another process: there is no exception to tell of
        if record.stack_info:
            text += "\n" + str(record.stack_info)
        when = time_text(int(record.created * 1_000_000) * 1000)
        shown = text if hasattr(record, _ESCAPED) else escape(text) + extra_text(record)
        return f"{when} {escape(record.levelname)} {shown}\n"


def _has_no_other(name: str) -> bool:
    """Returns whether a logger passes what it is given to handlers of this module alone."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if not all(isinstance(handler, _LineHandler) for handler in logger.handlers):
            return False
        logger = logger.parent if logger.propagate else None
    return True


def extra_text(record: logging.LogRecord) -> str:
    """The entry's `extra` as ` name=value`, escaped and its secrets masked; nothing where it has none."""
    extra = {name: value for name, value in vars(record).items() if name not in _OF_EVERY_RECORD}
    return f" {fields_text(with_nulls(masked(extra)))}" if extra else ""


def message_of_record(record: logging.LogRecord) -> str:
    """Returns the entry's message with its arguments put in; the bare message where they do not fit."""
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001
        # A value may be nested too deep for its repr.
        shown = repr(record.msg) if isinstance(record.msg, str) else value_text(record.msg)
        return f"{shown} (not formatted: {type(error).__name__}: {error})"
