"""What a child process has in place of its parent's session: a small ring of its own, a worker. See child_rings.py for the
parent's side, which takes it over.

Nothing here starts a thread, opens a file of the run, or takes a lock that a thread of the parent may have held when it
forked.
"""

from __future__ import annotations

import dataclasses
import mmap
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from .._native import Producer, ffi, lib
from ..config import LoggerConfig
from ..control.worker import WorkerControl
from ..exceptions import AdvlogError
from ..sampling.memory_sampler import MemorySampler
from ..snapshots import Health
from ..store.files import open_new
from ..store.locks import FileLock, LockedError
from ..store.paths import RunPaths
from ..store.processes import process_start
from ..store.ranks import RunIdentity
from .overflow import Overflow
from .ring import DROPS, Ring, allocate, check_private_folder, formatted, identity_of, line_bytes, slots_for_text

WORKER_SLOTS = 1024
_POLL_S = 0.002
_GONE = "the process that this logger belongs to has ended its log: what is logged here is dropped"


@dataclasses.dataclass(frozen=True)
class Family:
    """What a child must know of the session that it logs to; can be pickled."""

    config: LoggerConfig
    paths: RunPaths
    run: RunIdentity
    folder: Path | None
    """None: the parent's ring lies in memory that no child could share."""
    process_start: int
    """With `run.pid`, names the parent."""

    def parent_lives(self) -> bool:
        """Whether the parent has not ended; where it cannot be told, it has not."""
        return process_start(self.run.pid) == self.process_start

    def is_here(self) -> bool:
        """Whether this process is the parent itself."""
        return self.run.pid == os.getpid() and self.parent_lives()


class WorkerRing(Ring):
    """A ring for this process in its parent's folder.

    :raises FileNotFoundError: the folder is gone, and with it the parent's session.
    :raises OSError: there is no room for it, or it could not be made.
    """

    def __init__(self, family: Family, folder: Path) -> None:
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self.path, self.notes, self.slots = folder / f".{name}.tmp", [], WORKER_SLOTS
        self.aside = self._note_file = self._lock = None
        self._fd = -1
        check_private_folder(folder)
        size = lib.advlog_ring_bytes(WORKER_SLOTS)
        fd = open_new(self.path, os.O_RDWR, 0o600)
        try:
            allocate(fd, size)
            self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._memory = ffi.from_buffer(self._map)
            identity = identity_of(family.run, os.getpid())
            identity.worker = 1
            self.handle = formatted(self._memory, WORKER_SLOTS, WORKER_SLOTS, identity)
            self._lock = FileLock(folder / f"{name}.lock")
            # Into sight only now: the parent may have ended its family meanwhile, and removed what was not in sight.
            os.rename(self.path, folder / f"{name}.ring")
            self.path = folder / f"{name}.ring"
        except BaseException:
            self.remove()
            raise
        finally:
            os.close(fd)


_own: dict[tuple[int, Path], WorkerRing] = {}
"""The rings of this process, by its pid and the parent's folder: a process logs to a session through one."""


