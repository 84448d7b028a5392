"""The parent's side of child processes that log: each child has a small ring of its own, which the drain of the
parent's session empties. See child.py for the child's side.

The rings of a session's children lie in a folder beside its ring. It exists as long as the session. At its end, the
parent closes and empties every ring in the folder and removes the folder, which the system refuses while a file is in
it. A child that finds no folder has no parent. So the parent sees every accepted record.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._native import ffi, lib
from ..exceptions import AdvlogError
from ..store.files import NotOursError, check_folder, quarantine_file, remove_own
from ..store.locks import FileLock, LockedError
from ..store.processes import process_start
from .child import has_taken
from .findings import Finding, fault
from .ring import Ring
from .ring_file import holds_ring
from .ring_folders import make_private_folder

_STALL_S = 1.0
_VISIT_S = 0.5
_POLL_S = 0.001
_DAMAGED = "it is damaged"
_RING = re.compile(r"\d+-[0-9a-f]{8}\.ring\Z")
_CHILDS = re.compile(r"\d+-[0-9a-f]{8}\.(?:ring|lock)\Z|\.\d+-[0-9a-f]{8}\.tmp\Z")
"""The names of the children's files."""


def children_folder(ring: Path | None) -> Path | None:
    """Returns the folder of the child rings of the parent whose ring is at `ring`; None if the parent's ring has no
    file."""
    return ring.with_name(f"{ring.name}.workers") if ring is not None else None


class ChildRings:
    """The rings of a session's children. Only the thread that runs the drain may call it, except `has_any` and `wait`.

    :param drain: the C drain of `ring`.
    :param report: takes findings: what was lost of a child.
    """

    def __init__(self, ring: Ring, drain: Any, report: Callable[[Finding], None]) -> None:
        self.folder = children_folder(ring.path)
        self.lost_in_flight = 0
        """Runs of slots that children reserved and never published."""
        self._ring, self._drain, self._report = ring, drain, report
        self._met: dict[Path, Ring] = {}
        self._dead: dict[Path, FileLock | None] = {}
        """Child rings whose processes have ended; they are repaired."""
        self._strangers: set[Path] = set()
        """Files with a ring's name that are not ours."""
        self._ending = False
        self._reported_names = False
        self._visit_due = 0.0

    def open(self) -> None:
        """Makes the folder, so that children may log."""
        if self.folder is not None:
            with contextlib.suppress(OSError):  # a child says so
                make_private_folder(self.folder)

    def abandon(self) -> None:
        """Removes the folder without taking over records: the parent no longer exists for its children."""
        self._ending = True
        if self.folder is not None:
            self._emptied_folder()

    def watch(self) -> None:
        """Makes the folder again where somebody has removed it."""
        if self.folder is None or self._ending or os.path.lexists(self.folder):
            return
        message = f"{self.folder} was removed: what children log whose rings were in it, and not met yet, is lost"
        self._report(fault(message))
        with contextlib.suppress(OSError):
            self.folder.parent.mkdir(mode=0o700, exist_ok=True)
            make_private_folder(self.folder)

    def has_any(self) -> bool:
        """Returns whether a child logs, or has records that are not copied yet. Any thread may call it."""
        return bool(_rings_in(self.folder))

    def look(self) -> None:
        """Finds new children, and now and then removes the rings of dead ones whose records are all copied."""
        for path in _rings_in(self.folder):
            if path not in self._met and path not in self._strangers:
                self._meet(path)
        if time.monotonic() >= self._visit_due:
            for path, ring in list(self._met.items()):
                self._visit(path, ring)
            self._visit_due = time.monotonic() + _VISIT_S

    def wait(self, deadline: float) -> bool:
        """Waits until all acknowledged records of the children found so far are in the parent's ring. Any thread may
        call it."""
        ends = [(ring, lib.advlog_ring_write_pos(ring.handle)) for ring in list(self._met.values())]
        for ring, end in ends:
            while not has_taken(ring, end):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_S)
        return True

    def end(self, advance: Callable[[], object], deadline: float) -> bool:
        """Closes the children's rings, copies what is in them, and removes the folder; returns whether all of it was
        done.

        :param advance: runs the drain for a moment.
        """
        if self.folder is None:
            return True
        self._ending = True
        for ring in self._met.values():
            lib.advlog_ring_close(ring.handle)
        left: dict[Path, int] = {}
        stalled_at = 0.0
        # The folder may be gone already, by somebody else's hand: those that were met are still to be taken over.
        while self._met or not self._emptied_folder():
            advance()
            self._visit_due = 0.0
            self.look()
            for path in [path for path, ring in self._met.items() if ring.used() == 0]:
                self._leave(path)
            before, left = left, {path: ring.used() for path, ring in self._met.items()}
            now = time.monotonic()
            if now >= deadline:
                return not self._met and self._emptied_folder()
            # If nothing moves because our own ring is full, no child is to blame.
            if left != before or self._ring.used() > self._ring.slots // 2:
                stalled_at = now + _STALL_S
            elif now >= stalled_at and self._met:
                # A child that is stopped in the middle of a call may go on later, and its call then returns that its
                # record was accepted. So nothing may be given up: its records stay in its ring, for a recovery.
                self._report(fault("a child stands still in the middle of a call: its records stay in its ring"))
                return False
        return True

    def _meet(self, path: Path) -> None:
        try:
            ring = Ring.mapped(path)
        except FileNotFoundError:
            return
        except NotOursError as error:
            self._strangers.add(path)
            self._report(fault(f"{path} is no ring of a child: {error.strerror}"))
            return
        except (OSError, AdvlogError) as error:
            self._quarantine(path, str(error))
            return
        mine, its = (lib.advlog_ring_identity(r.handle) for r in (self._ring, ring))
        if (ring.run_id, its.attempt, its.rank) != (self._ring.run_id, mine.attempt, mine.rank):
            self._quarantine(path, "it belongs to another run")
            return
        if self._ending:
            lib.advlog_ring_close(ring.handle)  # first of all: only an empty ring that is closed stays empty
        if lib.advlog_drain_add_child(self._drain, ring.handle) == 0:
            self._met[path] = ring

    def _visit(self, path: Path, ring: Ring) -> None:
        info = ffi.new("advlog_child_info *")
        lib.advlog_drain_child(self._drain, ring.handle, info)
        if info.dropped and not self._reported_names:
            self._reported_names = True
            self._report(
                fault("records of children are dropped: there is no room for their metrics or the names of these")
            )
        if info.damaged:
            self._quarantine(path, _DAMAGED)
        elif path not in self._dead and self._has_died(path, ring):
            self._pass_over(path, ring, "died")
        if path in self._dead and ring.used() == 0:
            self._leave(path)

    def _has_died(self, path: Path, ring: Ring) -> bool:
        its = lib.advlog_ring_identity(ring.handle)
        if process_start(its.pid) == its.process_start != 0:
            return False
        try:
            self._dead[path] = FileLock(path.with_suffix(".lock"))
        except FileNotFoundError:  # somebody has removed the folder
            if its.process_start == 0:
                return False
            self._dead[path] = None
        except (OSError, LockedError):
            return False
        return True

    def _pass_over(self, path: Path, ring: Ring, what: str) -> None:
        """Marks slots that a child reserved and will not publish as lost, so that the records behind them can be
        copied."""
        repair = ffi.new("advlog_repair *")
        if lib.advlog_ring_repair(ring.handle, False, repair):
            self._quarantine(path, _DAMAGED)
        elif repair.lost:
            self.lost_in_flight += repair.lost
            self._report(fault(f"a child {what} in the middle of a call: {repair.lost} lost in flight"))

    def _leave(self, path: Path, *, remove: bool = True) -> None:
        ring = self._met.pop(path)
        with contextlib.suppress(OSError):
            if remove:
                remove_own(path)
        lib.advlog_drain_remove_child(self._drain, ring.handle)
        lock = self._dead.pop(path, None)
        with contextlib.suppress(OSError):
            if lock is not None:
                lock.release(remove=True)
            else:
                remove_own(path.with_suffix(".lock"))

    def _quarantine(self, path: Path, why: str) -> None:
        """Moves a child's ring that cannot be used out of the way."""
        message = f"the ring {path} of a child cannot be used: {why}"
        kept = False
        with contextlib.suppress(OSError):
            if self._ring.quarantine is not None and holds_ring(path):
                message += f"; kept as {quarantine_file(path, self._ring.quarantine)}"
                kept = True
        if not kept:
            self._strangers.add(path)
        self._report(fault(message))
        if path in self._met:
            lib.advlog_ring_close(self._met[path].handle)  # a child that lives is to know
            self._leave(path, remove=kept)

    def _emptied_folder(self) -> bool:
        """Removes the folder, unless there is a ring in it; returns whether the folder is gone."""
        folder = self.folder
        assert folder is not None
        try:
            names = os.listdir(folder)
            if any(_RING.match(name) and folder / name not in self._strangers for name in names):
                return False
            strange = False
            for name in names:
                # A lock, or a ring in the making: its child will find no folder.
                strange |= not (
                    _CHILDS.match(name) and folder / name not in self._strangers and remove_own(folder / name)
                )
            if strange:
                self._leave_folder(folder)
            else:
                os.rmdir(folder)
        except OSError:
            pass  # such as a ring that came into sight meanwhile
        return not folder.exists()

    def _leave_folder(self, folder: Path) -> None:
        """Renames a folder that holds files that are not ours, so that no child finds it.

        :raises OSError: it could not be.
        """
        left = folder.with_name(f"{folder.name}.{os.urandom(4).hex()}")
        os.rename(folder, left)
        if any(_RING.match(name) and folder / name not in self._strangers for name in os.listdir(left)):
            # It came just before.
            os.rename(left, folder)


