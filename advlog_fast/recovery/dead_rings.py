"""Recovers the ring of a dead process: finds it by its note, checks it, and replays it, or quarantines it if it cannot.

Only the holder of a ring's lock uses the ring. Removing the ring is the last step, after all its records are in the
files; so however a recovery ends, the next one continues it.
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
from ..store.attempts import read_run_id
from ..store.files import NotOursError, quarantine_file, remove_own
from ..store.ledger import LOST, Ledger, read_ledger, write_ledger
from ..store.locks import DEAD_OWNER_S, FileLock, LockedError
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ring_note import RingNote
from .killed_summary import write_killed_summary
from .recovered import Recovered
from .replay import replay

_HERE = "this process"
_LOSS = "the records that the drain had not written are lost"


def recover_ring(paths: RunPaths, attempt: int, *, dry_run: bool = False) -> Recovered:
    """Recovers one attempt that has a ring note; the caller holds the rank's lock."""
    return _RingRecovery(paths, attempt, dry_run).run()


class _RingRecovery:
    def __init__(self, paths: RunPaths, attempt: int, dry_run: bool) -> None:
        self.paths = paths
        self.dry_run = dry_run
        self.note_file = paths.ring_note(attempt)
        self.report = Recovered(paths.name, attempt, paths.rank)

    def run(self) -> Recovered:
        try:
            note = RingNote.read(self.note_file)
        except (ValueError, RecursionError, NotOursError):
            self._without_note("it is damaged")
            return self.report
        except OSError as error:
            return self.report.end("incomplete", f"{error.filename}: {error.strerror}")
        path = None
        try:
            # Earlier versions wrote relative paths into notes.
            path = Path(os.path.abspath(note.path)) if note.path else None
            if path is not None and not self._has_ring_name(note, path):
                self._without_note(f"it leads to {path}, which is no name of this attempt's ring")
            elif path is not None and (original := self._original(note, Path(str(note.options.get("log_dir", ""))))):
                self.report.end("incomplete", f"this is a copy: its ring is for the files of {original}")
            elif path is not None and not os.path.isabs(note.path or "") and not os.path.lexists(path):
                self.report.end("incomplete", f"its ring is at {note.path}, relative to the folder it was started in")
            elif path is None or not os.path.lexists(path):
                self._without_ring(note, path)
            elif not holds_ring(path):
                self._without_note(f"it leads to {path}, which is no ring, and stays in place")
            else:
                self._with_lock(note, path)
        except NotOursError as error:
            # Another user's file, which only that user can recover, or a link, which its maker may remove.
            if error.errno in (errno.EPERM, errno.ELOOP):
                return self.report.end("incomplete", f"{error.filename}: {error.strerror}")
            self._without_note(f"it leads to {error.filename}: {error.strerror}")
        except LockedError as owner:
            ended = _has_ended(path)
            self.report.logs = not ended and str(owner) != _HERE
            self.report.end("alive", f"{owner}{', whose log has ended' if ended else ''}")
        except OSError as error:  # such as too many open files: the ring itself may be fine
            self.report.end("incomplete", f"{error.filename or path}: {error.strerror or error}")
        return self.report

    def _has_ring_name(self, note: RingNote, path: Path) -> bool:
        """Returns whether the note leads to a name of this attempt's ring: anyone who can write to the run's folder can
        write a note, and a recovery may move and remove the file that it leads to."""
        run_id = read_run_id(self.paths)
        has_name = path.name == ring_name(note.run_id, self.report.attempt, self.report.rank)
        return has_name and run_id in (None, note.run_id)

    def _with_lock(self, note: RingNote, path: Path) -> None:
        if FileLock.held_here(lock_file(path)):
            raise LockedError(_HERE)
        lock = FileLock(lock_file(path), dead_owner_s=DEAD_OWNER_S)
        try:
            self._with_ring(note, path, lock)
        finally:
            lock.release()

    def _original(self, note: RingNote, log_dir: Path) -> Path | None:
        """Returns the directory that this one is a copy of, if that one still has the run's note of the same ring."""
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
        mine = note.run_id, self.report.attempt, self.report.rank
        if note.is_of_this_boot and maker.pid != os.getpid() and process_start(maker.pid) == maker.process_start != 0:
            # Alive without its lock: a copy of the log folder frees the lock of earlier versions.
            self.report.logs = True
            self.report.end("alive", f"pid {maker.pid}")
        elif (ring.run_id, maker.attempt, maker.rank) != mine:
            self._without_note(f"it leads to {path}, which is another attempt's ring, and stays in place")
        elif ring.home is not None and (original := self._original(note, ring.home)):  # whatever the note says
            self.report.end("incomplete", f"this is a copy: its ring is for the files of {original}")
        elif (repair := self._repaired(ring)) is None:
            self._quarantine(path, "it is damaged", lock)
        else:
            self.report.lost_in_flight = repair.lost
            failpoint("recover_repaired")
            if self.dry_run:
                self.report.add(f"{sum(repair.records)} records in the ring")
            elif replay(ring, self.paths, note.options, self.report):
                ring.file.remove()

    def _repaired(self, ring: Ring) -> Any:
        """Repairs the ring for a replay and returns the results; None if the ring is damaged."""
        # Before the repair, which counts reserved and unpublished slots as lost.
        is_parent = not self.dry_run and settle_child_rings(ring)
        repair = ffi.new("advlog_repair *")
        if lib.advlog_ring_repair(ring.handle, self.dry_run, repair):
            return None
        if is_parent:
            lib.advlog_ring_reopen(ring.handle)  # the drain still has to push its children's records
        return repair

    def _without_note(self, why: str) -> None:
        """Quarantines a note that cannot be trusted, and leaves the file that it leads to alone."""
        self.report.end("set aside", f"{self.note_file} cannot be used: {why}")
        if self.dry_run:
            return
        try:
            self.report.add(f"kept as {quarantine_file(self.note_file, self.paths.quarantine)}")
            self._write_lost_ledger()
        except NotOursError:
            self.report.add("it stays in place")
        except OSError as error:
            self.report.end("incomplete", f"it could not be moved ({error.strerror})")

    def _quarantine(self, ring: Path, why: str, lock: FileLock) -> None:
        """Quarantines a ring that cannot be used."""
        self.report.end("set aside", f"{ring} cannot be used: {why}")
        if self.dry_run:
            return
        try:
            quarantine_child_rings(ring, self.paths.quarantine)
            self.report.add(f"kept as {quarantine_file(ring, self.paths.quarantine)}")
            self._write_lost_ledger()
            self.note_file.unlink(missing_ok=True)
            lock.release(remove=True)
        except OSError as error:
            self.report.end("incomplete", f"it could not be moved ({error.strerror})")

    def _without_ring(self, note: RingNote, path: Path | None) -> None:
        """Reports why the ring is missing, and removes its note and lock unless the ring may exist on another host."""
        unborn = path.with_name(hidden_name(path.name)) if path is not None else None
        if path is not None and note.is_of_another_host:
            self.report.end("lost", f"its ring lies on {note.host}, and only that host can recover it")
            return
        if self._had_ended():
            self.report.add("it had ended")  # drained, with a ledger: only the note remained
        elif unborn is not None and unborn.exists():
            self.report.add("it died while it started, before it logged anything")
        elif path is None:
            self.report.end("lost", f"its ring was in memory that went with the process: {_LOSS}")
        elif note.is_of_this_boot:
            self.report.end("lost", f"its ring {path} was removed: {_LOSS}")
        else:
            self.report.end("lost", f"its ring {path} was lost when {note.host} was booted again: {_LOSS}")
        if self.dry_run:
            return
        try:
            if self.report.outcome == "lost":
                quarantine_child_rings(path, self.paths.quarantine)
                self._write_lost_ledger()
            for file in (unborn, path and lock_file(path), self.note_file):
                if file is not None:
                    remove_own(file)
        except OSError as error:
            self.report.add(f"the next recovery reports it again ({error.filename}: {error.strerror})")

    def _had_ended(self) -> bool:
        """Returns whether the attempt was drained to its end, and its ledger written."""
        try:
            return read_ledger(self.paths.ledger(self.report.attempt)).status != LOST
        except (OSError, ValueError, RecursionError):
            return False

    def _write_lost_ledger(self) -> None:
        """Writes a ledger without counts, and the summary, for an attempt whose ring cannot be used.

        :raises OSError: one of them cannot be written.
        """
        write_ledger(self.paths, self.report.attempt, Ledger(LOST, {}))
        write_killed_summary(self.paths, self.report.attempt, None, self.report.detail)


def _has_ended(path: Path | None) -> bool:
    """Returns whether the ring of a live process is closed: the process may still write files, but logs no more."""
    if path is None:
        return False
    try:
        ring = Ring.mapped(path)  # a name of its own keeps the memory mapped during the call
    except (OSError, AdvlogError):
        return False
    return bool(lib.advlog_ring_closed(ring.handle))
