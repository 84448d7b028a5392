"""The ring that a dead process left: found by its note, checked, and replayed, or set aside where it cannot be used.

A ring is for whoever holds its lock. It goes last, when all that was in it is in the files; so whatever ends a
recovery, the next one begins where this one was.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

from .._failpoints import failpoint
from .._native import ffi, lib
from ..engine.child_rings import quarantine_child_rings, settle_child_rings
from ..engine.ring import Ring
from ..engine.ring_file import hidden_name, holds_ring, lock_file, ring_name
from ..exceptions import AdvlogError
from ..store.ledger import LOST, Ledger, read_ledger, write_ledger
from ..store.attempts import read_run_id
from ..store.files import NotOursError, quarantine_file, remove_own
from ..store.locks import FileLock, LockedError
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ring_note import RingNote
from .killed_summary import write_killed_summary
from .recovered import Recovered
from .replay import replay

_HERE = "this process"
_GONE = "up to the drain's lag is lost"


def recover_ring(paths: RunPaths, attempt: int, *, dry_run: bool = False) -> Recovered:
    """Recovers one attempt that a note tells of; the caller holds the rank's lock."""
    return _RingRecovery(paths, attempt, dry_run).run()


class _RingRecovery:
    def __init__(self, paths: RunPaths, attempt: int, dry_run: bool) -> None:
        self.paths = paths
        self.dry_run = dry_run
        self.note_file = paths.ring_note(attempt)
        self.found = Recovered(paths.name, attempt, paths.rank)

    def run(self) -> Recovered:
        try:
            note = RingNote.read(self.note_file)
        except (ValueError, RecursionError, NotOursError):
            self._without_note("it is damaged")
            return self.found
        except OSError as error:
            return self.found.end("incomplete", f"{error.filename}: {error.strerror}")
        path = None
        try:
            # Earlier versions noted a relative path as it was given.
            path = Path(os.path.abspath(note.path)) if note.path else None
            if path is not None and not self._is_named_so(note, path):
                self._without_note(f"it leads to {path}, which is no name of this attempt's ring")
            elif path is not None and (original := self._original(note, Path(str(note.options.get("log_dir", ""))))):
                self.found.end("incomplete", f"this is a copy: its ring is for the files of {original}")
            elif path is not None and not os.path.isabs(note.path or "") and not os.path.lexists(path):
                self.found.end("incomplete", f"its ring lies at {note.path}, as seen from where it was started")
            elif path is None or not os.path.lexists(path):
                self._without_ring(note, path)
            elif not holds_ring(path):
                self._without_note(f"it leads to {path}, which is no ring, and stays there")
            else:
                self._with_lock(note, path)
        except NotOursError as error:
            # Another user's, who alone recovers it, or a link, which whoever made it may take back.
            if error.errno in (errno.EPERM, errno.ELOOP):
                return self.found.end("incomplete", f"{error.filename}: {error.strerror}")
            self._without_note(f"it leads to {error.filename}: {error.strerror}")
        except LockedError as owner:
            ended = _has_ended(path)
            self.found.logs = not ended and str(owner) != _HERE
            self.found.end("alive", f"{owner}{', whose log has ended' if ended else ''}")
        except OSError as error:  # such as too many open files: of the ring itself it says nothing
            self.found.end("incomplete", f"{error.filename or path}: {error.strerror or error}")
        return self.found

    def _is_named_so(self, note: RingNote, path: Path) -> bool:
        """Whether the note leads to what can be this attempt's ring: whoever can write the run's folder can write a
        note, and what lies where it leads may be moved and removed."""
        run_id = read_run_id(self.paths)
        named = path.name == ring_name(note.run_id, self.found.attempt, self.found.rank)
        return named and run_id in (None, note.run_id)

    def _with_lock(self, note: RingNote, path: Path) -> None:
        if FileLock.held_here(lock_file(path)):
            raise LockedError(_HERE)
        lock = FileLock(lock_file(path))
        try:
            self._with_ring(note, path, lock)
        finally:
            lock.release()

    def _original(self, note: RingNote, log_dir: Path) -> Path | None:
        """The directory that this one is a copy of, if the run's note of the same ring still lies there."""
        file = log_dir / self.note_file.relative_to(self.paths.log_dir)
        try:
            if not log_dir.is_absolute() or file.samefile(self.note_file) or RingNote.read(file).path != note.path:
                return None
        except (OSError, ValueError):
            return None
        return log_dir

    def _with_ring(self, note: RingNote, path: Path, lock: FileLock) -> None:
        try:
            ring = Ring.of_the_dead(path, self.note_file, lock)
        except AdvlogError as error:
            self._quarantine(path, str(error), lock)
            return
        maker = lib.advlog_ring_identity(ring.handle)
        mine = note.run_id, self.found.attempt, self.found.rank
        if note.is_of_this_boot and maker.pid != os.getpid() and process_start(maker.pid) == maker.process_start != 0:
            # It lives without its lock, as an earlier version does that has copied its own log folder.
            self.found.logs = True
            self.found.end("alive", f"pid {maker.pid}")
        elif (ring.run_id, maker.attempt, maker.rank) != mine:
            self._without_note(f"it leads to {path}, which is another attempt's ring, and stays there")
        elif ring.home is not None and (original := self._original(note, ring.home)):  # whatever the note says of it
            self.found.end("incomplete", f"this is a copy: its ring is for the files of {original}")
        elif (repair := self._repaired(ring)) is None:
            self._quarantine(path, "it is damaged", lock)
        else:
            self.found.lost_in_flight = repair.lost
            failpoint("recover_repaired")
            if self.dry_run:
                self.found.add(f"{sum(repair.records)} records in the ring")
            elif replay(ring, self.paths, note.options, self.found):
                ring.file.remove()

    def _repaired(self, ring: Ring) -> Any:
        """The ring made ready to be replayed, and what that found; None where it is damaged."""
        # Before the repair, which takes what is reserved and not yet published for lost.
        is_parent = not self.dry_run and settle_child_rings(ring)
        repair = ffi.new("advlog_repair *")
        if lib.advlog_ring_repair(ring.handle, self.dry_run, repair):
            return None
        if is_parent:
            lib.advlog_ring_reopen(ring.handle)  # what its children left is still to come in
        return repair

    def _without_note(self, why: str) -> None:
        """A note that cannot be believed is kept; nothing that it leads to is touched."""
        self.found.end("set aside", f"{self.note_file} cannot be used: {why}")
        if self.dry_run:
            return
        try:
            kept = self.paths.quarantine
            self.found.add(f"kept as {quarantine_file(self.note_file, kept)}")
            self._close_account()
        except NotOursError:
            self.found.add("it stays there")
        except OSError as error:
            self.found.end("incomplete", f"it could not be moved ({error.strerror})")

    def _quarantine(self, ring: Path, why: str, lock: FileLock) -> None:
        """A ring that cannot be used: never a crash, never a silent deletion."""
        self.found.end("set aside", f"{ring} cannot be used: {why}")
        if self.dry_run:
            return
        try:
            quarantine_child_rings(ring, self.paths.quarantine)
            self.found.add(f"kept as {quarantine_file(ring, self.paths.quarantine)}")
            self._close_account()
            self.note_file.unlink(missing_ok=True)
            lock.release(remove=True)
        except OSError as error:
            self.found.end("incomplete", f"it could not be moved ({error.strerror})")

    def _without_ring(self, note: RingNote, path: Path | None) -> None:
        """The ring is not where its note says: why that may be. The rest of it goes, unless it may still be there."""
        unborn = path.with_name(hidden_name(path.name)) if path is not None else None
        if path is not None and note.is_of_another_host:
            self.found.end("lost", f"its ring lies on {note.host}, where alone it can be recovered")
            return
        if self._had_ended():
            self.found.add("it had ended")  # drained to its end and accounted for; only the note had not gone yet
        elif unborn is not None and unborn.exists():
            self.found.add("it died while it started, before it could log anything")
        elif path is None:
            self.found.end("lost", f"its ring lay in memory that died with the process: {_GONE}")
        elif note.is_of_this_boot:
            self.found.end("lost", f"its ring {path} was removed: {_GONE}")
        else:
            self.found.end("lost", f"its ring {path} went when {note.host} was booted again: {_GONE}")
        if self.dry_run:
            return
        try:
            if self.found.outcome == "lost":
                quarantine_child_rings(path, self.paths.quarantine)
                self._close_account()
            for file in (unborn, path and lock_file(path), self.note_file):
                if file is not None:
                    remove_own(file)
        except OSError as error:
            self.found.add(f"to be said again ({error.filename}: {error.strerror})")

    def _had_ended(self) -> bool:
        """Whether the attempt was drained to its end, and accounted for."""
        try:
            return read_ledger(self.paths.ledger(self.found.attempt)).status != LOST
        except (OSError, ValueError, RecursionError):
            return False

    def _close_account(self) -> None:
        """The ledger and the summary of an attempt whose ring told nothing: what is unknown is left unknown.

        :raises OSError: one could not be written.
        """
        write_ledger(self.paths, self.found.attempt, Ledger(LOST, {}))
        write_killed_summary(self.paths, self.found.attempt, None, self.found.detail)


def _has_ended(path: Path | None) -> bool:
    """Whether nothing more comes into the ring of a process that lives: its end was not complete, and it may still be
    writing, but it logs no more."""
    if path is None:
        return False
    try:
        ring = Ring.mapped(path)  # kept until the answer is there: its memory goes with it
    except (OSError, AdvlogError):
        return False
    return bool(lib.advlog_ring_closed(ring.handle))
