"""Child processes that log, forked or spawned: each has a small ring of its own, a worker, which the drain of the
parent's session takes over.

The workers of a session lie in a folder beside its ring. It is there as long as the session is: to end, the parent
closes and empties every ring in it and removes it, which the system refuses while anything is in it; a child that finds
no folder has no parent. So a record that was accepted is always seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ._locks import FileLock, LockedError
from ._native import Producer, ffi, lib
from ._overflow import Overflow
from ._paths import RunPaths
from ._ring import DROPS, Ring, allocate, attached, boot_id, process_start, set_aside, slots_for_text
from .config import LoggerConfig
from .control.worker import WorkerControl
from .exceptions import AdvlogError
from .memory_sampler import MemorySampler
from .ranks import RunIdentity
from .snapshots import Health

WORKER_SLOTS = 1024
_PATIENCE_S = 1.0
_VISIT_S = 0.5
_GONE = "the process that this logger belongs to has ended its log: what is logged here is dropped"


def workers_folder(ring: Path) -> Path:
    """Where the rings of the children lie whose parent's ring is at `ring`."""
    return ring.with_name(ring.name + ".workers")


# -- the child ---------------------------------------------------------------------------------------------------------


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

    def is_here(self) -> bool:
        """Whether this process is the parent itself."""
        return self.run.pid == os.getpid() and self.process_start == process_start(self.run.pid)


