"""Where a ring may lie: on each file system it is placed or refused as README says, and a full disk ends no process."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advlog_fast import read_jsonl

MIB = 1 << 20
SIZES = {"ext4": 64 * MIB, "xfs": 320 * MIB, "btrfs": 200 * MIB, "tmpfs": 64 * MIB}
KEEPS = {"tmpfs", "ext4", "xfs"}
KINDS = ["tmpfs", "ext4", "xfs", "btrfs", "overlay on ext4", "overlay on btrfs"]

LOGS = """
import json, os, subprocess, sys, time
from advlog_fast.engine import ring_file
from advlog_fast import AdvancedLogger
place, log_dir, how = sys.argv[1:]
options = {}
if how != "log_dir":
    options["ring_dir"] = os.path.join(place, "rings")
else:
    ring_file.shared_folders = lambda say: iter(())  # as where a container has none
log = AdvancedLogger(log_dir, "run", console="off", parquet=False, memory_interval_s=0, **options)
log.log_batch_progress(1, 1, None, 0.5)
assert log.flush()
ring = log.health().ring_path
if how == "reflink":
    subprocess.run(["cp", "--reflink=always", ring, ring + ".copy"], check=True)
    time.sleep(2.5)  # two looks of the watch
for size in (1 << 20, 1 << 14, 512, 1):
    with open(os.path.join(place, "fill"), "ab", buffering=0) as fill:
        try:
            while True:
                fill.write(os.urandom(size))
        except OSError:
            pass
os.sync()
for batch in range(2, 100_001):
    log.log_batch_progress(1, batch, None, 0.5)
print(json.dumps(ring), flush=True)
os.unlink(os.path.join(place, "fill"))
log.close()
"""


def mount(*arguments: str | Path) -> None:
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot mount: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(kind: str, folder: Path) -> Iterator[Path]:
    """A file system of the kind, small enough to be filled."""
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    below, _, lower = kind.partition(" on ")
    place = folder / "place"
    place.mkdir()
    with contextlib.ExitStack() as stack:
        if lower:
            base = stack.enter_context(mounted(lower, made(folder / "lower")))
            for name in ("lower", "upper", "work"):
                (base / name).mkdir()
            options = f"lowerdir={base}/lower,upperdir={base}/upper,workdir={base}/work"
            mount("-t", "overlay", "overlay", "-o", options, place)
        elif below == "tmpfs":
            mount("-t", "tmpfs", "-o", f"size={SIZES[below]}", "tmpfs", place)
        else:
            maker = shutil.which(f"mkfs.{below}")
            if maker is None:
                pytest.skip(f"needs mkfs.{below} (Debian: btrfs-progs, xfsprogs, e2fsprogs)")
            image = folder / "image"
            with image.open("wb") as file:
                file.truncate(SIZES[below])
            subprocess.run([maker, "-q", image], check=True, capture_output=True)
            mount("-o", "loop", image, place)
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", place], check=True)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def run(place: Path, log_dir: Path, how: str) -> str | None:
    """Where the ring lay."""
    command = [sys.executable, "-c", LOGS, place, log_dir, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.returncode, done.stderr)
    ring = json.loads(done.stdout)
    assert ring is None or isinstance(ring, str)
    return ring


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_is_placed_or_refused_and_a_full_disk_ends_no_process(tmp_path: Path, kind: str):
    log_dir = tmp_path / "logs"
    with mounted(kind, tmp_path) as place:
        ring = run(place, log_dir, "ring_dir")
        told = (log_dir / "run_main.log").read_text()
        if kind in KEEPS:
            assert ring is not None
            assert Path(ring).parent == place / "rings"
            assert "cannot lie" not in told
        else:
            assert ring is None or place not in Path(ring).parents
            refused = f"the ring cannot lie in {place}/rings: {kind.partition(' ')[0]} is not known to keep the blocks"
            assert refused in told
    assert [row["batch"] for row in read_jsonl(log_dir / "run_metrics.jsonl")] == list(range(1, 100_001))


@pytest.mark.parametrize("kind", ["btrfs", "overlay on btrfs", "ext4"])
def test_where_there_is_no_shared_memory_a_full_log_folder_ends_no_process(tmp_path: Path, kind: str):
    with mounted(kind, tmp_path) as place:
        ring = run(place, place / "logs", "log_dir")
        assert (ring is not None) == (kind in KEEPS)


def test_a_ring_that_was_copied_by_reflink_takes_its_blocks_back(tmp_path: Path):
    with mounted("xfs", tmp_path) as place:
        ring = run(place, tmp_path / "logs", "reflink")
        assert ring is None or place in Path(ring).parents
