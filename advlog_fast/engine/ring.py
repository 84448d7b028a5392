"""The ring in Python: a mapping, and C's handle on it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .._native import ffi, lib
from ..exceptions import AdvlogError
from ..store.files import open_own
from ..store.locks import FileLock
from ..store.paths import RunPaths
from ..store.processes import boot_id, process_start
from ..store.ranks import RunIdentity
from ..store.ring_note import RingNote
from .ring_file import MIN_SLAB_ENTRIES, MIN_SLOTS, RingFile, RingShape, mapped, ring_name

DROPS = {"full": lib.ADVLOG_DROP_FULL, "closed": lib.ADVLOG_DROP_CLOSED, "forked": lib.ADVLOG_DROP_FORKED}
"""Why a record never entered the ring, by the words of `Health.dropped_at_entry`."""

_RING_ERRORS = {
    lib.ADVLOG_RING_TOO_SMALL: "its memory is too small",
    lib.ADVLOG_RING_BAD_MAGIC: "its memory holds no ring",
    lib.ADVLOG_RING_BAD_VERSION: "another version laid it out",
    lib.ADVLOG_RING_BAD_LAYOUT: "its header is damaged",
    lib.ADVLOG_RING_NO_MEMORY: "there is no memory for its handle",
}


class Ring:
    """A ring, mapped; its memory lives as long as anything refers to this object.

    :ivar file: its file on disk.
    :ivar notes: deviations from what was asked, one sentence each.
    :ivar quarantine: the folder for rings that cannot be used; None where the run's folder is not known.
    """

    def __init__(
        self,
        run: RunIdentity,
        ring_bytes: int,
        ring_dir: Path | None,
        paths: RunPaths,
        *,
        deferred_values: int = MIN_SLAB_ENTRIES,
        options: dict[str, Any] | None = None,
        start: int | None = None,
    ) -> None:
        self.notes: list[str] = []
        self.quarantine: Path | None = paths.quarantine
        slots = 1 << max(ring_bytes // lib.ADVLOG_SLOT_BYTES, MIN_SLOTS).bit_length() - 1
        if ring_dir is not None:
            ring_dir = Path(os.path.abspath(ring_dir))  # the note leads there from any directory
        name = ring_name(run.run_id, run.attempt, run.rank)
        note_file = paths.ring_note(run.attempt)
        wanted = RingShape(slots, 1 << (deferred_values - 1).bit_length())
        self.file, self._map, shape = RingFile.make(name, wanted, ring_dir, paths.private, note_file, self.notes)
        self.slots = shape.slots
        self._memory = ffi.from_buffer(self._map)
        first = self.slots if start is None else start
        try:
            self.handle = formatted(self._memory, self.file, shape, first, identity_of(run, run.pid))
            home = os.fsencode(os.path.realpath(paths.log_dir))
            lib.advlog_ring_set_home(self.handle, home, len(home))
            self.file.publish(RingNote(self.file.final, run.host, boot_id().hex(), run.run_id, options or {}))
        except BaseException:
            self.file.remove()
            raise

    @classmethod
    def of_the_dead(cls, path: Path, note: Path, lock: FileLock) -> Ring:
        """The ring that a dead process left.

        :param lock: the ring's own, taken by the caller; `file.remove` takes it away with the ring.
        :raises OSError: the file cannot be opened or mapped.
        :raises AdvlogError: it is no ring of this version, or a damaged one.
        """
        ring = cls.mapped(path, RingFile(path, lock, note))
        ring.file.serve(ring.handle)
        ring.quarantine = note.parent.parent / "set-aside"
        return ring

    @classmethod
    def mapped(cls, path: Path, file: RingFile | None = None) -> Ring:
        """A ring that another process made, and may still use.

        :param file: of a ring that is to get more names; it keeps the file open.
        :raises NotOursError: it is no regular file of this user: others could cut it while it is mapped.
        :raises OSError: the file cannot be opened or mapped.
        :raises AdvlogError: it is no ring of this version, or a damaged one.
        """
        ring = cls.__new__(cls)
        ring.file, ring.notes, ring.quarantine = file or RingFile(path), [], None
        fd = open_own(path, os.O_RDWR, strictly=True)
        try:
            size = os.fstat(fd).st_size
            if size == 0:
                raise AdvlogError(f"{path}: expected a ring, got an empty file")
            ring._map = mapped(fd, size)
            if file is not None:
                file.keep(fd)
                fd = -1
        finally:
            if fd >= 0:
                os.close(fd)
        ring._memory = ffi.from_buffer(ring._map)
        ring.handle = _attached(ring._memory)
        ring.slots = lib.advlog_ring_slots(ring.handle)
        return ring

    @property
    def path(self) -> Path | None:
        """The ring's file; None for memory that dies with the process."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """The bytes of its memory that are there; behind them the mapping has room for more names."""
        return int(lib.advlog_ring_there(self.handle))

    @property
    def address(self) -> int:
        """The address of the handle, for the producer."""
        return int(ffi.cast("uintptr_t", self.handle))

    @property
    def run_id(self) -> str:
        """The id of the ring's run, from its header."""
        return bytes(lib.advlog_ring_identity(self.handle).run_id).hex()

    @property
    def home(self) -> Path | None:
        """The log folder of these records, from the ring's header; None if the header has none."""
        path = ffi.new("char[]", lib.ADVLOG_MAX_HOME_BYTES)
        size = lib.advlog_ring_home(self.handle, path)
        return Path(os.fsdecode(ffi.unpack(path, size))) if size else None

    def used(self) -> int:
        """Slots that hold records which not every working sink has completed."""
        used = lib.advlog_ring_write_pos(self.handle) - lib.advlog_ring_read_pos(self.handle)
        return int(used % (1 << 64))  # positions wrap

    def accepted(self, stream: int) -> int:
        """Records of the stream that have entered the ring."""
        return int(lib.advlog_ring_accepted(self.handle, stream))

    def dropped(self) -> dict[str, int]:
        """Records that never entered the ring, by reason."""
        return {name: int(lib.advlog_ring_dropped(self.handle, reason)) for name, reason in DROPS.items()}

    def count_drop(self, reason: str) -> None:
        """Counts a record that never entered the ring: `full`, `closed` or `forked`."""
        lib.advlog_ring_count_drop(self.handle, DROPS[reason])

    def names(self, most: int | None = None) -> list[str]:
        """The metric names by their ids, the first `most` of them."""
        buffer = ffi.new("char[]", lib.ADVLOG_MAX_NAME_BYTES)
        count = lib.advlog_name_count(self.handle)
        return [self._name(i, buffer) for i in range(count if most is None else min(count, most))]

    def name(self, number: int) -> str:
        """The metric name of one id."""
        return self._name(number, ffi.new("char[]", lib.ADVLOG_MAX_NAME_BYTES))

    def _name(self, number: int, buffer: Any) -> str:
        size = lib.advlog_name_get(self.handle, number, buffer)
        return ffi.unpack(buffer, size).decode("utf-8", "replace") if size > 0 else f"metric_{number}"

    def forget_records(self) -> None:
        """Releases the memory of the slots after all records are written; the mapping stays."""
        offset, size = lib.advlog_ring_slots_offset(self.handle), self.slots * lib.ADVLOG_SLOT_BYTES
        lib.advlog_forget(ffi.addressof(self._memory, offset), size)  # not on every system, nor every file system


