"""Notes of rings: whoever can write the log folder can write one, and nothing that it leads to is touched."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from hostile_runs import PRECIOUS, batches, killed_run, start, tree

from advlog_fast.engine.ring import ring_name
from advlog_fast.recovery import recover
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.processes import boot_id
from advlog_fast.store.ring_note import RingNote


def hostile_note(log_dir: Path, path: Path | str, run_id: str | None = None, attempt: int = 1) -> None:
    paths = RunPaths(log_dir, "run")
    if run_id is None:
        run_id = json.loads((paths.private / "run.json").read_bytes())["run_id"]
    RingNote(str(path), os.uname().nodename, boot_id().hex(), run_id, {}).write(paths.ring_note(attempt))


@pytest.mark.parametrize("how", ["start", "recover"])
@pytest.mark.parametrize("named", ["anyhow", "as a ring"])
def test_a_note_that_leads_to_a_file_of_the_users_moves_and_removes_nothing(tmp_path: Path, how: str, named: str):
    log_dir, mine = tmp_path / "logs", tmp_path / "mine"
    start(log_dir).close()
    run_id = json.loads((log_dir / ".advlog/run/run.json").read_bytes())["run_id"]
    name = ring_name(run_id, 1, 0) if named == "as a ring" else "key"
    mine.mkdir()
    for file in (name, f"{name}.lock", f".{name}.tmp"):
        (mine / file).write_bytes(PRECIOUS)
    (mine / f"{name}.workers").mkdir()
    for file in ("photo.jpg", "1-abcdef01.ring", "1-abcdef01.lock"):
        (mine / f"{name}.workers" / file).write_bytes(PRECIOUS)
    before = tree(mine)
    hostile_note(log_dir, mine / name)
    if how == "start":
        start(log_dir).close()
    else:
        assert [found.outcome for found in recover(log_dir)] == ["set aside"]
    assert tree(mine) == before
    assert recover(log_dir) == []


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_a_ring_that_is_no_file_of_ours_is_not_touched(tmp_path: Path, kind: str):
    log_dir = tmp_path / "logs"
    start(log_dir).close()
    run_id = json.loads((log_dir / ".advlog/run/run.json").read_bytes())["run_id"]
    mine, ring = tmp_path / "mine", tmp_path / ring_name(run_id, 1, 0)
    mine.write_bytes(b"\x01\nadvlog" + PRECIOUS)
    {
        "link": lambda: ring.symlink_to(mine),
        "pipe": lambda: os.mkfifo(ring),
        "directory": ring.mkdir,
    }[kind]()
    hostile_note(log_dir, ring)
    start(log_dir).close()
    assert mine.read_bytes() == b"\x01\nadvlog" + PRECIOUS
    assert os.path.lexists(ring)


def test_a_ring_that_is_another_attempts_is_not_touched(tmp_path: Path):
    log_dir = tmp_path / "logs"
    killed_run(log_dir, options=f"parquet=False, ring_dir={str(tmp_path / 'rings')!r}")
    (ring,) = (tmp_path / "rings").glob("*.ring")
    run_id = json.loads((log_dir / ".advlog/run/run.json").read_bytes())["run_id"]
    stolen = ring.with_name(ring_name(run_id, 7, 0))
    ring.rename(stolen)
    before = stolen.read_bytes()
    RunPaths(log_dir, "run").ring_note(1).unlink()
    hostile_note(log_dir, stolen, attempt=7)
    (found,) = recover(log_dir)
    assert (found.outcome, "another attempt's ring" in found.detail) == ("set aside", True)
    assert stolen.read_bytes() == before


def test_a_ring_goes_to_no_copy_of_its_log_folder_whatever_the_note_says(tmp_path: Path):
    log_dir, copy = tmp_path / "logs", tmp_path / "copy"
    killed_run(log_dir)
    shutil.copytree(log_dir, copy)
    file = RunPaths(copy, "run").ring_note(1)
    note = RingNote.read(file)
    dataclasses.replace(note, options={**note.options, "log_dir": str(copy)}).write(file)
    (found,) = recover(copy)
    assert (found.outcome, found.detail) == ("incomplete", f"this is a copy: its ring is for the files of {log_dir}")
    (found,) = recover(log_dir)
    assert found.outcome == "recovered"
    assert batches(log_dir) == list(range(1, 11))


def test_a_ring_follows_its_log_folder_when_that_is_moved(tmp_path: Path):
    killed_run(tmp_path / "logs")
    (tmp_path / "logs").rename(tmp_path / "moved")
    (found,) = recover(tmp_path / "moved")
    assert found.outcome == "recovered"
    assert batches(tmp_path / "moved") == list(range(1, 11))
