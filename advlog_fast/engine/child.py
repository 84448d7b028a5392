"""The child's side of logging in a child process: a small ring in place of the parent's session. child_rings.py is the
parent's side, which drains that ring.

Nothing here starts a thread, opens a file of the run, or takes a lock that a thread of the parent may have held when it
forked.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path

from .._native import Producer, ffi, lib
from ..config import LoggerConfig
from ..control.child import ChildControl
from ..control.text import clipped, escape
from ..exceptions import AdvlogError
from ..sampling.memory_sampler import MemorySampler
from ..snapshots import Health
from ..store.attempts import claim_first_epoch
from ..store.files import open_new
from ..store.locks import FileLock, LockedError
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ranks import RunIdentity
from .entry import Entry
from .misuse import MisuseLog
from .overflow import Overflow
from .ring import DROPS, Ring, formatted, identity_of
from .ring_file import RingFile, RingShape, map_ring
from .ring_folders import check_private_folder
from .steps import StepBase

CHILD_SLOTS = 1024
_SHAPE = RingShape(CHILD_SLOTS)
_POLL_S = 0.002
_ENDED = "the process that this logger belongs to has ended its log: what is logged here is dropped"
_OVER = (
    "the run that this logger belongs to has ended: what is logged here is dropped; make a new AdvancedLogger, and "
    "give it the state of the checkpoint (load_state_dict)"
)
_ORPHANED = (
    "the process that writes the files of this run has ended: what is logged here is dropped, or waits for a recovery; "
    "make the logger in the process that trains, after it has forked or become a daemon"
)


@dataclasses.dataclass(frozen=True)
class ParentHandle:
    """What a child must know about the session that it logs to. It can be pickled."""

    config: LoggerConfig
    paths: RunPaths
    run: RunIdentity
    folder: Path | None
    """The folder of the children's rings; None if the parent's ring lies in memory that no child can share."""
    process_start: int
    """With `run.pid`, names the parent."""

    def parent_lives(self) -> bool:
        """Returns whether the parent lives; True where that is unknown."""
        return process_start(self.run.pid) == self.process_start

    def is_here(self) -> bool:
        """Returns whether this process is the parent itself."""
        return self.run.pid == os.getpid() and self.parent_lives()


class ChildRing(Ring):
    """A ring for this process in its parent's folder.

    :raises FileNotFoundError: the folder is gone, and with it the parent's session.
    :raises OSError: there is no room for it, or it could not be made.
    """

    def __init__(self, parent: ParentHandle, folder: Path) -> None:
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        hidden = folder / f".{name}.tmp"
        self.file, self.notes, self.slots, self.quarantine = RingFile(hidden), [], CHILD_SLOTS, None
        check_private_folder(folder)
        fd = open_new(hidden, os.O_RDWR, 0o600)
        try:
            self._map = map_ring(fd, _SHAPE)
            self._memory = ffi.from_buffer(self._map)
            identity = identity_of(parent.run, os.getpid())
            identity.worker = 1
            self.file.keep(fd)
            self.handle = formatted(self._memory, self.file, _SHAPE, CHILD_SLOTS, identity)
            self.file.lock = FileLock(folder / f"{name}.lock")
            # Visible only now: the parent may have ended meanwhile, and removed files that were not visible.
            os.rename(hidden, folder / f"{name}.ring")
            self.file.path = folder / f"{name}.ring"
        except BaseException:
            self.file.remove()
            raise


@dataclasses.dataclass(frozen=True)
class ChildParts:
    """The parts of a session that a child has."""

    run: RunIdentity
    parent: ParentHandle
    control: ChildControl
    sampler: MemorySampler
    deferral: None = None
    """Values on an accelerator are waited for here: a child's ring has no slab that a device knows."""


_rings: dict[tuple[int, Path], ChildRing] = {}
"""The rings of this process, by its pid and the parent's folder: a process logs to a session through one."""


