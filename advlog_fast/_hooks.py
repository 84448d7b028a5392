"""What the process tells us of itself: uncaught exceptions, its exit, SIGTERM where that was asked for, and its forks.

Every hook is chained: what was there before runs as it did.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType, TracebackType
from typing import Any

Notice = Callable[[BaseException, str], None]

_notices: list[Notice] = []
_before: dict[str, Any] = {}
_closers: list[Callable[[int], bool]] = []
"""What is called at SIGTERM."""
_handlers: list[Any] = []
"""Of ours: one, and one more for each time that somebody else's came over it."""
_exit_tasks: list[Callable[[], None]] = []

_LONGEST_IMPORT_S = 10.0
_POLL_S = 0.001
_imports: weakref.WeakSet[_Import] = weakref.WeakSet()
_forking: list[int] = []
"""The threads that fork just now."""


def watch_exceptions(notice: Notice) -> None:
    """Calls `notice(error, where)` for each exception that nobody catches, before the hook that was there."""
    if not _notices:
        _before["sys"], _before["threading"] = sys.excepthook, threading.excepthook
        sys.excepthook, threading.excepthook = _main_hook, _thread_hook
    _notices.append(notice)


def unwatch_exceptions(notice: Notice) -> None:
    """Ends that; the hooks go with the last, unless somebody has chained theirs to them."""
    with contextlib.suppress(ValueError):
        _notices.remove(notice)
    if not _notices and _before:
        if sys.excepthook is _main_hook:
            sys.excepthook = _before["sys"]
        if threading.excepthook is _thread_hook:
            threading.excepthook = _before["threading"]


def _tell(error: BaseException, where: str) -> None:
    for notice in _notices:
        with contextlib.suppress(Exception):
            notice(error, where)


def _main_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _tell(error, "uncaught exception")
    _before["sys"](kind, error, trace)


def _thread_hook(args: Any, /) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "unknown"
        _tell(args.exc_value, f"uncaught exception in thread {name}")
    _before["threading"](args)


def on_sigterm(close: Callable[[int], bool]) -> None:
    """Calls `close` at SIGTERM, then whoever handled it before; the default action ends the process as it would have.

    :param close: given the signal's number; False where it is to be raised again later.
    :raises ValueError: not called on the main thread.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before not in _handlers:
        handle = partial(_on_sigterm, before, os.getpid())
        signal.signal(signal.SIGTERM, handle)
        _handlers.append(handle)
    _closers.append(close)


def off_sigterm(close: Callable[[int], bool]) -> None:
    """Ends that. The handler stays: only the main thread could take it out, and others may have chained theirs."""
    with contextlib.suppress(ValueError):
        _closers.remove(close)


def _on_sigterm(before: Any, pid: int, number: int, frame: FrameType | None) -> None:
    later = False
    due: list[Callable[[int], bool]] = []
    if os.getpid() == pid:
        due[:], _closers[:] = _closers, []  # each once, though several of ours may lie below one another
    for close in due:
        with contextlib.suppress(Exception):
            later |= not close(number)
    if later:
        return
    if callable(before):
        before(number, frame)
    elif before != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def at_exit(task: Callable[[], None]) -> None:
    """Calls it at the exit of the interpreter: before the handlers of whoever registered theirs before the package was
    imported, and not just before its first use."""
    _exit_tasks.append(task)


def _exit() -> None:
    for task in _exit_tasks:
        task()


# Twice: an interrupt ends one of them anywhere, and the other does what is left.
atexit.register(_exit)
atexit.register(_exit)


class _Import:
    """An import that a thread is at. It is known as long as the frame of it lives, so that an interrupt at whatever
    place leaves none behind; a lock might stay held."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For an import inside a function: forks wait for its end. A child that is forked in the middle of an import of
    another thread can never import that module itself: the interpreter's lock on it is held, by nobody."""
    given_up = time.monotonic() + _LONGEST_IMPORT_S
    mine = _Import()
    _imports.add(mine)
    # First known, then looking: a fork does it the other way round, so one of the two sees the other.
    while any(thread != mine.thread for thread in list(_forking)) and time.monotonic() < given_up:
        _imports.discard(mine)
        time.sleep(_POLL_S)
        _imports.add(mine)
    try:
        yield
    finally:
        _imports.discard(mine)


def _before_fork() -> None:
    here = threading.get_ident()
    _forking.append(here)
    # Not forever: the import may be waiting for one that this very thread is in.
    given_up = time.monotonic() + _LONGEST_IMPORT_S
    while _others_import(here) and time.monotonic() < given_up:
        time.sleep(_POLL_S)


def _others_import(here: int) -> bool:
    try:
        return any(each.thread != here for each in list(_imports))
    except RuntimeError:
        return True  # one began or ended while they were looked through


def _after_fork() -> None:
    with contextlib.suppress(ValueError):
        _forking.remove(threading.get_ident())


def _free_in_child() -> None:
    """The child has none of the other threads, and no session of its parent's to end by a signal."""
    _forking.clear()
    _imports.clear()
    _closers.clear()
    _handlers.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_free_in_child)
