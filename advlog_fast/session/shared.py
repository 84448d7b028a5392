"""Handles that share one session of this process: see `AdvancedLogger.shared`."""

from __future__ import annotations

import dataclasses
import os
import weakref
from typing import Any

from .._native import Guard, Producer
from ..config import LoggerConfig, is_disabled
from ..engine.child import ChildSession
from ..exceptions import expected
from ..store.paths import RunPaths
from ..store.ranks import rank_identity
from . import registry
from .session import REACHES_NOTHING, Session

_OPENING_S = 60.0
_HANDLE_CLOSED = f"this handle was closed: {REACHES_NOTHING}"


class SharedSession:
    """One handle's view of a session: as the session, but for its end, which comes with the last handle's.

    No method holds a lock while it waits: the collector ends handles on any thread, the session's own among them.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._owner = session.user if session.sharing.handles_only else None
        """Keeps the logger that the session belongs to, if nobody else does."""
        self._handle: weakref.ref[Producer] | None = None
        self._child: ChildSession | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def join(self, handle: Producer) -> bool:
        """Counts the handle among those of the session; returns False where the session is about to end."""
        with _joining:
            if self._session.closed or self._session.sharing.is_over:
                return False
            self._session.sharing.handles.add(self)
        self._handle = weakref.ref(handle)
        self._session.producers.bind(handle, self._session)
        weakref.finalize(handle, self._collected, self._session.config.close_timeout_s).atexit = False
        return True

    @property
    def released(self) -> bool:
        """True once the handle was closed."""
        return self not in self._session.sharing.handles

    @property
    def closed(self) -> bool:
        return self.released or self._session.closed

    has_ended = closed

    def admit(self, producer: Producer) -> tuple[str, str] | None:
        """As :meth:`Session.admit`."""
        if not self.released:
            return self._session.admit(producer)
        self._session.entry.count_drop("closed")
        return "closed", self.after_close()

    def after_close(self) -> str:
        """Returns what the handle says of a call after its end."""
        return _HANDLE_CLOSED if self.released and not self._session.closed else self._session.after_close()

    def in_child(self) -> ChildSession:
        """As :meth:`Session.in_child`; a handle that was closed stays so."""
        if not self.released:
            return self._session.in_child()
        if self._child is None or self._child.pid != os.getpid():
            self._child = ChildSession(self._session.parts.parent, ("closed", self.after_close()), forked=True)
        return self._child

    def close(self, timeout_s: float, status: str | None = None, *, by_user: bool = False) -> bool:
        """Ends the handle, and with the last one the session; flushes where others go on. A second call does what the
        first one may not have finished."""
        if os.getpid() != self._session.pid:
            return True
        if status is not None:
            self._session.sharing.note(status, by_user=by_user)
        last = self._release()
        handle = self._handle() if self._handle is not None else None
        if handle is not None:
            handle._unbind()
        if last or self._session.closed:
            return self._session.close(timeout_s)
        return self._session.flush(timeout_s)

    def _collected(self, timeout_s: float) -> None:
        # No flush: a thread that the drain needs may be the one that collects.
        if os.getpid() == self._session.pid and self._release():
            self._session.close(timeout_s)

    def _release(self) -> bool:
        """Returns whether the session, which no other logger owns, has no handle left."""
        session = self._session
        with _joining:
            session.sharing.handles.discard(self)
            session.sharing.is_over = session.sharing.handles_only and not session.sharing.handles
            return session.sharing.is_over


_joining = Guard()
"""Makes the last handle's end and another one's beginning come one after the other. Held for a few steps."""
_opening = Guard(_OPENING_S)
"""Lets threads that open one run take turns: the second finds the session of the first."""


def _free_in_child() -> None:
    """Replaces the locks in a child: a thread that does not exist there may have held them."""
    global _joining, _opening
    _joining, _opening = Guard(), Guard(_OPENING_S)


os.register_at_fork(after_in_child=_free_in_child)


def shared(logger_class: Any, log_dir: Any, experiment_name: str, options: dict[str, Any]) -> Any:
    """Returns a handle on the session that this process has open for the run, or on a new one; in a child of the
    process that has it open, the logger of a worker."""
    config = LoggerConfig(log_dir=log_dir, experiment_name=experiment_name, **options)
    if not config.enabled or is_disabled():
        return logger_class(log_dir, experiment_name, **options)
    rank = rank_identity(config.rank, config.world_size).rank
    paths = RunPaths(config.log_dir, config.experiment_name, rank)
    while True:
        with _opening:
            session = registry.open_session(paths)
            if session is None:
                inherited = registry.inherited_session(paths)
                if inherited is not None:
                    return made(logger_class, inherited.config, inherited.in_child())
                owner = logger_class(log_dir, experiment_name, **options)
                session = owner._engine
                if not isinstance(session, Session):
                    return owner  # a worker of the process that spawned this one
                session.sharing.handles_only = True
            else:
                _check_options(session.config, config, options)
            handle = handle_on(session, logger_class)
        if handle is not None:
            return handle
        session.close(session.config.close_timeout_s)  # it is about to end: this waits for that


def made(logger_class: Any, config: LoggerConfig, engine: Any) -> Any:
    """Returns a logger of that class with that session, whose constructor did not run."""
    log = logger_class.__new__(logger_class)
    log.config, log.enabled, log._engine = config, engine is not None, engine
    log._warned, log._around = set(), 0
    log._load(config.experiment_name)
    if log.enabled:
        log._unbind()  # from here on its calls come to _open_session
    return log


def handle_on(session: Session, logger_class: Any) -> Any:
    """Returns a new handle on an open session; None if it is about to end.

    :param logger_class: of the logger to return.
    """
    view = SharedSession(session)
    handle = made(logger_class, session.config, view)
    return handle if view.join(handle) else None


def _check_options(have: LoggerConfig, want: LoggerConfig, given: dict[str, Any]) -> None:
    """:raises ValueError: an option was given that the open session has otherwise."""
    for field in dataclasses.fields(LoggerConfig):
        name = field.name
        if name in given and getattr(have, name) != getattr(want, name):
            wanted = f"{getattr(have, name)!r}, as the open logger of the run has it"
            raise ValueError(expected(name, wanted, getattr(want, name)))
