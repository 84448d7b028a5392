"""The errors that advlog_fast raises, and how a misuse is worded. Wrong code raises; a value or a disk never."""

from __future__ import annotations

import contextlib
import reprlib
import sys
import warnings
from types import FrameType


class AdvlogError(Exception):
    """The base of the exceptions that advlog_fast defines.

    >>> try:
    ...     read_run("logs", "unknown")
    ... except AdvlogError as error:
    ...     print(type(error).__name__)
    RunNotFoundError
    """


class RunBusyError(AdvlogError):
    """Another live process logs this rank of the run; the message names that process.

    >>> try:
    ...     again = AdvancedLogger("logs", "run", console="off")
    ... except RunBusyError:  # not here: a logger of the same process makes way
    ...     again = AdvancedLogger("logs", "run-b", console="off")
    >>> again.attempt, again.close()
    (2, True)
    """


class RunNotFoundError(AdvlogError, FileNotFoundError):
    """There is no run of that name in that directory; the message lists the runs in it.

    >>> read_run("logs", "unknown")
    Traceback (most recent call last):
    advlog_fast.exceptions.RunNotFoundError: ...
    """


def expected(argument: str, wanted: str, got: object) -> str:
    """Returns the message of a misuse: the argument, the expected value, the value passed."""
    return f"{argument}: expected {wanted}, got {type(got).__name__} {shown(got)}"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 100
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = 20

    def repr1(self, x: object, level: int) -> str:
        tensor = getattr(sys.modules.get("torch"), "Tensor", None)
        if tensor is not None and isinstance(x, tensor):
            return f"{type(x).__name__}(shape={tuple(x.shape)}, dtype={x.dtype}, device={str(x.device)!r})"
        return super().repr1(x, level)


_SHORT = _Short()


def shown(value: object) -> str:
    """Returns the start of the value's repr, for a message. Of a tensor only what it is: to show its values may wait
    for its device, end the capture of a graph, or, where its storage was freed, end the process."""
    try:
        text = _SHORT.repr(value)
    except Exception as error:  # noqa: BLE001 - repr() of a user's object may raise anything
        text = f"(repr: {type(error).__name__})"
    return text if len(text) <= 80 else text[:77] + "..."


def tell(message: str) -> None:
    """Writes a line to standard error, if that takes one."""
    with contextlib.suppress(Exception):  # it may be closed, or a pipe that nobody reads
        print(f"advlog_fast: {message}", file=sys.stderr)  # noqa: T201


def warn_or_tell(message: str) -> None:
    """As :func:`warn_user`, but never raises: what a filter makes an exception stands on standard error."""
    try:
        warn_user(message)
    except RuntimeWarning as error:
        tell(str(error))
    except Exception:  # noqa: BLE001, S110 - standard error is closed, or a hook of the user's fails
        pass


def warn_user(message: str) -> None:
    """Issues a RuntimeWarning at the caller's nearest line outside of this package."""
    package, level = __name__.partition(".")[0], 1
    frame: FrameType | None = sys._getframe(0)
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == package:
        frame = frame.f_back
        level += 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)
