"""The file of a ring: it is made complete, noted, then made visible; watched while the run lives; removed with lock and
note.

A store into a page that the file system cannot supply would kill the process with SIGBUS. So what is stored into is
allocated before (the room for names as names come), and the file lies on a file system that is known to keep what it
has allocated, or nowhere. That is shared memory (tmpfs) unless told otherwise, since a store to a mapping of a disk's
file can wait for writeback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .._failpoints import failpoint
from .._native import ffi, lib
from ..store.files import NotOursError, make_folder, open_new, open_own, remove_own
from ..store.locks import FileLock, LockedError
from ..store.ring_note import RingNote
from .ring_folders import MADE_FOR_ONE_RING, file_system, private_in, shared_folders

MIN_SLOTS = 256
MIN_SLAB_ENTRIES = int(lib.ADVLOG_SLAB_ENTRIES)
_MAGIC = b"\x01\nadvlog"
_KEEPS_BLOCKS = {0x01021994: "tmpfs", 0xEF53: "ext4", 0x58465342: "xfs"}
"""The file systems, by their type in statfs(2), that write a store to a file's mapping into the block allocated for it.
Others (btrfs, zfs, bcachefs, overlays, FUSE, 9p, network file systems) may need a new block, and SIGBUS ends the
process if there is none."""
_MOVES_BLOCKS = "is not known to keep the blocks that it has allocated, and where it is full a store would be fatal"


class RingShape(NamedTuple):
    """How much a ring holds.

    :ivar slots: a power of two.
    :ivar slab_entries: values that accelerators are to fill in, which may be on their way at a time; a power of two.
    """

    slots: int
    slab_entries: int = MIN_SLAB_ENTRIES

    @property
    def size(self) -> int:
        """Bytes of its file."""
        return int(lib.advlog_ring_bytes(*self))

    @property
    def first_size(self) -> int:
        """Those of them that must be there from the first."""
        return int(lib.advlog_ring_first_bytes(*self))


class RingFile:
    """A ring's file on disk. Its owner holds the lock of `<path>.lock` from before the ring becomes visible until it is
    removed. A :class:`RingNote` in the run's folder says where it lies.

    :param path: None for memory that dies with the process.
    :param note_file: None for the ring of a child, which lies in its parent's folder.
    """

    def __init__(self, path: Path | None, lock: FileLock | None = None, note_file: Path | None = None) -> None:
        self.path = path
        self.note_file = note_file
        self.lock = lock
        self._final = path
        self._fd = -1
        self._handle: Any = None
        self._blocks_are_shared = False
        """Whether a copy of the file may share its blocks."""
        self._note: RingNote | None = None

    @classmethod
    def make(
        cls, name: str, shape: RingShape, ring_dir: Path | None, fallback: Path, note_file: Path, notes: list[str]
    ) -> tuple[RingFile, Any, RingShape]:
        """Returns a file with room for a ring, not visible yet, its mapping, and its shape, which has
        fewer slots than asked if shared memory is short. Without a file, the ring lies in memory of the process.

        :param notes: receives deviations from what was asked, one sentence each.
        """
        for folder, is_shared_memory in _places(ring_dir, fallback, notes):
            file = cls(folder / hidden_name(name), note_file=note_file)
            try:
                return (file, *file._map(folder / name, shape, shared=is_shared_memory))
            except (OSError, LockedError) as error:
                notes.append(f"the ring cannot lie in {folder}: {getattr(error, 'strerror', None) or error}")
        notes.append("the ring lies in memory that dies with the process: a SIGKILL loses what is in it")
        return cls(None, note_file=note_file), mapped(-1, shape.size), shape

    def _map(self, final: Path, shape: RingShape, *, shared: bool) -> tuple[Any, RingShape]:
        assert self.path is not None
        folder = final.parent
        if os.path.lexists(final):
            raise NotOursError(errno.EEXIST, f"something is called {final.name} there", str(final))
        if shared:
            shape = _affordable(folder, shape)
        for stale in folder.glob(hidden_name(re.sub(r"attempt\d+", "attempt*", final.name))):
            remove_own(stale)  # of a start that was killed: this process holds the rank's lock
        self._fd = open_new(self.path, os.O_RDWR, 0o600)
        try:
            kind = self._checked_file_system(folder)
            memory = map_ring(self._fd, shape)
            failpoint("ring_allocated")
            self._final = final
            self.lock = FileLock(lock_file(final))
            self._blocks_are_shared = kind == "xfs"
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            self._close_fd()
            raise
        return memory, shape

    def _checked_file_system(self, folder: Path) -> str:
        """:raises OSError: it may move blocks."""
        kind = _KEEPS_BLOCKS.get(lib.advlog_file_system(self._fd))
        if kind is None:
            raise OSError(errno.EOPNOTSUPP, f"{file_system(folder) or 'its file system'} {_MOVES_BLOCKS}")
        return kind

    def publish(self, note: RingNote) -> None:
        """Makes the file visible, after writing its note: a visible ring is complete, and a recovery finds every ring.

        :raises OSError: the note could not be written, or the file renamed.
        """
        self._note = note
        self.write_note()
        failpoint("ring_noted")
        if self.path is not None and self._final is not None:
            os.rename(self.path, self._final)
            self.path = self._final
            failpoint("ring_published")

    @property
    def final(self) -> str | None:
        """The path of the visible file; None if there is none."""
        return str(self._final) if self.path is not None else None

    def write_note(self) -> None:
        """Writes into the run's folder where the ring lies.

        :raises OSError: it could not.
        """
        assert self._note is not None
        assert self.note_file is not None
        self._note.write(self.note_file)

    def is_noted(self) -> bool:
        """Returns whether the note that leads a recovery here is still there.

        :raises OSError: it cannot be told.
        """
        return self.note_file is not None and self.note_file.exists()

    def has_vanished(self) -> bool:
        """Returns whether somebody removed the file: a SIGKILL would now lose what is in it."""
        return self.path is not None and not self.path.exists()

    def unshare(self, size: int) -> str | None:
        """Unshares blocks that a copy of the file shares, because a full disk would make them unwritable. Returns the
        reason if it fails. Call it regularly: somebody may copy the file at any time."""
        if not self._blocks_are_shared or self._fd < 0:
            return None
        error = lib.advlog_unshare(self._fd, size)
        return os.strerror(error) if error not in (0, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL) else None

    def remove(self) -> None:
        """Removes the file, its note and its lock; what is mapped stays so."""
        self._close_fd()
        for file in (self.path, self.note_file):
            if file is not None:
                with contextlib.suppress(OSError):
                    remove_own(file)
                failpoint("ring_removing")
        if self.lock is not None:
            with contextlib.suppress(OSError):
                self.lock.release(remove=True)
        if self.path is not None and MADE_FOR_ONE_RING.match(self.path.parent.name):
            with contextlib.suppress(OSError):
                os.rmdir(self.path.parent)  # not while there is another ring in it

    def keep(self, fd: int) -> None:
        """Takes over the descriptor of the file."""
        self._fd = fd

    def serve(self, handle: Any) -> None:
        """Lets the ring of that handle allocate room for names in the file."""
        self._handle = handle
        lib.advlog_ring_set_file(handle, self._fd)

    def _close_fd(self) -> None:
        if self._handle is not None:
            lib.advlog_ring_set_file(self._handle, -1)  # before another file gets its number
            self._handle = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _places(ring_dir: Path | None, fallback: Path, notes: list[str]) -> Iterator[tuple[Path, bool]]:
    """The folders that may hold the ring, the best first, and whether each lies in shared memory."""
    if ring_dir is None:
        yield from ((folder, True) for folder in shared_folders(notes.append))
    else:
        try:
            ring_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            yield private_in(ring_dir), False
        except OSError as error:
            notes.append(f"the ring cannot lie in {ring_dir}: {error.strerror}")
    if ring_dir is None or ring_dir != fallback:
        try:
            make_folder(fallback)
            yield private_in(fallback), False
        except OSError as error:
            notes.append(f"the ring cannot lie in {fallback}: {error.strerror}")


def _affordable(folder: Path, shape: RingShape) -> RingShape:
    """Returns the shape with as many slots as fit into a sixteenth of the free space there.

    :raises OSError: not even the smallest ring fits.
    """
    free = os.statvfs(folder)
    affordable = free.f_bavail * free.f_frsize // 16
    while shape.first_size > affordable and shape.slots > MIN_SLOTS:
        shape = shape._replace(slots=shape.slots // 2)
    if shape.first_size > affordable:
        raise OSError(errno.ENOSPC, f"only {affordable * 16} bytes are free")
    return shape


def ring_name(run_id: str, attempt: int, rank: int) -> str:
    """Returns what the ring of one rank in one attempt is called."""
    return f"{run_id}-attempt{attempt}-rank{rank:05d}.ring"


def holds_ring(file: Path) -> bool:
    """Returns whether a file of this user's begins as a ring does; nothing is moved or removed for one that does not.

    :raises NotOursError: it is no regular file of this user.
    :raises OSError: it cannot be read.
    """
    fd = open_own(file, os.O_RDONLY, strictly=True)
    try:
        return os.read(fd, len(_MAGIC)) == _MAGIC
    finally:
        os.close(fd)


def lock_file(ring: Path) -> Path:
    """The lock that the ring's owner holds."""
    return ring.with_name(f"{ring.name}.lock")


