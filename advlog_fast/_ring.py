"""The ring's memory: where it lies, how large it is, and its life as a file.

The file is allocated in full before it is mapped: a store into a page that the file system cannot supply would kill
the process with SIGBUS. It lies in shared memory (tmpfs) unless told otherwise, since a store to a mapping of a disk's
file can wait for writeback.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from ._native import ffi, lib
from ._paths import RunPaths
from .exceptions import AdvlogError
from .ranks import RunIdentity

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - our folder in it is checked to be ours alone
_MIN_SLOTS = 256
_RING_ERRORS = {
    lib.ADVLOG_RING_TOO_SMALL: "its memory is too small",
    lib.ADVLOG_RING_BAD_MAGIC: "its memory holds no ring",
    lib.ADVLOG_RING_BAD_VERSION: "another version laid it out",
    lib.ADVLOG_RING_BAD_LAYOUT: "its header is damaged",
    lib.ADVLOG_RING_NO_MEMORY: "there is no memory for its handle",
}
_NETWORK_FILE_SYSTEMS = frozenset(
    (
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "lustre",
        "gpfs",
        "beegfs",
        "ceph",
        "fuse.sshfs",
        "glusterfs",
        "9p",
        "afs",
        "pvfs2",
    )
)


class Ring:
    """A formatted ring, mapped; its memory lives as long as anything refers to this object.

    :ivar path: the ring's file, or None for memory that dies with the process.
    :ivar notes: what had to be done otherwise than asked, one sentence each.
    """

    def __init__(
        self,
        run: RunIdentity,
        ring_bytes: int,
        ring_dir: Path | None,
        log_dir: Path,
        *,
        start: int | None = None,
    ) -> None:
        self.path: Path | None = None
        self.notes: list[str] = []
        slots = 1 << max(ring_bytes // lib.ADVLOG_SLOT_BYTES, _MIN_SLOTS).bit_length() - 1
        self._map, self.slots = self._make(run, slots, ring_dir, RunPaths(log_dir, run.name).private)
        self._memory = ffi.from_buffer(self._map)
        identity = ffi.new("advlog_identity *")
        ffi.memmove(identity.run_id, bytes.fromhex(run.run_id), 16)
        ffi.memmove(identity.boot_id, boot_id(), 16)
        identity.pid, identity.process_start = run.pid, process_start(run.pid)
        identity.attempt, identity.rank = run.attempt, run.rank
        first = self.slots if start is None else start
        failed = lib.advlog_ring_format(self._memory, len(self._map), self.slots, first, identity)
        error = ffi.new("int *")
        handle = ffi.NULL if failed else lib.advlog_ring_attach(self._memory, len(self._map), error)
        if handle == ffi.NULL:
            self.remove()
            reason = _RING_ERRORS[failed or error[0]]
            raise AdvlogError(f"the ring of {self.slots} slots in {len(self._map)} bytes cannot be used: {reason}")
        self.handle: Any = ffi.gc(handle, lib.advlog_ring_detach)
        if self.path is not None:
            self._publish()

    @property
    def address(self) -> int:
        """Of the handle, for the producer."""
        return int(ffi.cast("uintptr_t", self.handle))

    def used(self) -> int:
        """Slots that hold records which not every working sink has completed."""
        return int(lib.advlog_ring_write_pos(self.handle) - lib.advlog_ring_read_pos(self.handle))

    def names(self) -> list[str]:
        """Every metric name, by its id."""
        buffer = ffi.new("char[]", lib.ADVLOG_MAX_NAME_BYTES)
        names = []
        for i in range(lib.advlog_name_count(self.handle)):
            size = lib.advlog_name_get(self.handle, i, buffer)
            names.append(ffi.unpack(buffer, size).decode("utf-8", "replace") if size > 0 else f"metric_{i}")
        return names

    def remove(self) -> None:
        """Removes the file; the memory stays mapped for whoever still holds it."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _make(self, run: RunIdentity, slots: int, ring_dir: Path | None, fallback: Path) -> tuple[mmap.mmap, int]:
        """The memory, and how many slots it is for: fewer than asked where shared memory is short."""
        name = f"{run.run_id}-attempt{run.attempt}-rank{run.rank:05d}.ring"
        wanted = ring_dir if ring_dir is not None else _shared_folder()
        folders = [folder for folder in (wanted, fallback) if folder is not None]
        for folder in dict.fromkeys(folders):
            try:
                if file_system(folder) in _NETWORK_FILE_SYSTEMS:
                    self.notes.append(f"{folder} is a network file system, where a ring cannot lie")
                    continue
                return self._map_file(folder, name, slots, shared=ring_dir is None and folder == wanted)
            except OSError as error:
                self.notes.append(f"the ring cannot lie in {folder}: {error.strerror or error}")
        self.notes.append("the ring lies in memory that dies with the process: a SIGKILL loses what is in it")
        return mmap.mmap(-1, lib.advlog_ring_bytes(slots)), slots

    def _map_file(self, folder: Path, name: str, slots: int, *, shared: bool) -> tuple[mmap.mmap, int]:
        folder.mkdir(parents=True, exist_ok=True)
        if shared:
            free = os.statvfs(folder)
            affordable = free.f_bavail * free.f_frsize // 16
            while lib.advlog_ring_bytes(slots) > affordable and slots > _MIN_SLOTS:
                slots //= 2
            if lib.advlog_ring_bytes(slots) > affordable:
                raise OSError(errno.ENOSPC, f"only {affordable * 16} bytes are free")
        size = lib.advlog_ring_bytes(slots)
        fd, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
        try:
            self.path = Path(temporary)
            _allocate(fd, size)
            mapped = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
            self._final = folder / name
            return mapped, slots
        except BaseException:
            self.remove()
            self.path = None
            raise
        finally:
            os.close(fd)

    def _publish(self) -> None:
        """Into sight only now: a ring that can be found is whole."""
        assert self.path is not None
        os.rename(self.path, self._final)
        self.path = self._final


def slots_for(values: int) -> int:
    """Slots that are enough for a record of so many values, whichever they are."""
    return int(1 + -(-max(values - lib.ADVLOG_HEADER_EXTRAS, 0) // lib.ADVLOG_PART_EXTRAS))


def slots_for_text(size_bytes: int) -> int:
    """The slots of a line of text."""
    return int(1 + -(-size_bytes // lib.ADVLOG_PART_TEXT))


def _allocate(fd: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        chunk = bytes(1 << 20)
        for offset in range(0, size, len(chunk)):
            os.pwrite(fd, chunk[: size - offset], offset)


def _shared_folder() -> Path | None:
    """This user's folder in shared memory, if there is one that nobody else can touch."""
    if not SHARED_MEMORY.is_dir():
        return None
    folder = SHARED_MEMORY / f"advlog-{os.getuid()}"
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        pass
    except OSError:
        return None
    found = os.lstat(folder)
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private else None


def file_system(path: Path) -> str:
    """The type of the file system that `path` lies on, or will; empty where it cannot be told."""
    while not path.exists() and path != path.parent:
        path = path.parent
    best, kind = "", ""
    with contextlib.suppress(OSError):
        device = os.stat(path).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                fields = line.split()
                dash = fields.index("-")
                if fields[2] == wanted and len(fields[4]) >= len(best):
                    best, kind = fields[4], fields[dash + 1]
    return kind


def boot_id() -> bytes:
    """16 bytes that name this boot of this machine; zeros where it cannot be told."""
    try:
        return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)


def process_start(pid: int) -> int:
    """When a process started, in clock ticks after the boot; with its pid this names one process. 0: not known."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
