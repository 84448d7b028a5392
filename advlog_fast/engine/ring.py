"""The ring's memory: where it lies, how large it is, and its life as a file.

A store into a page that the file system cannot supply would kill the process with SIGBUS. So the file is allocated in
full before it is mapped, and lies on a file system that is known to keep what it has allocated, or nowhere. That is
shared memory (tmpfs) unless told otherwise, since a store to a mapping of a disk's file can wait for writeback.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .._failpoints import failpoint
from .._native import ffi, lib
from ..exceptions import AdvlogError
from ..records import MAX_METRIC_NAMES
from ..store.files import NotOursError, check_folder, make_folder, open_new, open_own, remove_own
from ..store.locks import FileLock, LockedError
from ..store.paths import RunPaths
from ..store.processes import boot_id, process_start
from ..store.ranks import RunIdentity
from ..store.ring_note import RingNote

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - our folder in it is checked to be ours alone
_MADE_UP = re.compile(r"advlog-\d+-[0-9a-f]{16}\Z")
_MAGIC = b"\x01\nadvlog"
_MIN_SLOTS = 256
_NAMES_BYTES = 64 * 1024
DROPS = {"full": lib.ADVLOG_DROP_FULL, "closed": lib.ADVLOG_DROP_CLOSED, "forked": lib.ADVLOG_DROP_FORKED}
"""Why a record never entered the ring, by the words of `Health.dropped_at_entry`."""

_RING_ERRORS = {
    lib.ADVLOG_RING_TOO_SMALL: "its memory is too small",
    lib.ADVLOG_RING_BAD_MAGIC: "its memory holds no ring",
    lib.ADVLOG_RING_BAD_VERSION: "another version laid it out",
    lib.ADVLOG_RING_BAD_LAYOUT: "its header is damaged",
    lib.ADVLOG_RING_NO_MEMORY: "there is no memory for its handle",
}
_KEEPS_BLOCKS = {0x01021994: "tmpfs", 0xEF53: "ext4", 0x58465342: "xfs"}
"""By the type that statfs(2) gives: where a block that was allocated for a file is the one that a store to its mapping
is written to. Elsewhere (btrfs, zfs, bcachefs, overlays, FUSE, 9p, network file systems) a store may want a new one,
and SIGBUS ends the process where there is none."""
_MOVES_BLOCKS = "is not known to keep the blocks that it has allocated, and where it is full a store would be fatal"


class Ring:
    """A ring, mapped; its memory lives as long as anything refers to this object.

    Its owner holds the lock of `<path>.lock` from before the ring comes into sight until it goes. A :class:`RingNote`
    in the run's folder says where it lies.

    :ivar path: the ring's file, or None for memory that dies with the process.
    :ivar notes: what had to be done otherwise than asked, one sentence each.
    :ivar aside: where a ring that cannot be used is kept; None where the run's folder is not known.
    """

    def __init__(
        self,
        run: RunIdentity,
        ring_bytes: int,
        ring_dir: Path | None,
        log_dir: Path,
        *,
        options: dict[str, Any] | None = None,
        start: int | None = None,
    ) -> None:
        self.path: Path | None = None
        self.notes: list[str] = []
        self._lock: FileLock | None = None
        self._fd = -1
        paths = RunPaths(log_dir, run.name, run.rank)
        self._note_file: Path | None = paths.ring_note(run.attempt)
        self.aside: Path | None = paths.set_aside
        slots = 1 << max(ring_bytes // lib.ADVLOG_SLOT_BYTES, _MIN_SLOTS).bit_length() - 1
        if ring_dir is not None:
            ring_dir = Path(os.path.abspath(ring_dir))  # the note leads there from any directory
        self._map, self.slots = self._make(run, slots, ring_dir, paths.private)
        self._memory = ffi.from_buffer(self._map)
        first = self.slots if start is None else start
        try:
            self.handle = formatted(self._memory, self.slots, first, identity_of(run, run.pid))
            home = os.fsencode(os.path.realpath(log_dir))
            lib.advlog_ring_set_home(self.handle, home, len(home))
            self._publish(run, options or {})
        except BaseException:
            self.remove()
            raise

    @classmethod
    def of_the_dead(cls, path: Path, note: Path, lock: FileLock) -> Ring:
        """The ring that a dead process left.

        :param lock: the ring's own, taken by the caller; :meth:`remove` takes it away with the ring.
        :raises OSError: the file cannot be opened or mapped.
        :raises AdvlogError: it is no ring of this version, or a damaged one.
        """
        ring = cls.mapped(path)
        ring._lock, ring._note_file = lock, note
        ring.aside = note.parent.parent / "set-aside"
        return ring

    @classmethod
    def mapped(cls, path: Path) -> Ring:
        """A ring that another process made, and may still use.

        :raises NotOursError: it is no regular file of this user: others could cut it while it is mapped.
        :raises OSError: the file cannot be opened or mapped.
        :raises AdvlogError: it is no ring of this version, or a damaged one.
        """
        ring = cls.__new__(cls)
        ring.path, ring.notes, ring.aside, ring._lock, ring._note_file = path, [], None, None, None
        ring._fd = -1
        fd = open_own(path, os.O_RDWR, strictly=True)
        try:
            size = os.fstat(fd).st_size
            if size == 0:
                raise AdvlogError(f"{path}: expected a ring, got an empty file")
            ring._map = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        finally:
            os.close(fd)
        ring._memory = ffi.from_buffer(ring._map)
        ring.handle = _attached(ring._memory)
        ring.slots = lib.advlog_ring_slots(ring.handle)
        return ring

    @property
    def address(self) -> int:
        """Of the handle, for the producer."""
        return int(ffi.cast("uintptr_t", self.handle))

    @property
    def run_id(self) -> str:
        """Of the run that the ring belongs to, as its header says."""
        return bytes(lib.advlog_ring_identity(self.handle).run_id).hex()

    @property
    def home(self) -> Path | None:
        """The log folder whose records these are, as its maker said; None where it did not."""
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

    def names(self) -> list[str]:
        """Every metric name, by its id."""
        buffer = ffi.new("char[]", lib.ADVLOG_MAX_NAME_BYTES)
        names = []
        for i in range(lib.advlog_name_count(self.handle)):
            size = lib.advlog_name_get(self.handle, i, buffer)
            names.append(ffi.unpack(buffer, size).decode("utf-8", "replace") if size > 0 else f"metric_{i}")
        return names

    def has_room_for_names(self, names: Iterable[str]) -> bool:
        """Whether those of the names that are new here could all be given an id."""
        known = self.names()
        new = set(names).difference(known)
        taken = sum(1 + len(name.encode()) for name in (*known, *new))
        return len(known) + len(new) <= MAX_METRIC_NAMES and taken <= _NAMES_BYTES

    def is_noted(self) -> bool:
        """Whether the note that leads a recovery here is still there.

        :raises OSError: it cannot be told.
        """
        return self._note_file is not None and self._note_file.exists()

    def vanished(self) -> bool:
        """Whether somebody removed the file: a SIGKILL would now lose what is in it."""
        return self.path is not None and not self.path.exists()

    def forget_records(self) -> None:
        """Gives the memory of the slots back, where all records are written; the mapping stays."""
        size = self.slots * lib.ADVLOG_SLOT_BYTES
        with contextlib.suppress(AttributeError, OSError):  # not on every system, nor every file system
            self._map.madvise(mmap.MADV_REMOVE, lib.advlog_ring_bytes(self.slots) - size, size)

    def remove(self) -> None:
        """Removes the file, its note and its lock; the memory stays mapped for whoever still holds it."""
        self._close_fd()
        for file in (self.path, self._note_file):
            if file is not None:
                with contextlib.suppress(OSError):
                    remove_own(file)
                failpoint("ring_removing")
        if self._lock is not None:
            with contextlib.suppress(OSError):
                self._lock.release(remove=True)
        if self.path is not None and _MADE_UP.match(self.path.parent.name):
            with contextlib.suppress(OSError):
                os.rmdir(self.path.parent)  # not while there is another ring in it

    def _make(self, run: RunIdentity, slots: int, ring_dir: Path | None, fallback: Path) -> tuple[mmap.mmap, int]:
        """The memory, and how many slots it is for: fewer than asked where shared memory is short."""
        name = ring_name(run.run_id, run.attempt, run.rank)
        for folder, is_shared_memory in self._places(ring_dir, fallback):
            try:
                return self._map_file(folder, name, slots, shared=is_shared_memory)
            except (OSError, LockedError) as error:
                self.notes.append(f"the ring cannot lie in {folder}: {getattr(error, 'strerror', None) or error}")
        self.notes.append("the ring lies in memory that dies with the process: a SIGKILL loses what is in it")
        return mmap.mmap(-1, lib.advlog_ring_bytes(slots)), slots

    def _places(self, ring_dir: Path | None, fallback: Path) -> Iterator[tuple[Path, bool]]:
        """The folders that may hold it, the best first, and whether each lies in shared memory."""
        if ring_dir is None:
            yield from ((folder, True) for folder in shared_folders(self.notes.append))
        else:
            try:
                ring_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                yield private_in(ring_dir), False
            except OSError as error:
                self.notes.append(f"the ring cannot lie in {ring_dir}: {error.strerror}")
        if ring_dir is None or ring_dir != fallback:
            try:
                make_folder(fallback)
                yield private_in(fallback), False
            except OSError as error:
                self.notes.append(f"the ring cannot lie in {fallback}: {error.strerror}")

    def _map_file(self, folder: Path, name: str, slots: int, *, shared: bool) -> tuple[mmap.mmap, int]:
        if os.path.lexists(folder / name):
            raise NotOursError(errno.EEXIST, f"something is called {name} there", str(folder / name))
        if shared:
            free = os.statvfs(folder)
            affordable = free.f_bavail * free.f_frsize // 16
            while lib.advlog_ring_bytes(slots) > affordable and slots > _MIN_SLOTS:
                slots //= 2
            if lib.advlog_ring_bytes(slots) > affordable:
                raise OSError(errno.ENOSPC, f"only {affordable * 16} bytes are free")
        size = lib.advlog_ring_bytes(slots)
        for stale in folder.glob(hidden_name(re.sub(r"attempt\d+", "attempt*", name))):
            remove_own(stale)  # of a start that was killed: this process holds the rank's lock
        temporary = folder / hidden_name(name)
        self._fd = open_new(temporary, os.O_RDWR, 0o600)
        try:
            self.path = temporary
            keeps = self._checked_file_system(folder)
            allocate(self._fd, size)
            failpoint("ring_allocated")
            mapped = mmap.mmap(self._fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._final = folder / name
            self._lock = FileLock(lock_file(self._final))
            if keeps != "xfs":
                self._close_fd()
            return mapped, slots
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            self.path = None
            self._close_fd()
            raise

    def _checked_file_system(self, folder: Path) -> str:
        """:raises OSError: it may move blocks."""
        keeps = _KEEPS_BLOCKS.get(lib.advlog_file_system(self._fd))
        if keeps is None:
            raise OSError(errno.EOPNOTSUPP, f"{file_system(folder) or 'its file system'} {_MOVES_BLOCKS}")
        return keeps

    def _close_fd(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def unshare(self) -> str | None:
        """Takes back the blocks that a copy of the file shares, which could not be written where the disk is full; why
        that could not be. To be called now and then: a copy may be made at any time."""
        if self._fd < 0:
            return None
        error = lib.advlog_unshare(self._fd, len(self._map))
        return os.strerror(error) if error not in (0, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL) else None

    def write_note(self) -> None:
        """Says in the run's folder where the ring lies.

        :raises OSError: it could not.
        """
        assert self._note_file is not None
        self._note.write(self._note_file)

    def _publish(self, run: RunIdentity, options: dict[str, Any]) -> None:
        """Into sight only now, the note first: a ring that can be found is whole, and one that is there is found."""
        place = str(self._final) if self.path else None
        self._note = RingNote(place, run.host, boot_id().hex(), run.run_id, options)
        self.write_note()
        failpoint("ring_noted")
        if self.path is not None:
            os.rename(self.path, self._final)
            self.path = self._final
            failpoint("ring_published")


def identity_of(run: RunIdentity, pid: int) -> Any:
    """What the header of a ring says of its maker: an `advlog_identity` of the process `pid` of this boot."""
    identity = ffi.new("advlog_identity *")
    ffi.memmove(identity.run_id, bytes.fromhex(run.run_id), 16)
    ffi.memmove(identity.boot_id, boot_id(), 16)
    identity.pid, identity.process_start = pid, process_start(pid)
    identity.attempt, identity.rank = run.attempt, run.rank
    return identity


def formatted(memory: Any, slots: int, first: int, identity: Any) -> Any:
    """Lays a new ring out in `memory`; the handle on it, freed with its last reference.

    :param first: the position that it begins at.
    :raises AdvlogError: it cannot be used.
    """
    error = lib.advlog_ring_format(memory, len(memory), slots, first, identity)
    if error:
        raise _unusable(memory, error)
    return _attached(memory)


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


def ring_name(run_id: str, attempt: int, rank: int) -> str:
    """What the ring of one rank in one attempt is called."""
    return f"{run_id}-attempt{attempt}-rank{rank:05d}.ring"


def holds_ring(file: Path) -> bool:
    """Whether a file of this user's begins as a ring does; nothing is moved or removed for one that does not.

    :raises NotOursError: it is no regular file of this user.
    :raises OSError: it cannot be read.
    """
    fd = open_own(file, os.O_RDONLY, strictly=True)
    try:
        return os.read(fd, len(_MAGIC)) == _MAGIC
    finally:
        os.close(fd)


def lock_file(ring: Path) -> Path:
    """Of the lock that the ring's owner holds."""
    return ring.with_name(f"{ring.name}.lock")