def hidden_name(name: str) -> str:
    """Returns the name of a ring's file until it is complete and noted."""
    return f".{name}.tmp"


def map_ring(fd: int, shape: RingShape) -> Any:
    """Returns the mapping of a new file that is as large as a ring needs, its last part a hole: room for names.

    :raises OSError: the file system cannot supply what is needed from the first.
    """
    allocate(fd, shape.first_size)
    os.ftruncate(fd, shape.size)
    return mapped(fd, shape.size)


def mapped(fd: int, size: int) -> Any:
    """Returns a buffer: the file's mapping, unmapped with the buffer's last reference, or memory where `fd` is -1.

    A device may keep it for the life of the process, and so Python's own kind will not do, which keeps a descriptor.

    :raises OSError: the system refuses.
    """
    memory = lib.advlog_map(fd, size)
    if memory == ffi.NULL:
        raise OSError(ffi.errno, os.strerror(ffi.errno))
    return ffi.buffer(ffi.gc(memory, lambda address: lib.advlog_unmap(address, size)), size)


def allocate(fd: int, size: int) -> None:
    """Has the file system supply the first `size` bytes of a new file.

    :raises OSError: it cannot.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        chunk = bytes(1 << 20)
        for offset in range(0, size, len(chunk)):
            os.pwrite(fd, chunk[: size - offset], offset)
