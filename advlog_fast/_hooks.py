"""The package's hooks into the process: uncaught exceptions, exit, forks and, on request, SIGTERM.

Every hook calls the one that was installed before it.
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
from typing import Any, TypeVar

Result = TypeVar("Result")
Notice = Callable[[BaseException, str], None]

_notices: list[Notice] = []
_before: dict[str, Any] = {}
_closers: list[Callable[[int], bool]] = []
"""The functions to call at the first SIGTERM, ..."""
_noters: list[Callable[[int], bool]] = []
"""... and those to call at each."""
_in_handler: list[bool] = []
_handlers: list[Any] = []
"""Our SIGTERM handlers: one, and another each time that other code had replaced it."""
_exit_tasks: list[Callable[[], None]] = []

_LONGEST_IMPORT_S = 10.0
_POLL_S = 0.001
_imports: weakref.WeakSet[_Import] = weakref.WeakSet()
_STACK_ROOM = 300
"""Frames that writing an event may take: a value is read to a depth of 16, an exception's causes one below another."""
_forking: list[int] = []
"""The threads that are forking now."""


def watch_exceptions(notice: Notice) -> None:
    """Calls `notice(error, where)` for each uncaught exception, before the hook that was installed before."""
    if not _notices:
        _before["sys"], _before["threading"] = sys.excepthook, threading.excepthook
        sys.excepthook, threading.excepthook = _main_hook, _thread_hook
    _notices.append(notice)


def unwatch_exceptions(notice: Notice) -> None:
    """Ends the calls to `notice`. Removes our hooks with the last one, unless other code has replaced them."""
    with contextlib.suppress(ValueError):
        _notices.remove(notice)
    if not _notices and _before:
        if sys.excepthook is _main_hook:
            sys.excepthook = _before["sys"]
        if threading.excepthook is _thread_hook:
            threading.excepthook = _before["threading"]


def _notify(error: BaseException, where: str) -> None:
    for notice in _notices:
        with contextlib.suppress(Exception):
            notice(error, where)


def _main_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    _notify(error, "uncaught exception")
    _before["sys"](kind, error, trace)


def _thread_hook(args: Any, /) -> None:
    if args.exc_value is not None and args.exc_type is not SystemExit:
        name = args.thread.name if args.thread is not None else "unknown"
        _notify(args.exc_value, f"uncaught exception in thread {name}")
    _before["threading"](args)


def on_sigterm(act: Callable[[int], bool], *, each: bool = False) -> None:
    """Calls `act` at SIGTERM, then the previous handler or the default action, which ends the process.

    :param act: called with the signal's number; returns False if it will raise the signal again later.
    :param each: call it at each SIGTERM, not only at the first.
    :raises ValueError: this is not the main thread.
    """
    before = signal.getsignal(signal.SIGTERM)
    if before not in _handlers:
        handle = partial(_on_sigterm, before, os.getpid())
        signal.signal(signal.SIGTERM, handle)
        _handlers.append(handle)
    (_noters if each else _closers).append(act)


def off_sigterm(act: Callable[[int], bool]) -> None:
    """Ends the calls to `act`. The handler stays: only the main thread can remove it, and others may have chained
    theirs."""
    for acts in (_closers, _noters):
        with contextlib.suppress(ValueError):
            acts.remove(act)


def _on_sigterm(before: Any, pid: int, number: int, frame: FrameType | None) -> None:
    if _in_handler:
        return  # a launcher sends it twice: the first goes on, and hands it on at its end
    later = False
    due: list[Callable[[int], bool]] = []
    if os.getpid() == pid:
        due[:], _closers[:] = [*_noters, *_closers], []  # each once, even if several of our handlers are chained
    _in_handler.append(True)
    try:
        for act in due:
            with contextlib.suppress(Exception):
                later |= not act(number)
    finally:
        _in_handler.clear()
    if later:
        return
    if callable(before):
        before(number, frame)
    elif before != signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def at_exit(task: Callable[[], None]) -> None:
    """Calls `task` at the exit of the interpreter: before exit handlers that were registered before the import of this
    package, and after later ones."""
    _exit_tasks.append(task)


def _exit() -> None:
    for task in _exit_tasks:
        task()


# Twice: an interrupt may end the first at any point, and the second does the rest.
atexit.register(_exit)
atexit.register(_exit)


class _Import:
    """An import that a thread is running. A frame holds the only reference, so an interrupt leaves no entry behind; a
    lock might stay held."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Context manager for an import inside a function: forks wait for its end. A child that is forked during another
    thread's import can never import that module: no thread of the child can release the interpreter's lock on it."""
    deadline = time.monotonic() + _LONGEST_IMPORT_S
    mine = _Import()
    _imports.add(mine)
    # First add, then look: a fork does so too, with the other set, so one of the two sees the other.
    while any(thread != mine.thread for thread in list(_forking)) and time.monotonic() < deadline:
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
    # With a deadline: the import may be waiting for one that this thread is running.
    deadline = time.monotonic() + _LONGEST_IMPORT_S
    while _others_import(here) and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _others_import(here: int) -> bool:
    try:
        return any(each.thread != here for each in list(_imports))
    except RuntimeError:
        return True  # the set changed meanwhile


def _after_fork() -> None:
    with contextlib.suppress(ValueError):
        _forking.remove(threading.get_ident())


def _free_in_child() -> None:
    """Forgets the other threads, which the child does not have, and the parent's sessions."""
    _forking.clear()
    _imports.clear()
    _closers.clear()
    _noters.clear()
    _in_handler.clear()
    _handlers.clear()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_free_in_child)


def with_room(session: Any, work: Callable[[], Result]) -> Result:
    """Runs `work`; on the session's own thread where the stack has no room for it, as in a recursion without an end. If
    that takes longer than `shielded` waits, it is run here too.

    :param session: has `shielded`; None where there is none.
    """
    done: list[Result] = []
    if session is not None and not _stack_has_room():
        session.shielded(lambda: done.append(work()))
    return done[0] if done else work()


def _stack_has_room() -> bool:
    try:
        # Looks so far up the stack, and raises where that has fewer frames, which is cheaper than to count them.
        sys._getframe(max(sys.getrecursionlimit() - _STACK_ROOM, _STACK_ROOM))
    except ValueError:
        return True
    return False