def hidden_name(name: str) -> str:
    """What a ring's file is called until it is whole, and noted."""
    return f".{name}.tmp"


def slots_for(values: int) -> int:
    """Slots that are enough for a record of so many values, whichever they are."""
    return int(1 + -(-max(values - lib.ADVLOG_HEADER_EXTRAS, 0) // lib.ADVLOG_PART_EXTRAS))


def line_bytes(text: str) -> bytes:
    """A line of text as the ring takes it: UTF-8, cut to what a record can hold, with no character split."""
    data = text.encode("utf-8", "replace")
    if len(data) > lib.ADVLOG_MAX_TEXT_BYTES:
        data = data[: lib.ADVLOG_MAX_TEXT_BYTES].decode("utf-8", "ignore").encode()
    return data


def slots_for_text(size_bytes: int) -> int:
    """The slots of a line of text."""
    return int(1 + -(-size_bytes // lib.ADVLOG_PART_TEXT))


def allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        chunk = bytes(1 << 20)
        for offset in range(0, size, len(chunk)):
            os.pwrite(fd, chunk[: size - offset], offset)


def shared_folders(say: Callable[[str], object]) -> Iterator[Path]:
    """Folders in shared memory that nobody but this user can touch; each is made where it is missing.

    :param say: told, in a sentence, why one that there should be cannot be used.
    """
    uid = os.geteuid()
    usual = SHARED_MEMORY / f"advlog-{uid}"
    for folder in (usual, Path(f"/run/user/{uid}/advlog")):
        if not folder.parent.is_dir():
            continue
        try:
            make_private_folder(folder)
        except OSError as error:
            if folder == usual:
                say(f"{folder} cannot be used: {error.strerror}")
        else:
            yield folder
    # Somebody else has the usual name: a new one, which the ring's note tells.
    folder = SHARED_MEMORY / f"advlog-{uid}-{os.urandom(8).hex()}"
    if SHARED_MEMORY.is_dir():
        try:
            make_private_folder(folder)
        except OSError as error:
            say(f"{folder} cannot be made: {error.strerror}")
        else:
            yield folder
            with contextlib.suppress(OSError):
                os.rmdir(folder)  # it was of no use either


def private_in(folder: Path) -> Path:
    """The folder, where nobody but this user can write it, else one of this user's own in it.

    :raises OSError: it could not be made, or is another's.
    """
    found = os.stat(folder)
    if found.st_uid in (os.geteuid(), 0) and not found.st_mode & 0o022:
        return folder
    mine = folder / f"advlog-{os.geteuid()}"
    make_private_folder(mine)
    return mine


def make_private_folder(folder: Path) -> None:
    """Makes a folder that nobody but this user can enter, or sees that it is one.

    :raises OSError: it could not be made.
    :raises NotOursError: another user's lies there, or others may enter it, or it is no folder.
    """
    make_folder(folder, 0o700)
    check_private_folder(folder)


def check_private_folder(folder: Path) -> None:
    """Checks that it is a folder, no link to one, that nobody but this user can enter.

    :raises NotOursError: it is not.
    :raises OSError: it is not there, or cannot be told.
    """
    check_folder(folder)
    found = os.lstat(folder)
    if found.st_uid != os.geteuid():
        raise NotOursError(errno.EPERM, f"it belongs to user {found.st_uid}", str(folder))
    if found.st_mode & 0o077:
        raise NotOursError(errno.EPERM, "others may enter it", str(folder))


def file_system(path: Path) -> str:
    """The type of the file system that `path` lies on, or will; empty where it cannot be told."""
    while not path.exists() and path != path.parent:
        path = path.parent
    best, kind = Path("/"), ""
    with contextlib.suppress(OSError):
        path = path.resolve()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields = line.split()
                place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4]))
                # By its place, not by its device: the volumes of btrfs have devices of their own.
                if (place == path or place in path.parents) and len(place.parts) >= len(best.parts):
                    best, kind = place, fields[fields.index("-") + 1]
    return kind
