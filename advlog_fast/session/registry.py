"""The sessions of this process: at most one for a run and rank, begun here, and ended here at the exit."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from functools import partial

from .._hooks import at_exit, importing
from .._native import Producer
from ..config import LoggerConfig, status_of
from ..engine.child import ParentHandle
from ..recovery import has_left
from ..store.paths import RunPaths
from .session import Session

_starting = threading.RLock()
"""Lets two threads that make loggers of one run take turns: the second logger supersedes the first."""


def _free_in_child() -> None:
    """Replaces the lock in a child: a thread that does not exist there may have held it."""
    global _starting
    _starting = threading.RLock()


os.register_at_fork(after_in_child=_free_in_child)

_sessions: dict[tuple[str, str, int], Session] = {}


def _key(paths: RunPaths) -> tuple[str, str, int]:
    return os.path.realpath(paths.log_dir), paths.name, paths.rank


def start(session: Session) -> None:
    """Opens a session; one of the same run and rank that this process has open is closed first.

    :raises OSError: as :meth:`Session.open` does.
    :raises RunBusyError: as :meth:`Session.open` does.
    """
    session.start(partial(_open, session))


def _open(session: Session) -> None:
    with _starting:
        if not session.is_wanted():
            return
        _occupy_standard_streams()
        key = _key(session.paths)
        before = _sessions.get(key)
        superseded = False
        if before is not None and before.pid == os.getpid():
            superseded = not before.closed
            before.close(before.config.close_timeout_s, "interrupted")  # or waits for who is closing it
        session.open()
        if not session.opened:
            return
        _sessions[key] = session
        if before is not None and superseded:
            before.superseded_by = session.parts.run.attempt


def new_session(config: LoggerConfig, producer: Producer) -> Session:
    """A session that is still to be started."""
    session = Session(config, producer, _forget)
    # Here, on the caller's thread: an import may want a lock that the caller holds, such as logging's.
    with importing():
        if config.parquet:
            import pyarrow.compute
            import pyarrow.parquet  # noqa: F401
        if has_left(session.paths):
            from ..reader.statistics import import_lazily

            import_lazily()
    return session


def _forget(session: Session) -> None:
    key = _key(session.paths)
    if _sessions.get(key) is session:
        del _sessions[key]


def open_session(paths: RunPaths) -> Session | None:
    """Returns the session of that run and rank which this process has open; None if there is none."""
    session = _sessions.get(_key(paths))
    return None if session is None or session.closed or session.pid != os.getpid() else session


def inherited_session(paths: RunPaths) -> Session | None:
    """Returns the session of that run and rank which the process that forked this one had open; None if none."""
    session = _sessions.get(_key(paths))
    return None if session is None or session.closed or session.pid == os.getpid() else session


def living(parent: ParentHandle) -> Session | None:
    """Returns the parent's session, if this process is the parent and has it open."""
    session = _sessions.get(_key(parent.paths))
    if session is None or session.pid != os.getpid() or session.parts.run != parent.run:
        return None
    return session


def _occupy_standard_streams() -> None:
    """Opens the standard streams if the program runs with them closed. Otherwise our next files would get their
    numbers, and what a library writes to standard error would go into a log or the ring."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return


def _exit_status() -> str | None:
    """Returns how the interpreter ends, as far as it can be told: the last uncaught exception."""
    return status_of(getattr(sys, "last_exc", None) or getattr(sys, "last_value", None))


def _close_all() -> None:
    status = _exit_status()
    for session in list(_sessions.values()):
        if session.waited_at_exit:
            continue  # an end that hangs is not waited for twice
        session.at_exit = True
        with contextlib.suppress(BaseException):  # a Ctrl-C here ends the wait for one, and not the end of the others
            session.close(session.config.close_timeout_s, status)
            session.waited_at_exit = True


at_exit(_close_all)
