"""Loggers that are no session's own: handles that share one session of this process, and handles on the session of
another process."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._hooks import importing
from .._native import Producer
from ..config import LoggerConfig, is_disabled
from ..engine.child import ChildSession, ParentHandle
from ..engine.child_rings import children_folder
from ..engine.drain import expect_children
from ..exceptions import expected
from ..store.attempts import read_claim
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ranks import RunIdentity, rank_identity
from ..store.ring_note import RingNote
from . import registry
from .session import Session

# -- sessions of other processes ---------------------------------------------------------------------------------------


def in_another_process(kind: Any, config: LoggerConfig, parent: ParentHandle | None) -> Producer:
    """Returns the logger of the session if this process has it open, else a handle, whose first record opens a child
    ring.

    :param kind: the logger's class.
    :param parent: None where the logger was off.
    """
    if parent is not None and not is_disabled():
        here = registry.living(parent) if parent.is_here() else None
        if here is not None:
            return here
        config, engine = parent.config, ChildSession(parent)
    else:
        engine = None
    log: Producer = _made(kind, config, engine)
    return log


def _made(kind: Any, config: LoggerConfig, engine: Any) -> Any:
    log = kind.__new__(kind)
    log.config, log.enabled, log._engine = config, engine is not None, engine
    log._warned = set()
    log._load(config.experiment_name)
    if log.enabled:
        log._unbind()  # from here on its calls come to _open_session
    return log


def pickled(log: Any, added: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what makes the logger again, in another process as a handle on its session.

    :param added: its attributes that are a subclass's.
    """
    session = log._session
    parent = None
    if session is not None:
        expect_children()
        parent = session.parts.parent
    return in_another_process, (type(log), log.config, parent), added or None


def become_worker(log: Any, paths: RunPaths) -> bool:
    """Makes the logger one of the process that spawned this one, if that is who logs the run; returns whether it is.
    Then this process imports a script again that makes its logger at the top."""
    parent = _parent_of_this_process(paths, log.config)
    if parent is None:
        return False
    log._engine = ChildSession(parent)
    log._unbind()
    log._warn(
        "spawned",
        "this process was spawned by the one that logs the run, and imports its script again: it logs as a worker of "
        'that process; make the logger under `if __name__ == "__main__":`',
    )
    return True


def _parent_of_this_process(paths: RunPaths, config: LoggerConfig) -> ParentHandle | None:
    ancestors = _spawned_by()
    for (attempt, rank), file in sorted(paths.ring_notes_of_all_ranks().items(), reverse=True):
        if rank != paths.rank:
            continue
        with contextlib.suppress(OSError, ValueError):
            note = RingNote.read(file)
            claim = read_claim(paths.claim(attempt))
            pid = claim.get("pid")
            if note.path is None or pid not in ancestors:
                return None
            run = RunIdentity(note.run_id, paths.name, attempt, rank, int(claim["world_size"]), str(claim["host"]), pid)
            return ParentHandle(config, paths, run, children_folder(Path(note.path)), process_start(pid))
    return None


def _spawned_by() -> list[int]:
    """Returns the process that spawned this one, and, for one that a server forked, that server's; nothing for a
    process that multiprocessing did not start."""
    # While a script is imported again, multiprocessing does not know the parent yet.
    inherits = getattr(multiprocessing.current_process(), "_inheriting", False)
    if not inherits and multiprocessing.parent_process() is None:
        return []
    with importing():
        import psutil
    parent = os.getppid()
    with contextlib.suppress(psutil.Error):
        return [parent, psutil.Process(parent).ppid()]
    return [parent]


# -- shared sessions of this process -----------------------------------------------------------------------------------


class SharedSession:
    """One handle's view of a session: as the session, but for its end, which comes with the last handle's."""

    def __init__(self, session: Session, owner: Any) -> None:
        self._session = session
        self._owner = owner
        """The logger that all handles of the session keep; None if the session is another logger's own."""
        self._released = False
        self._result = True
        self.handle: Callable[[], Producer | None] = lambda: None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    @property
    def closed(self) -> bool:
        return self._released or self._session.closed

    has_ended = closed

    def admit(self, producer: Producer) -> tuple[str, str] | None:
        """As :meth:`Session.admit`."""
        if not self._released:
            return self._session.admit(producer)
        self._session.entry.count_drop("closed")
        return "closed", self.after_close()

    def after_close(self) -> str:
        """Returns what the handle says of a call after its end."""
        if self._released and not self._session.closed:
            return "this handle was closed: what it is given after close() reaches no file, and its records are counted"
        return self._session.after_close()

    def close(self, timeout_s: float, status: str | None = None, *, by_user: bool = False) -> bool:
        """Ends the handle, and with the last one the session; flushes where others go on."""
        if os.getpid() != self._session.pid:
            return True
        with _sharing:
            last = not self._released and _released(self)
            first, self._released = not self._released, True
        handle = self.handle()
        if handle is not None:
            handle._unbind()
        if last:
            self._result = self._session.close(timeout_s, status, by_user=by_user)
        elif first and not self._session.closed:
            self._result = self._session.flush(timeout_s)
        return self._result


_sharing = threading.RLock()
_handles: dict[int, int] = {}
"""By the id of the logger that the handles of a session keep: how many there are."""


def _free_in_child() -> None:
    """Replaces the lock in a child: a thread that does not exist there may have held it."""
    global _sharing
    _sharing = threading.RLock()


os.register_at_fork(after_in_child=_free_in_child)


def _released(handle: SharedSession) -> bool:
    """Counts a handle's end; returns whether it was the last one of a session that no other logger owns."""
    owner = handle._owner
    if owner is None:
        return False
    _handles[id(owner)] -= 1
    if _handles[id(owner)]:
        return False
    del _handles[id(owner)]
    return True


def shared(kind: Any, log_dir: Any, experiment_name: str, options: dict[str, Any]) -> Any:
    """Returns a handle on the session that this process has open for the run, or on a new one: see
    `AdvancedLogger.shared`."""
    config = LoggerConfig(log_dir=log_dir, experiment_name=experiment_name, **options)
    if not config.enabled or is_disabled():
        return kind(log_dir, experiment_name, **options)
    rank = rank_identity(config.rank, config.world_size).rank
    with _sharing:
        session = registry.open_session(RunPaths(config.log_dir, config.experiment_name, rank))
        owner = None
        if session is None:
            owner = kind(log_dir, experiment_name, **options)
            session = owner._engine
            session.shared_by = weakref.ref(owner)
            _handles[id(owner)] = 0
        else:
            _check_options(session.config, config, options)
            owner = session.shared_by() if session.shared_by is not None else None
        view = SharedSession(session, owner)
        handle = _made(kind, session.config, view)
        view.handle = weakref.ref(handle)
        session.producers.bind(handle, session)
        if owner is not None:
            _handles[id(owner)] += 1
        weakref.finalize(handle, view.close, session.config.close_timeout_s).atexit = False
    return handle


def _check_options(have: LoggerConfig, want: LoggerConfig, given: dict[str, Any]) -> None:
    """:raises ValueError: an option was given that the open session has otherwise."""
    for field in dataclasses.fields(LoggerConfig):
        name = field.name
        if name in given and getattr(have, name) != getattr(want, name):
            wanted = f"{getattr(have, name)!r}, as the open logger of the run has it"
            raise ValueError(expected(name, wanted, getattr(want, name)))
