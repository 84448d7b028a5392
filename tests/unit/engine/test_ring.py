"""The ring's memory: where it lies, how large it becomes, and what stands in its place where it cannot lie there."""

from __future__ import annotations

import gc
import os
import resource
import stat
from pathlib import Path

import pytest

from advlog_fast._native import ffi, lib
from advlog_fast.engine.ring import Ring
from advlog_fast.engine.ring_folders import SHARED_MEMORY, file_system
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.processes import boot_id, process_start
from advlog_fast.store.ranks import RunIdentity

RUN = RunIdentity("0123456789abcdef" * 2, "run", 3, 2, 4, "host", os.getpid())


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_a_ring_is_a_file_of_its_own_user_that_goes_when_it_is_removed(tmp_path: Path):
    before = descriptors()
    ring = Ring(RUN, 1 << 20, tmp_path / "rings", RunPaths(tmp_path, "run", 2))
    assert ring.path == tmp_path / "rings" / f"{RUN.run_id}-attempt3-rank00002.ring"
    assert ring.notes == []
    found = ring.path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_size == lib.advlog_ring_bytes(ring.slots, lib.ADVLOG_SLAB_ENTRIES)
    there = ring.size_bytes
    assert lib.advlog_ring_first_bytes(ring.slots, lib.ADVLOG_SLAB_ENTRIES) == there < found.st_size
    assert there <= found.st_blocks * 512 < found.st_size  # no store into it can meet a full disk
    for number in range(1000):
        assert lib.advlog_name_intern(ring.handle, f"{number:0255}".encode(), 255) == number
    assert there < ring.size_bytes <= ring.path.stat().st_blocks * 512
    assert [path.suffix for path in ring.path.parent.glob("*.tmp")] == []
    ring.file.remove()
    ring.file.remove()
    assert list((tmp_path / "rings").iterdir()) == []
    assert lib.advlog_push_text(ring.handle, 20, 0, b"", 0) == lib.ADVLOG_OK  # the memory is still there
    del ring
    gc.collect()
    assert descriptors() <= before  # what earlier tests left may have gone meanwhile


@pytest.mark.parametrize(
    ("ring_bytes", "slots"), [(0, 256), (256 * 128, 256), (512 * 128 - 1, 256), (1 << 20, 8192), (1 << 22, 32768)]
)
def test_its_slots_are_a_power_of_two_that_fits_the_bytes_asked_for(tmp_path: Path, ring_bytes: int, slots: int):
    ring = Ring(RUN, ring_bytes, tmp_path, RunPaths(tmp_path, "run", 2))
    assert ring.slots == slots == lib.advlog_ring_slots(ring.handle)
    assert ring.used() == 0


def test_positions_begin_at_the_number_of_slots_or_where_a_test_wants_them(tmp_path: Path):
    assert lib.advlog_ring_write_pos(Ring(RUN, 0, tmp_path, RunPaths(tmp_path, "run", 2)).handle) == 256
    ring = Ring(RUN, 0, tmp_path, RunPaths(tmp_path, "run", 2), start=(1 << 64) - 1)
    for used in range(1, 257):
        assert lib.advlog_push_text(ring.handle, 20, 0, b"", 0) == lib.ADVLOG_OK
        assert ring.used() % (1 << 64) == used
    assert lib.advlog_push_text(ring.handle, 20, 0, b"", 0) == lib.ADVLOG_FULL


def test_names_come_back_by_their_ids(tmp_path: Path):
    ring = Ring(RUN, 0, tmp_path, RunPaths(tmp_path, "run", 2))
    for name in ("loss/a", "ü", "x" * 255):
        data = name.encode()
        assert lib.advlog_name_intern(ring.handle, data, len(data)) == len(ring.names()) - 1
    assert ring.names() == ["loss/a", "ü", "x" * 255]


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="needs shared memory")
def test_without_a_folder_it_lies_in_this_users_shared_memory(tmp_path: Path):
    ring = Ring(RUN, 0, None, RunPaths(tmp_path, "run", 2))
    assert ring.path is not None
    folder = ring.path.parent
    assert folder == SHARED_MEMORY / f"advlog-{os.getuid()}"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    ring.file.remove()
    assert not ring.path.exists()


def test_where_it_cannot_lie_it_falls_back_and_says_so(tmp_path: Path):
    no_folder = tmp_path / "file"
    no_folder.write_bytes(b"")
    ring = Ring(RUN, 0, no_folder, RunPaths(tmp_path, "run", 2))
    assert ring.path is not None
    assert ring.path.parent.is_relative_to(tmp_path / ".advlog")
    assert len(ring.notes) == 1
    assert str(no_folder) in ring.notes[0]
    ring.file.remove()


def test_where_no_file_can_be_that_large_it_lies_in_memory_and_says_so(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        ring = Ring(RUN, 1 << 20, None, RunPaths(tmp_path, "run", 2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ring.path is None
    assert "a SIGKILL loses what is in it" in ring.notes[-1]
    assert ring.slots == 8192
    assert lib.advlog_push_text(ring.handle, 20, 0, b"", 0) == lib.ADVLOG_OK
    ring.file.remove()


def test_a_cursor_begins_at_the_rings_start_with_seq_1(tmp_path: Path):
    ring = Ring(RUN, 0, tmp_path, RunPaths(tmp_path, "run", 2), start=77)
    cursor = ffi.new("advlog_cursor *")
    for sink in range(lib.ADVLOG_MAX_SINKS):
        lib.advlog_ring_cursor(ring.handle, sink, cursor)
        assert (cursor.position, cursor.next_seq, cursor.written, cursor.dropped) == (77, 1, 0, 0)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_process_and_a_boot_are_named_as_the_kernel_names_them(tmp_path: Path):
    assert boot_id().hex() == Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")
    assert process_start(os.getpid()) > process_start(1) >= 0
    assert process_start(2**22 + 1) == 0
    assert file_system(tmp_path / "not" / "there") == file_system(tmp_path) != ""
    assert file_system(Path("/proc/self")) == "proc"
