"""What lies where files of ours belong, and is none: it is not written, cut, renamed, removed or waited for."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import pytest
from hostile_runs import NAMES, PRECIOUS, killed_run, run_script, start, tree

from advlog_fast import AdvancedLogger
from advlog_fast.recovery import recover
from advlog_fast.store.paths import RunPaths

LINES = ["run_main.log", "run_errors.log", "run_events.jsonl"]


@pytest.mark.parametrize("name", LINES)
@pytest.mark.parametrize("kind", ["link", "two names"])
@pytest.mark.parametrize("how", ["start", "recover"])
def test_a_torn_end_is_cut_off_no_file_that_is_not_ours(tmp_path: Path, name: str, kind: str, how: str):
    log_dir, mine = tmp_path / "logs", tmp_path / "checkpoint.pt"
    killed_run(log_dir)
    mine.write_bytes(b"\x00" * (3 << 20))
    (log_dir / name).unlink()
    if kind == "link":
        (log_dir / name).symlink_to(mine)
    else:
        os.link(mine, log_dir / name)
    if how == "start" and kind == "link":
        with pytest.raises(OSError, match=f"{name}: expected a "):
            start(log_dir)
    elif how == "start":
        start(log_dir).close()
    else:
        recover(log_dir)
    assert mine.read_bytes() == b"\x00" * (3 << 20)


def test_a_file_with_no_end_of_line_at_all_is_no_torn_end(tmp_path: Path):
    start(tmp_path).close()
    file = tmp_path / "run_main.log"
    whole = b"2026-01-01T00:00:00.000000Z " + b"x" * (2 << 20)
    file.write_bytes(whole)
    start(tmp_path).close()
    assert (tmp_path / "run_main.log.1").read_bytes() == whole


@pytest.mark.parametrize("name", [*NAMES, "run_summary.json"])
def test_a_first_start_refuses_a_name_that_a_file_of_the_users_has(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(PRECIOUS)
    with pytest.raises(OSError, match=f"{name}: expected a file that this package wrote or nothing"):
        start(tmp_path)
    assert tree(tmp_path) == {name: PRECIOUS}


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_dataset_that_is_no_folder_of_ours_is_refused(tmp_path: Path, kind: str):
    log_dir, mine = tmp_path / "logs", tmp_path / "mine"
    log_dir.mkdir()
    mine.mkdir()
    dataset = log_dir / "run_metrics.parquet"
    dataset.write_bytes(PRECIOUS) if kind == "file" else dataset.symlink_to(mine)
    with pytest.raises(OSError, match=r"run_metrics\.parquet: expected a folder or nothing, got a "):
        AdvancedLogger(log_dir, "run", console="off")
    assert not list(mine.iterdir())


@pytest.mark.parametrize(
    "folder", [".advlog", ".advlog/run", ".advlog/run/tmp", ".advlog/run/attempts", ".advlog/run/rings"]
)
def test_a_folder_of_ours_that_is_a_link_is_not_followed(tmp_path: Path, folder: str):
    log_dir, mine = tmp_path / "logs", tmp_path / "mine"
    mine.mkdir()
    (log_dir / folder).parent.mkdir(parents=True)
    (log_dir / folder).symlink_to(mine)
    with pytest.raises(OSError, match="expected a folder or nothing, got a symbolic link"):
        start(log_dir)
    assert not list(mine.iterdir())


def test_rotation_removes_no_file_that_another_program_numbers_likewise(tmp_path: Path):
    with start(tmp_path, max_log_size=2000, max_log_files=2) as log:
        mine = {
            tmp_path / f"{name}.{number}": b"2026-01-01 12:00:00,000 mine\n" for name in NAMES for number in (7, 8, 9)
        }
        for file, content in mine.items():
            file.write_bytes(content)
        for batch in range(500):
            log.log_batch_progress(1, batch, None, 0.5)
        assert log.flush()
    assert sorted(path.read_bytes() for path in tmp_path.glob("run_*") if b"mine" in path.read_bytes()) == sorted(
        mine.values()
    )


@pytest.mark.parametrize("kind", ["link", "directory", "pipe"])
def test_a_rotation_renames_no_numbered_name_that_is_no_file_of_ours(tmp_path: Path, kind: str):
    start(tmp_path).close()
    mine, planted = tmp_path / "mine", [tmp_path / f"{name}.{number}" for name in NAMES for number in (1, 3)]
    mine.write_bytes(PRECIOUS)
    for path in planted:
        {"link": lambda p: p.symlink_to(mine), "directory": os.mkdir, "pipe": os.mkfifo}[kind](path)
    inodes = [path.lstat().st_ino for path in planted]
    for batch in range(1, 5):
        with start(tmp_path) as log:
            log.log_batch_progress(1, batch, None, 0.5)
    assert [path.lstat().st_ino for path in planted] == inodes
    assert mine.read_bytes() == PRECIOUS
    numbers = {path.name.rpartition(".")[2] for path in tmp_path.glob("run_main.log.*")}
    assert numbers == {"1", "2", "3", "4", "5", "6"}


@pytest.mark.parametrize(
    "name",
    [
        "attempts/99999999999999999999.json",
        "attempts/²³.json",
        "../../run_metrics.parquet/attempt=18446744073709551615",
    ],
)
def test_a_number_that_no_attempt_can_have_is_none(tmp_path: Path, name: str):
    start(tmp_path).close()
    planted = tmp_path / ".advlog/run" / name
    planted.parent.mkdir(exist_ok=True)
    planted.mkdir() if "=" in name else planted.write_bytes(b"{}")
    with start(tmp_path) as log:
        assert log.attempt == 2


@pytest.mark.parametrize("name", ["run.json", "rings/attempt1-rank00000.json", "attempts/1.json"])
def test_an_object_that_is_nested_without_end_is_damaged(tmp_path: Path, name: str):
    start(tmp_path).close()
    file = tmp_path / ".advlog/run" / name
    file.write_bytes(b'{"path":' * 100_000)
    if name == "run.json":
        with pytest.raises(OSError, match="expected the run's id, got a damaged file"):
            start(tmp_path)
    else:
        start(tmp_path).close()


@pytest.mark.parametrize("name", ["run.json", "attempts/1.json", "accounts/attempt1-rank00000.json"])
@pytest.mark.parametrize("kind", ["pipe", "link", "endless"])
def test_a_start_reads_nothing_that_is_no_file_or_too_long(tmp_path: Path, name: str, kind: str):
    killed_run(tmp_path)
    file = tmp_path / ".advlog/run" / name
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "link":
        file.symlink_to("/dev/zero")
    else:
        with file.open("wb") as endless:
            endless.truncate(1 << 40)
    done = run_script("AdvancedLogger(LOG_DIR, 'run', console='off', parquet=False).close()", tmp_path, timeout_s=30)
    if name == "run.json":
        assert "expected the run's id, got a damaged file" in done.stderr
    else:
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_a_start_after_a_kill_waits_for_no_pipe(tmp_path: Path, kind: str):
    killed_run(tmp_path)
    file = tmp_path / "run_metrics.jsonl"
    file.unlink()
    if kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        if os.geteuid() != 0:
            pytest.skip("only root makes devices")
        os.mknod(file, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        import socket

        where = os.getcwd()
        os.chdir(tmp_path)  # the address is short
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(file.name)
        os.chdir(where)
    done = run_script("AdvancedLogger(LOG_DIR, 'run', console='off', parquet=False).close()", tmp_path, timeout_s=30)
    assert "expected a regular file" in done.stderr
    file.unlink()
    start(tmp_path).close()


def test_a_spool_that_goes_on_for_ever_after_its_damage_costs_a_start_no_time(tmp_path: Path):
    killed_run(tmp_path, options="jsonl=False")
    (spool,) = (tmp_path / ".advlog/run/spool").glob("metrics-*.spool")
    RunPaths(tmp_path, "run").ring_note(1).unlink()
    with spool.open("r+b") as file:
        file.truncate(60 << 30)
    began = time.monotonic()
    start(tmp_path).close()
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("run_id", ["5eed", "g" * 32, "F" * 32, "", "0" * 31])
def test_a_runs_id_is_32_hexadecimal_digits(tmp_path: Path, run_id: str):
    start(tmp_path).close()
    (tmp_path / ".advlog/run/run.json").write_text(json.dumps({"run_id": run_id}))
    with pytest.raises(OSError, match="expected the run's id, got a damaged file"):
        start(tmp_path)


def test_links_planted_under_names_of_ours_are_not_followed(tmp_path: Path):
    """Every name that was ever predictable: with this process's number, or a pattern of ours."""
    log_dir, mine = tmp_path / "logs", tmp_path / "mine"
    killed_run(log_dir, options="max_log_size=2000")
    mine.write_bytes(PRECIOUS)
    private = log_dir / ".advlog/run"
    pid = os.getpid()
    for folder, names in {
        "tmp": [
            f"run_summary.json.{pid}",
            f"metrics-attempt1-rank00000-000001-{pid}.parquet",
            f"metrics_schema-rank00000-{pid}.json",
            "run_metrics.jsonl.attempt1-99",
            "run_metrics.jsonl.attempt2-1",
        ],
        "rings": [f".attempt2-rank00000.json.{pid}"],
        "accounts": [f".attempt1-rank00000.json.{pid}", f".attempt2-rank00000.json.{pid}"],
        "set-aside": ["attempt1-rank00000.json.1"],
    }.items():
        (private / folder).mkdir(exist_ok=True)
        for name in names:
            (private / folder / name).symlink_to(mine)
    planted = [path for path in private.rglob("*") if path.is_symlink()]
    with pytest.raises(OSError, match="File exists"):
        AdvancedLogger(log_dir, "run", console="off")
    (private / "tmp/run_metrics.jsonl.attempt2-1").unlink()
    for name in os.listdir(private / "tmp"):
        if name.startswith("run_metrics.jsonl.attempt") and not (private / "tmp" / name).is_symlink():
            (private / "tmp" / name).unlink()
    AdvancedLogger(log_dir, "run", console="off").close()
    assert mine.read_bytes() == PRECIOUS
    assert len([path for path in planted if path.is_symlink()]) >= len(planted) - 1