class WorkerRing(Ring):
    """A ring for this process in its parent's folder.

    :raises FileNotFoundError: the folder is gone, and with it the parent's session.
    :raises OSError: there is no room for it, or it could not be made.
    """

    def __init__(self, family: Family, folder: Path) -> None:
        name = f"{os.getpid()}-{os.urandom(4).hex()}"
        self.path, self.notes, self.slots = folder / f".{name}.tmp", [], WORKER_SLOTS
        self.aside = self._note = self._lock = None
        size = lib.advlog_ring_bytes(WORKER_SLOTS)
        # Nothing here takes a lock that a thread of the parent may have held when it forked: tempfile has one.
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            allocate(fd, size)
            self._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._memory = ffi.from_buffer(self._map)
            identity = ffi.new("advlog_identity *")
            ffi.memmove(identity.run_id, bytes.fromhex(family.run.run_id), 16)
            ffi.memmove(identity.boot_id, boot_id(), 16)
            identity.pid, identity.process_start = os.getpid(), process_start(os.getpid())
            identity.attempt, identity.rank, identity.worker = family.run.attempt, family.run.rank, 1
            failed = lib.advlog_ring_format(self._memory, size, WORKER_SLOTS, WORKER_SLOTS, identity)
            self.handle = attached(self._memory, size, failed)
            self._lock = FileLock(folder / f"{name}.lock")
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
    """What a logger has in a child process where it has a `Session` in its parent: no thread, no file, no exit work.

    :param refused: kind and text of a warning, where nothing may be logged.
    """

    closed = False
    at_exit = False

    def __init__(self, family: Family, refused: tuple[str, str] | None = None) -> None:
        self.family = family
        self.pid = os.getpid()
        self.paths, self.run = family.paths, family.run
        config = family.config
        has_text = config.text and (family.run.rank == 0 or config.text_ranks == "all")
        self.control = WorkerControl(family.run.name, config.log_level, self.line, has_text)
        self.sampler = MemorySampler(0.0, lambda _sample: None)
        self._refused = refused
        self._homeless = 0
        self._ring: WorkerRing | None = None
        self._bound = False
        self._overflow = Overflow(family.config.overflow, family.config.overflow_timeout_s)

    def in_child(self) -> Worker:
        """Of a process that this one forked."""
        return Worker(self.family, self._refused)

    def admit(self, producer: Producer) -> tuple[str, str] | None:
        """Makes ready for a record of the producer; else the kind and the text of a warning, empty where there is
        nothing to say."""
        ring = self._opened()
        if ring is None:
            self._homeless += 1
            return self._refused
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
                self._refused = "", ""
            except (OSError, LockedError, AdvlogError) as error:
                self._refused = "forked", f"no ring for this process in {folder} ({error}): what is logged is dropped"
        return self._ring

    def push(self, try_push: Callable[[], int], slots: int) -> int:
        """As a session's."""
        while (status := try_push()) == lib.ADVLOG_FULL:
            ring = self._ring
            if ring is None or not self._overflow.wait(ring, slots, self._parent_lives):
                self.count_drop("full")
                break
        return status

    def _parent_lives(self) -> bool:
        return lives(self.family.run.pid, self.family.process_start)

    def line(self, level: int, text: str) -> bool:
        """A line for the training log; whether it was accepted."""
        ring = self._opened()
        if ring is None:
            self._homeless += 1
            return False
        data = text.encode("utf-8", "replace")
        data = data[: lib.ADVLOG_MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()
        time_ns, handle = time.time_ns(), ring.handle
        slots = slots_for_text(len(data))
        status = self.push(lambda: lib.advlog_push_text(handle, level, time_ns, data, len(data)), slots)
        if status == lib.ADVLOG_CLOSED:
            self.count_drop("closed")
        return bool(status == lib.ADVLOG_OK)

    def count_drop(self, reason: str) -> None:
        """As a session's."""
        if self._ring is not None:
            lib.advlog_ring_count_drop(self._ring.handle, DROPS[reason])

    def flush(self, timeout_s: float) -> bool:
        """Waits until the parent has taken over what was accepted here before; whether it was in time."""
        ring = self._ring
        if ring is None:
            return True
        deadline = time.monotonic() + timeout_s
        end = lib.advlog_ring_write_pos(ring.handle)
        while not _reached(ring, end):
            if time.monotonic() >= deadline or not self._parent_lives():
                return False
            time.sleep(0.002)
        return True

    seal = flush

    def has_room_for_names(self, names: Iterable[str]) -> bool:
        """As a session's."""
        return self._ring is None or self._ring.has_room_for_names(names)

    def after_close(self) -> str:
        """As a session's."""
        return _GONE

    def close(self, _timeout_s: float, _status: str | None = None) -> bool:
        """Nothing: the session is the parent's to close."""
        return True

    def health(self) -> Health:
        """The account of this process: accepted is what its parent has taken over or will."""
        ring = self._ring
        dropped = {name: int(lib.advlog_ring_dropped(ring.handle, r)) if ring else 0 for name, r in DROPS.items()}
        dropped["forked"] += self._homeless
        accepted = [lib.advlog_ring_accepted(ring.handle, s) for s in range(lib.ADVLOG_STREAMS)] if ring else []
        return dataclasses.replace(
            Health.nothing(self.control.status),
            offered=sum(accepted) + sum(dropped.values()),
            accepted=sum(accepted),
            dropped_at_entry=dropped,
            pending=ring.used() if ring else 0,
            ring_slots=ring.slots if ring else 0,
            ring_used=ring.used() if ring else 0,
            ring_path=str(ring.path) if ring else None,
        )


# -- the parent --------------------------------------------------------------------------------------------------------


class Workers:
    """The rings of a session's children. For the thread that runs the drain, but for `any` and `wait`.

    :param drain: the C drain of `ring`.
    :param on_fault: told, in a sentence, what was lost of a child.
    """

    def __init__(self, ring: Ring, drain: Any, on_fault: Callable[[str], None]) -> None:
        self.folder = workers_folder(ring.path) if ring.path else None
        self.lost_in_flight = 0
        """Calls that the death of a child cut short."""
        self._ring, self._drain, self._on_fault = ring, drain, on_fault
        self._met: dict[Path, Ring] = {}
        self._dead: dict[Path, FileLock] = {}
        self._told_names = False
        self._visit_due = 0.0

    def open(self) -> None:
        """From here on children may log."""
        if self.folder is not None:
            with contextlib.suppress(OSError):
                self.folder.mkdir(mode=0o700, exist_ok=True)

    def any(self) -> bool:
        """Whether there is a child that logs, or one whose records are not all here. Any thread."""
        return bool(_rings_in(self.folder))

    def look(self) -> None:
        """Meets new children, and now and then takes leave of dead ones whose records are all here."""
        for path in _rings_in(self.folder):
            if path not in self._met:
                self._meet(path)
        if time.monotonic() < self._visit_due:
            return
        for path in list(self._met):
            ring = self._met[path]
            if self._damaged(ring):
                self._set_aside(path, "it is damaged")
            elif self._is_dead(path, ring) and _empty(ring):
                self._leave(path)
        self._visit_due = time.monotonic() + _VISIT_S

    def wait(self, deadline: float) -> bool:
        """Waits until what the children met so far have been acknowledged is in the parent's ring. Any thread."""
        ends = [(ring, lib.advlog_ring_write_pos(ring.handle)) for ring in list(self._met.values())]
        for ring, end in ends:
            while not _reached(ring, end):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.001)
        return True

    def end(self, advance: Callable[[], object], deadline: float) -> bool:
        """Closes the children's rings, takes over what is in them, and ends the family; whether all of it was done.

        :param advance: runs the drain for a moment.
        """
        if self.folder is None:
            return True
        while not self._emptied_folder():
            self._visit_due = 0.0
            self.look()
            for ring in self._met.values():
                lib.advlog_ring_close(ring.handle)
            patience = time.monotonic() + _PATIENCE_S
            while (full := [path for path, ring in self._met.items() if not _empty(ring)]) and self._met:
                before = [ring.used() for ring in self._met.values()]
                advance()
                self.look()
                now = time.monotonic()
                if before != [ring.used() for ring in self._met.values()]:
                    patience = now + _PATIENCE_S
                if now >= deadline:
                    return False
                if now >= patience:
                    if self._ring.used() > self._ring.slots // 2:
                        continue  # it is our own ring that has no room
                    for path in full:
                        self.lost_in_flight += 1
                        self._on_fault(f"a child stood still in the middle of a call: {path.name} is given up")
                        self._leave(path)
            for path in list(self._met):
                self._leave(path)
            if time.monotonic() >= deadline:
                return self._emptied_folder()
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
        elif lib.advlog_drain_add_worker(self._drain, ring.handle) == 0:
            self._met[path] = ring

    def _damaged(self, ring: Ring) -> bool:
        info = ffi.new("advlog_worker_info *")
        lib.advlog_drain_worker(self._drain, ring.handle, info)
        if info.dropped and not self._told_names:
            self._told_names = True
            self._on_fault("records of children are dropped: there is no room for their metrics or the names of these")
        return bool(info.damaged)

    def _is_dead(self, path: Path, ring: Ring) -> bool:
        """Whether its process has ended; what it had not finished is passed over then."""
        if path in self._dead:
            return True
        its = lib.advlog_ring_identity(ring.handle)
        if lives(its.pid, its.process_start):
            return False
        try:
            lock = FileLock(path.with_suffix(".lock"))
        except (OSError, LockedError):
            return False
        self._dead[path] = lock
        repair = ffi.new("advlog_repair *")
        if lib.advlog_ring_repair(ring.handle, False, repair):
            self._set_aside(path, "it is damaged")
        elif repair.lost:
            self.lost_in_flight += repair.lost
            self._on_fault(f"a child died in the middle of a call: {repair.lost} of its records were lost in flight")
        return path in self._met

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
            self._leave(path)

    def _emptied_folder(self) -> bool:
        """Removes the folder, unless there is a ring in it; whether it is gone."""
        assert self.folder is not None
        try:
            for name in os.listdir(self.folder):
                if not name.endswith(".ring"):
                    os.unlink(self.folder / name)  # a lock, or a ring in the making: its child will find no folder
            os.rmdir(self.folder)
        except FileNotFoundError:
            return not self.folder.exists()
        except OSError:
            return False
        return True