def identity_of(run: RunIdentity, pid: int) -> Any:
    """Returns the identity of a ring's maker for its header: an `advlog_identity` of the process `pid` of this boot."""
    identity = ffi.new("advlog_identity *")
    ffi.memmove(identity.run_id, bytes.fromhex(run.run_id), 16)
    ffi.memmove(identity.boot_id, boot_id(), 16)
    identity.pid, identity.process_start = pid, process_start(pid)
    identity.attempt, identity.rank = run.attempt, run.rank
    return identity


def formatted(memory: Any, file: RingFile, shape: RingShape, first: int, identity: Any) -> Any:
    """Lays a new ring out in `memory`, which maps `file`; the handle on it, freed with its last reference.

    :param first: the position that it begins at.
    :raises AdvlogError: it cannot be used.
    """
    there = len(memory) if file.path is None else shape.first_size
    error = lib.advlog_ring_init(memory, len(memory), there, *shape, first, identity)
    if error:
        raise _unusable(memory, error)
    handle = _attached(memory)
    file.serve(handle)
    return handle


def _attached(memory: Any) -> Any:
    """The handle on the ring that `memory` holds, freed with its last reference.

    :raises AdvlogError: it cannot be used.
    """
    error = ffi.new("int *")
    handle = lib.advlog_ring_attach(memory, len(memory), error)
    if handle == ffi.NULL:
        raise _unusable(memory, error[0])
    return ffi.gc(handle, lib.advlog_ring_detach)


def _unusable(memory: Any, error: int) -> AdvlogError:
    return AdvlogError(f"a ring in {len(memory)} bytes cannot be used: {_RING_ERRORS[error]}")


def slots_for(values: int) -> int:
    """Returns the slots that suffice for a record of that many values."""
    return int(1 + -(-max(values - lib.ADVLOG_HEADER_EXTRAS, 0) // lib.ADVLOG_PART_EXTRAS))


def most_metrics(slots: int) -> int:
    """Returns how many metrics beside the built-in ones a record can have in a ring of that many slots."""
    parts = min(slots // 4, lib.ADVLOG_MAX_RECORD_SLOTS) - 1
    return int(min(lib.ADVLOG_HEADER_EXTRAS + parts * lib.ADVLOG_PART_EXTRAS, lib.ADVLOG_MAX_RECORD_EXTRAS))


def line_bytes(text: str) -> bytes:
    """Returns a line of text in the ring's form: UTF-8, cut to what a record can hold, without splitting a
    character."""
    data = text.encode("utf-8", "replace")
    if len(data) > lib.ADVLOG_MAX_TEXT_BYTES:
        data = data[: lib.ADVLOG_MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()
    return data


def slots_for_text(size_bytes: int) -> int:
    """Returns the slots that a line of text needs."""
    return int(1 + -(-size_bytes // lib.ADVLOG_PART_TEXT))
