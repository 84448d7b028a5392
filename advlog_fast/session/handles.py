"""Handles on the session of another process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from pathlib import Path
from typing import Any

from .._hooks import importing
from .._native import Producer
from ..config import LoggerConfig, is_disabled
from ..engine.child import ChildSession, ParentHandle
from ..engine.child_rings import children_folder
from ..engine.drain import expect_children
from ..store.attempts import read_claim
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ranks import RunIdentity
from ..store.ring_note import RingNote
from . import registry
from .shared import handle_on, made


def in_another_process(
    logger_class: Any, config: LoggerConfig, parent: ParentHandle | None, refused: tuple[str, str] | None = None
) -> Any:
    """Returns the logger of the session if this process has it open, a further handle if it has handles only; else a
    handle whose first record opens a child ring.

    :param logger_class: of the logger to return.
    :param parent: None where the logger was off.
    :param refused: kind and text of a warning, where it was closed.
    """
    if parent is None or is_disabled():
        return made(logger_class, config, None)
    here = registry.living(parent) if parent.is_here() and refused is None else None
    if here is not None:
        if here.sharing.handles_only:
            handle: Producer | None = handle_on(here, logger_class)
        else:
            handle = here.user
        if handle is not None:
            return handle
    return made(logger_class, parent.config, ChildSession(parent, refused))


def pickled(log: Any, added: dict[str, Any]) -> tuple[Any, ...]:
    """Returns what makes the logger again, in another process as a handle on its session.

    :param added: its attributes that are a subclass's.
    """
    session = log._session
    parent = refused = None
    if session is not None:
        expect_children()
        parent = session.parts.parent
        refused = ("closed", session.after_close()) if session.closed else None
    return in_another_process, (type(log), log.config, parent, refused), added or None


def become_worker(log: Any, paths: RunPaths) -> bool:
    """Makes the logger a handle on the session of the process that spawned this one, if that logs the run; returns
    whether it did. A spawned process that imports a script again needs it, where the script makes its logger at the
    top."""
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
