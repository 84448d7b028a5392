"""The ring that a dead process left: found by its note, checked, and replayed, or set aside where it cannot be used.

A ring is for whoever holds its lock. It goes last, when all that was in it is in the files; so whatever ends a
recovery, the next one begins where this one was.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .._accounts import LOST, Account, read_account, write_account
from .._failpoints import failpoint
from .._locks import FileLock, LockedError
from .._native import ffi, lib
from .._paths import RunPaths
from .._processes import process_start
from .._ring import Ring, hidden_name, lock_file, set_aside
from .._ring_note import RingNote
from .._workers import drop_workers, settle_workers
from ..exceptions import AdvlogError
from .killed_summary import write_killed_summary
from .recovered import Recovered
from .replay import replay

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
            path = Path(note.path) if note.path else None
            if path is not None and (original := self._original(note)) is not None:
                return self.found.end("incomplete", f"this is a copy: its ring is for the files of {original}")
            lock = _lock_of(path)
        except ValueError:
            self._set_aside(self.note_file, "it is damaged")
            return self.found
        except LockedError as owner:
            return self.found.end("alive", str(owner))
        except OSError as error:
            return self.found.end("incomplete", f"{error.filename}: {error.strerror}")
        if path is None or lock is None:
            self._without_ring(note, path)
            return self.found
        try:
            self._with_ring(note, path, lock)
        except OSError as error:  # such as too many open files: of the ring itself it says nothing
            self.found.end("incomplete", f"{error.filename or path}: {error.strerror or error}")
        finally:
            lock.release()
        return self.found

    def _original(self, note: RingNote) -> Path | None:
        """The directory that this one is a copy of, if the run's note of the same ring still lies there."""
        log_dir = Path(str(note.options.get("log_dir", "")))
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
            self._set_aside(path, str(error), lock)
            return
        maker = lib.advlog_ring_identity(ring.handle)
        if note.is_of_this_boot and maker.pid != os.getpid() and process_start(maker.pid) == maker.process_start != 0:
            # It lives, and has lost its lock: it opened the lock's file itself, to copy it, say, and closed it again.
            self.found.end("alive", f"pid {maker.pid}")
        elif ring.run_id != note.run_id:
            self._set_aside(path, "it belongs to another run", lock)
        elif (repair := self._repaired(ring)) is None:
            self._set_aside(path, "it is damaged", lock)
        else:
            self.found.lost_in_flight = repair.lost
            failpoint("recover_repaired")
            if self.dry_run:
                self.found.add(f"{sum(repair.records)} records in the ring")
            elif replay(ring, self.paths, note.options, self.found):
                ring.remove()

    def _repaired(self, ring: Ring) -> Any:
        """The ring made ready to be replayed, and what that found; None where it is damaged."""
        # Before the repair, which takes what is reserved and not yet published for lost.
        is_parent = not self.dry_run and settle_workers(ring)
        repair = ffi.new("advlog_repair *")
        if lib.advlog_ring_repair(ring.handle, self.dry_run, repair):
            return None
        if is_parent:
            lib.advlog_ring_reopen(ring.handle)  # what its children left is still to come in
        return repair

    def _set_aside(self, file: Path, why: str, lock: FileLock | None = None) -> None:
        """A ring or a note that cannot be used: never a crash, never a silent deletion."""
        self.found.end("set aside", f"{file} cannot be used: {why}")
        if self.dry_run:
            return
        try:
            drop_workers(file, self.paths.set_aside)
            self.found.add(f"kept as {set_aside(file, self.paths.set_aside)}")
            self._close_account()
            self.note_file.unlink(missing_ok=True)
            if lock is not None:
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
                drop_workers(path, self.paths.set_aside)
                self._close_account()
            for file in (unborn, path and lock_file(path), self.note_file):
                if file is not None:
                    file.unlink(missing_ok=True)
        except OSError as error:
            self.found.add(f"to be said again ({error.filename}: {error.strerror})")

    def _had_ended(self) -> bool:
        """Whether the attempt was drained to its end, and accounted for."""
        try:
            return read_account(self.paths.account(self.found.attempt)).status != LOST
        except (OSError, ValueError):
            return False

    def _close_account(self) -> None:
        """The account and the summary of an attempt whose ring told nothing: what is unknown is left unknown.

        :raises OSError: one could not be written.
        """
        write_account(self.paths, self.found.attempt, Account(LOST, {}))
        write_killed_summary(self.paths, self.found.attempt, None, self.found.detail)


def _lock_of(ring: Path | None) -> FileLock | None:
    """The lock of a ring, taken; None where there is no such ring.

    :raises LockedError: a live process has it, perhaps this one.
    :raises OSError: it cannot be told, or opened.
    """
    if ring is None or not ring.exists():
        return None
    if FileLock.held_here(lock_file(ring)):
        raise LockedError("this process")
    return FileLock(lock_file(ring))