class ChildSession:
    """The session of a logger in a child process, in place of its parent's `Session`. Methods of the same name do the
    same.

    :param refused: kind and text of a warning, if nothing may be logged.
    :param forked: the parent's session was open when this process was forked.
    """

    closed = False
    at_exit = False

    def __init__(self, parent: ParentHandle, refused: tuple[str, str] | None = None, *, forked: bool = False) -> None:
        self.pid = os.getpid()
        self.paths = parent.paths
        config, run = parent.config, parent.run
        leave_out = None if config.writes_text(run.rank) else self._leave_out
        control = ChildControl(run.name, config.log_level, self.line, leave_out)
        self.parts = ChildParts(run, parent, control, MemorySampler(0.0, lambda _sample: None))
        overflow = Overflow(config.overflow, config.overflow_timeout_s)
        misuse = MisuseLog(config.raises_on_misuse, lambda text: self.line(logging.WARNING, clipped(escape(text))))
        steps = StepBase(config.first_epoch, self._claim_first_epoch, control.emit)
        self.entry = Entry(overflow, misuse, steps, is_drained=parent.parent_lives, after_drop=self._after_drop)
        self._refused = refused
        self._was_open = forked or self._session_lives()
        """Whether the parent's session was open when this began."""
        self._hindered: tuple[str, str] | None = None
        """Kind and text of a warning: of the latest obstacle that may pass; said while there is no ring."""
        self._bound: weakref.WeakValueDictionary[int, Producer] = weakref.WeakValueDictionary()
        """The loggers that push into the ring, by their ids: a subclass may compare as it likes."""

    def _claim_first_epoch(self, first: int) -> int | None:
        try:
            return claim_first_epoch(self.paths, first)
        except OSError:
            return None

    def in_child(self) -> ChildSession:
        """Returns the session of a process that this one forked."""
        return ChildSession(self.parts.parent, self._refused, forked=True)

    def admit(self, producer: Producer) -> tuple[str, str] | None:
        """Prepares the ring for a record of the producer and returns None; else returns the kind and the text of a
        warning, which is empty if there is nothing to say."""
        ring = self._opened()
        if ring is None:
            self.entry.count_drop("forked")
            return self._refused or self._hindered
        if not self.parts.parent.parent_lives():
            self._refused = "forked", _ORPHANED
            producer._unbind()
            self.entry.count_drop("forked")
            return self._refused
        if lib.advlog_ring_closed(ring.handle):
            self.entry.count_drop("closed")
            return "closed", self.after_close()
        if self._bound.get(id(producer)) is not producer:
            producer._bind(ring.address, ring)
            self.entry.steps.begin(producer)
            for name in self.parts.parent.config.metrics:
                producer._learn(name)
            self._bound[id(producer)] = producer
        return None

    def _opened(self) -> Ring | None:
        """Returns the ring, and makes it for the first record; None if it cannot be made: `_refused` or
        `_hindered` says why."""
        if self.entry.ring is None and self._refused is None:
            folder = self.parts.parent.folder
            if folder is None:
                self._refused = "forked", "the parent's ring lies in memory of its own: what is logged here is dropped"
                return None
            try:
                ring = _rings.get((self.pid, folder))
                if ring is None:
                    new = ChildRing(self.parts.parent, folder)
                    ring = _rings.setdefault((self.pid, folder), new)
                    if ring is not new:
                        new.file.remove()  # another thread was first
                self.entry.ring = ring
            except FileNotFoundError:
                if self._session_lives():
                    reason = f"{folder} was removed: what this process logs is dropped until it is made again"
                    self._hindered = "forked", reason
                else:
                    # A worker may outlive its parent by an instant; what comes out of a checkpoint is another matter.
                    self._refused = ("", "") if self._was_open else ("ended", _OVER)
            except (OSError, LockedError, AdvlogError) as error:
                self._refused = "forked", f"no ring for this process in {folder} ({error}): what is logged is dropped"
        return self.entry.ring

    @property
    def has_ended(self) -> bool:
        """True if there is nobody who would write what is logged here."""
        return not self._session_lives()

    def _session_lives(self) -> bool:
        """Returns whether the parent's session still runs, as far as the child can tell: the note of its ring stays
        until it ends."""
        return self.parts.parent.parent_lives() and self.paths.ring_note(self.parts.run.attempt).exists()

    def line(self, level: int, text: str) -> bool:
        """Pushes a line for the training log; returns whether it was accepted."""
        if self._opened() is None:
            self.entry.count_drop("forked")
            return False
        return self.entry.line(level, text)

    def _leave_out(self) -> None:
        self.entry.count_drop("forked")

    def flush(self, timeout_s: float) -> bool:
        """Waits until the parent has taken over the records accepted here before; returns whether it did so in time."""
        ring = self.entry.ring
        if ring is None:
            return self._lost() == 0
        deadline = time.monotonic() + timeout_s
        end = lib.advlog_ring_write_pos(ring.handle)
        while not has_taken(ring, end):
            if time.monotonic() >= deadline or not self.parts.parent.parent_lives():
                return False
            time.sleep(_POLL_S)
        return self._lost() == 0

    seal = flush

    def _lost(self) -> int:
        """Returns how many records of this process nobody will write."""
        ring = self.entry.ring
        return self.entry.dropped + (sum(ring.dropped().values()) if ring is not None else 0)

    def _after_drop(self) -> tuple[str, str] | None:
        return None if self.parts.parent.parent_lives() else ("forked", _ORPHANED)

    def shielded(self, task: Callable[[], object]) -> None:
        """Runs the task; there is no thread for it here."""
        task()

    def after_close(self) -> str:
        """Returns what a logger says of a call after the end."""
        return _ENDED

    def close(self, _timeout_s: float, _status: str | None = None, *, by_user: bool = False) -> bool:  # noqa: ARG002
        """Returns whether everything logged here was taken over, or will be: the parent closes the session."""
        ring = self.entry.ring
        if ring is not None and not self.parts.parent.parent_lives():
            return self._lost() == 0 and has_taken(ring, lib.advlog_ring_write_pos(ring.handle))
        return self._lost() == 0

    def health(self) -> Health:
        """Returns the counts of this process; accepted records are those that its parent has taken over or will."""
        ring = self.entry.ring
        dropped = ring.dropped() if ring else dict.fromkeys(DROPS, 0)
        dropped["forked"] += self.entry.dropped
        accepted = sum(map(ring.accepted, range(lib.ADVLOG_STREAMS))) if ring else 0
        return dataclasses.replace(
            Health.nothing(self.parts.control.status),
            offered=accepted + sum(dropped.values()),
            accepted=accepted,
            dropped_at_entry=dropped,
            misuse=self.entry.misuse.counts(),
            pending=ring.used() if ring else 0,
            ring_slots=ring.slots if ring else 0,
            ring_used=ring.used() if ring else 0,
            ring_path=str(ring.path) if ring else None,
        )


def has_taken(ring: Ring, position: int) -> bool:
    """Returns whether the parent's drain has passed a position of the child's ring."""
    return int(lib.advlog_ring_read_pos(ring.handle) - position) % (1 << 64) < 1 << 63