class Worker:
    """What a logger has in a child process where it has a `Session` in its parent.

    :param refused: kind and text of a warning, where nothing may be logged.
    """

    closed = False
    at_exit = False
    deferral = None
    """Values on an accelerator are waited for here: a child's ring has no slab that a device knows."""

    def __init__(self, family: Family, refused: tuple[str, str] | None = None) -> None:
        self.family = family
        self.pid = os.getpid()
        self.paths, self.run = family.paths, family.run
        config = family.config
        has_text = config.writes_text(family.run.rank)
        self.control = WorkerControl(family.run.name, config.log_level, self.line, has_text)
        self.sampler = MemorySampler(0.0, lambda _sample: None)
        self._refused = refused
        self._hindered: tuple[str, str] | None = None
        """Likewise, where that may change."""
        self._homeless = 0
        self._ring: WorkerRing | None = None
        self._bound = False
        self._overflow = Overflow(config.overflow, config.overflow_timeout_s)

    def in_child(self) -> Worker:
        """Of a process that this one forked."""
        return Worker(self.family, self._refused)

    def admit(self, producer: Producer) -> tuple[str, str] | None:
        """Makes ready for a record of the producer; else the kind and the text of a warning, empty where there is
        nothing to say."""
        ring = self._opened()
        if ring is None:
            self._homeless += 1
            return self._refused or self._hindered
        if lib.advlog_ring_closed(ring.handle):
            self.count_drop("closed")
            return "closed", _GONE
        if not self._bound:
            producer._bind(ring.address, ring)
            for name in self.family.config.metrics:
                producer._learn(name)
            self._bound = True
        return None

    def _opened(self) -> WorkerRing | None:
        """The ring, made for the first record; None where there is none to be had, as `_refused` says."""
        if self._ring is None and self._refused is None:
            folder = self.family.folder
            if folder is None:
                self._refused = "forked", "the parent's ring lies in memory of its own: what is logged here is dropped"
                return None
            try:
                self._ring = _own.get((self.pid, folder))
                if self._ring is None:
                    made = WorkerRing(self.family, folder)
                    self._ring = _own.setdefault((self.pid, folder), made)
                    if self._ring is not made:
                        made.remove()  # another thread was first
            except FileNotFoundError:
                if self._session_lives():
                    told = f"{folder} was removed: what this process logs is dropped until it is made again"
                    self._hindered = "forked", told
                else:
                    self._refused = "", ""
            except (OSError, LockedError, AdvlogError) as error:
                self._refused = "forked", f"no ring for this process in {folder} ({error}): what is logged is dropped"
        return self._ring

    def _session_lives(self) -> bool:
        """Whether the parent's session goes on, as far as can be told: its ring is noted until it ends."""
        return self.family.parent_lives() and self.paths.ring_note(self.run.attempt).exists()

    def push(self, try_push: Callable[[], int], slots: int) -> int:
        """As a session's."""
        while (status := try_push()) == lib.ADVLOG_FULL:
            ring = self._ring
            if ring is None or not self._overflow.wait(ring, slots, self.family.parent_lives):
                self.count_drop("full")
                break
        return status

    def line(self, level: int, text: str) -> bool:
        """A line for the training log; whether it was accepted."""
        ring = self._opened()
        if ring is None:
            self._homeless += 1
            return False
        data, time_ns, handle = line_bytes(text), time.time_ns(), ring.handle
        slots = slots_for_text(len(data))
        status = self.push(lambda: lib.advlog_push_text(handle, level, time_ns, data, len(data)), slots)
        if status == lib.ADVLOG_CLOSED:
            self.count_drop("closed")
        return bool(status == lib.ADVLOG_OK)

    def count_drop(self, reason: str) -> None:
        """As a session's."""
        if self._ring is not None:
            self._ring.count_drop(reason)

    def flush(self, timeout_s: float) -> bool:
        """Waits until the parent has taken over what was accepted here before; whether it was in time."""
        ring = self._ring
        if ring is None:
            return True
        deadline = time.monotonic() + timeout_s
        end = lib.advlog_ring_write_pos(ring.handle)
        while not has_taken(ring, end):
            if time.monotonic() >= deadline or not self.family.parent_lives():
                return False
            time.sleep(_POLL_S)
        return True

    seal = flush

    def has_room_for_names(self, names: Iterable[str]) -> bool:
        """As a session's."""
        return self._ring is None or self._ring.has_room_for_names(names)

    def shielded(self, task: Callable[[], object]) -> None:
        """As a session's; here there is no thread for it."""
        task()

    def after_close(self) -> str:
        """As a session's."""
        return _GONE

    def close(self, _timeout_s: float, _status: str | None = None) -> bool:
        """Nothing: the session is the parent's to close."""
        return True

    def health(self) -> Health:
        """The account of this process: accepted is what its parent has taken over or will."""
        ring = self._ring
        dropped = ring.dropped() if ring else dict.fromkeys(DROPS, 0)
        dropped["forked"] += self._homeless
        accepted = sum(map(ring.accepted, range(lib.ADVLOG_STREAMS))) if ring else 0
        return dataclasses.replace(
            Health.nothing(self.control.status),
            offered=accepted + sum(dropped.values()),
            accepted=accepted,
            dropped_at_entry=dropped,
            pending=ring.used() if ring else 0,
            ring_slots=ring.slots if ring else 0,
            ring_used=ring.used() if ring else 0,
            ring_path=str(ring.path) if ring else None,
        )


def has_taken(ring: Ring, position: int) -> bool:
    """Whether the parent's drain has passed a position of the worker."""
    return int(lib.advlog_ring_read_pos(ring.handle) - position) % (1 << 64) < 1 << 63
