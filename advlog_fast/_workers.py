"""Child processes that log, as their parent sees them: each has a small ring of its own, a worker, which the drain of
the parent's session takes over. See _child.py for the child's side.

The workers of a session lie in a folder beside its ring. It is there as long as the session is: to end, the parent
closes and empties every ring in it and removes it, which the system refuses while anything is in it; a child that finds
no folder has no parent. So a record that was accepted is always seen.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._child import has_taken
from ._locks import FileLock, LockedError
from ._native import ffi, lib
from ._processes import process_start
from ._ring import Ring, set_aside
from .exceptions import AdvlogError

_PATIENCE_S = 1.0
_VISIT_S = 0.5
_POLL_S = 0.001
_DAMAGED = "it is damaged"


def workers_folder(ring: Path | None) -> Path | None:
    """Where the rings of the children lie whose parent's ring is at `ring`; None: it has no file, and can have none."""
    return ring.with_name(f"{ring.name}.workers") if ring is not None else None


class Workers:
    """The rings of a session's children. For the thread that runs the drain, but for `has_any` and `wait`.

    :param drain: the C drain of `ring`.
    :param on_fault: told, in a sentence, what was lost of a child.
    """

    def __init__(self, ring: Ring, drain: Any, on_fault: Callable[[str], None]) -> None:
        self.folder = workers_folder(ring.path)
        self.lost_in_flight = 0
        """Runs of slots that children reserved and never published."""
        self._ring, self._drain, self._on_fault = ring, drain, on_fault
        self._met: dict[Path, Ring] = {}
        self._dead: dict[Path, FileLock] = {}
        """Those of them whose processes have ended, by now repaired."""
        self._ending = False
        self._told_names = False
        self._visit_due = 0.0

    def open(self) -> None:
        """From here on children may log."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                self.folder.mkdir(mode=0o700, exist_ok=True)

    def has_any(self) -> bool:
        """Whether there is a child that logs, or one whose records are not all here. Any thread."""
        return bool(_rings_in(self.folder))

    def look(self) -> None:
        """Meets new children, and now and then takes leave of dead ones whose records are all here."""
        for path in _rings_in(self.folder):
            if path not in self._met:
                self._meet(path)
        if time.monotonic() >= self._visit_due:
            for path, ring in list(self._met.items()):
                self._visit(path, ring)
            self._visit_due = time.monotonic() + _VISIT_S

    def wait(self, deadline: float) -> bool:
        """Waits until what the children met so far have been acknowledged is in the parent's ring. Any thread."""
        ends = [(ring, lib.advlog_ring_write_pos(ring.handle)) for ring in list(self._met.values())]
        for ring, end in ends:
            while not has_taken(ring, end):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_S)
        return True

    def end(self, advance: Callable[[], object], deadline: float) -> bool:
        """Closes the children's rings, takes over what is in them, and ends the family; whether all of it was done.

        :param advance: runs the drain for a moment.
        """
        if self.folder is None:
            return True
        self._ending = True
        for ring in self._met.values():
            lib.advlog_ring_close(ring.handle)
        left: dict[Path, int] = {}
        patience = 0.0
        while not self._emptied_folder():
            advance()
            self._visit_due = 0.0
            self.look()
            for path in [path for path, ring in self._met.items() if ring.used() == 0]:
                self._leave(path)
            before, left = left, {path: ring.used() for path, ring in self._met.items()}
            now = time.monotonic()
            if now >= deadline:
                return self._emptied_folder()
            # Where nothing moves for want of room in our own ring, no child is to blame.
            if left != before or self._ring.used() > self._ring.slots // 2:
                patience = now + _PATIENCE_S
            elif now >= patience:
                for path, ring in list(self._met.items()):
                    self._pass_over(path, ring, "stood still")
        return True

    def _meet(self, path: Path) -> None:
        try:
            ring = Ring.mapped(path)
        except FileNotFoundError:
            return
        except (OSError, AdvlogError) as error:
            self._set_aside(path, str(error))
            return
        mine, its = (lib.advlog_ring_identity(r.handle) for r in (self._ring, ring))
        if (ring.run_id, its.attempt, its.rank) != (self._ring.run_id, mine.attempt, mine.rank):
            self._set_aside(path, "it belongs to another run")
            return
        if self._ending:
            lib.advlog_ring_close(ring.handle)  # first of all: only an empty ring that is closed stays empty
        if lib.advlog_drain_add_worker(self._drain, ring.handle) == 0:
            self._met[path] = ring

    def _visit(self, path: Path, ring: Ring) -> None:
        info = ffi.new("advlog_worker_info *")
        lib.advlog_drain_worker(self._drain, ring.handle, info)
        if info.dropped and not self._told_names:
            self._told_names = True
            self._on_fault("records of children are dropped: there is no room for their metrics or the names of these")
        if info.damaged:
            self._set_aside(path, _DAMAGED)
        elif path not in self._dead and self._has_died(path, ring):
            self._pass_over(path, ring, "died")
        if path in self._dead and ring.used() == 0:
            self._leave(path)

    def _has_died(self, path: Path, ring: Ring) -> bool:
        its = lib.advlog_ring_identity(ring.handle)
        if process_start(its.pid) == its.process_start:
            return False
        try:
            self._dead[path] = FileLock(path.with_suffix(".lock"))
        except (OSError, LockedError):
            return False
        return True

    def _pass_over(self, path: Path, ring: Ring, what: str) -> None:
        """Marks what a child reserved and will not publish as lost, so that what comes after it can be taken."""
        repair = ffi.new("advlog_repair *")
        if lib.advlog_ring_repair(ring.handle, False, repair):
            self._set_aside(path, _DAMAGED)
        elif repair.lost:
            self.lost_in_flight += repair.lost
            self._on_fault(f"a child {what} in the middle of a call: {repair.lost} lost in flight")

    def _leave(self, path: Path) -> None:
        ring = self._met.pop(path)
        with contextlib.suppress(OSError):
            os.unlink(path)
        lib.advlog_drain_remove_worker(self._drain, ring.handle)
        lock = self._dead.pop(path, None)
        with contextlib.suppress(OSError):
            if lock is not None:
                lock.release(remove=True)
            else:
                os.unlink(path.with_suffix(".lock"))

    def _set_aside(self, path: Path, why: str) -> None:
        """Moves a child's ring that cannot be used out of the way."""
        told = f"the ring {path} of a child cannot be used: {why}"
        with contextlib.suppress(OSError):
            if self._ring.aside is not None:
                told += f"; kept as {set_aside(path, self._ring.aside)}"
        with contextlib.suppress(OSError):
            os.unlink(path)
        self._on_fault(told)
        if path in self._met:
            lib.advlog_ring_close(self._met[path].handle)  # a child that lives is to know
            self._leave(path)

    def _emptied_folder(self) -> bool:
        """Removes the folder, unless there is a ring in it; whether it is gone."""
        assert self.folder is not None
        try:
            names = os.listdir(self.folder)
            if not any(name.endswith(".ring") for name in names):
                for name in names:
                    os.unlink(self.folder / name)  # a lock, or a ring in the making: its child will find no folder
                os.rmdir(self.folder)
        except OSError:
            pass  # such as a ring that came into sight meanwhile
        return not self.folder.exists()


def settle_workers(ring: Ring) -> bool:
    """Finishes what a dead parent's drain was at with each of its workers; whether there are any, or may be: a child
    that lives can still come, as long as there is the folder.

    :param ring: the dead parent's, before it is repaired.
    :raises OSError: one could not be opened. Without it nothing may be taken: its last record may be there already.
    """
    folder = workers_folder(ring.path)
    for path in _rings_in(folder):
        try:
            worker = Ring.mapped(path)
            if lib.advlog_takeover_settle(ring.handle, worker.handle) and ring.aside is not None:
                set_aside(path, ring.aside)
        except (FileNotFoundError, AdvlogError):
            continue  # told when its records are to be taken
    return folder is not None and folder.exists()


def drop_workers(ring: Path | None, aside: Path) -> None:
    """Sets the rings of children aside whose parent's ring is lost."""
    folder = workers_folder(ring)
    if folder is None:
        return
    for path in _rings_in(folder):
        with contextlib.suppress(OSError):
            set_aside(path, aside)
    shutil.rmtree(folder, ignore_errors=True)


def _rings_in(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".ring")]
    except OSError:
        return []