def settle_workers(ring: Ring) -> bool:
    """Finishes what a dead parent's drain was at with each of its workers; whether there are any.

    :param ring: the dead parent's, before it is repaired.
    """
    found = False
    for path in _rings_in(workers_folder(ring.path) if ring.path else None):
        found = True
        try:
            worker = Ring.mapped(path)
            if lib.advlog_takeover_settle(ring.handle, worker.handle) and ring.aside is not None:
                set_aside(path, ring.aside)
        except (OSError, AdvlogError):
            continue  # told when its records are to be taken
    return found


def drop_workers(ring: Path | None, aside: Path) -> None:
    """Sets the rings of children aside whose parent's ring is lost."""
    if ring is None:
        return
    folder = workers_folder(ring)
    for path in _rings_in(folder):
        with contextlib.suppress(OSError):
            set_aside(path, aside)
    shutil.rmtree(folder, ignore_errors=True)


def lives(pid: int, start: int) -> bool:
    """Whether a process of this machine has not ended; a zombie has. Where it cannot be told, it has not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0] not in "ZX" and int(fields[19]) == start
    except (OSError, ValueError, IndexError):
        return not Path("/proc/self/stat").exists()


def _rings_in(folder: Path | None) -> list[Path]:
    try:
        names = os.listdir(folder) if folder is not None else []
    except OSError:
        return []
    return [folder / name for name in sorted(names) if name.endswith(".ring")] if folder is not None else []


def _empty(ring: Ring) -> bool:
    return ring.used() == 0


def _reached(ring: Ring, position: int) -> bool:
    return int(lib.advlog_ring_read_pos(ring.handle) - position) % (1 << 64) < 1 << 63