def settle_child_rings(ring: Ring) -> bool:
    """Finishes what a dead parent's drain was doing with each of its children's rings. Returns whether there is a child
    ring, or may be one: while the folder exists, a live child can still make one.

    :param ring: the dead parent's, before it is repaired.
    :raises OSError: a ring could not be opened. Then nothing may be copied, since its last record may be copied
        already.
    """
    folder = children_folder(ring.path)
    for path in _rings_in(folder):
        try:
            child = Ring.mapped(path)
            if lib.advlog_child_ring_settle(ring.handle, child.handle) and ring.quarantine is not None:
                quarantine_file(path, ring.quarantine)
        except (FileNotFoundError, NotOursError, AdvlogError):
            continue  # reported when its records are to be taken
    return folder is not None and folder.exists()


def quarantine_child_rings(ring: Path | None, quarantine: Path) -> None:
    """Quarantines the rings of children whose parent's ring is lost."""
    folder = children_folder(ring)
    if folder is None:
        return
    with contextlib.suppress(OSError):
        check_folder(folder)
        for name in os.listdir(folder):
            if not _CHILDS.match(name):
                continue
            with contextlib.suppress(OSError):
                if not _RING.match(name):
                    remove_own(folder / name)
                elif holds_ring(folder / name):
                    quarantine_file(folder / name, quarantine)
        os.rmdir(folder)


def _rings_in(folder: Path | None) -> list[Path]:
    if folder is None:
        return []
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if _RING.match(name)]
    except OSError:
        return []
