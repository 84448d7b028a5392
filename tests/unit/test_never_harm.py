"""What a logger does not do to its user's files, signals, locks and threads, whatever lies in the log folder."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, RunBusyError, read_jsonl
from advlog_fast._locks import FileLock
from advlog_fast._paths import RunPaths
from advlog_fast._processes import boot_id
from advlog_fast._ring import ring_name
from advlog_fast._ring_note import RingNote
from advlog_fast.compaction import compact
from advlog_fast.recovery import recover
from advlog_fast.verification import verify

PRELUDE = """
import os, signal, sys, threading, time
from advlog_fast import AdvancedLogger
LOG_DIR = sys.argv[1]
def log_batches(log, first, last):
    for batch in range(first, last + 1):
        log.log_batch_progress(1, batch, None, 0.5)
"""
PRECIOUS = b"all that I have\n" * 1000


def run_script(code: str, log_dir: Path, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(log_dir)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)


def killed_run(log_dir: Path, batches: int = 10, options: str = "parquet=False", before: str = "") -> None:
    """A run whose process was killed, its ring left behind."""
    code = f"""{before}
    log = AdvancedLogger(LOG_DIR, "run", console="off", {options})
    log_batches(log, 1, {batches})
    log.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_script(code, log_dir).returncode == -signal.SIGKILL


def batches(log_dir: Path) -> list[int]:
    return [row["batch"] for row in read_jsonl(log_dir / "run_metrics.jsonl")]


def start(log_dir: Path, **options: object) -> AdvancedLogger:
    return AdvancedLogger(log_dir, "run", console="off", parquet=False, **options)  # type: ignore[arg-type]


# ---- notes: whoever can write the log folder can write one ----


def hostile_note(log_dir: Path, path: Path | str, run_id: str | None = None, attempt: int = 1) -> None:
    paths = RunPaths(log_dir, "run")
    if run_id is None:
        run_id = json.loads((paths.private / "run.json").read_bytes())["run_id"]
    RingNote(str(path), os.uname().nodename, boot_id().hex(), run_id, {}).write(paths.ring_note(attempt))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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


# ---- what lies where our files belong ----

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


NAMES = [
    "run_main.log",
    "run_training.log",
    "run_errors.log",
    "run_events.jsonl",
    "run_metrics.jsonl",
    "run_system.jsonl",
]


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


# ---- shared memory ----


@pytest.mark.parametrize("kind", ["another's", "open to others", "a link", "a file"])
def test_where_the_usual_folder_in_shared_memory_is_not_ours_alone_the_ring_lies_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    if kind == "another's" and os.geteuid() != 0:
        pytest.skip("only root gives a folder away")
    memory, elsewhere, logs = tmp_path / "shm", tmp_path / "elsewhere", tmp_path / "logs"
    memory.mkdir()
    elsewhere.mkdir(mode=0o700)
    shared = memory / f"advlog-{os.geteuid()}"
    if kind == "a link":
        shared.symlink_to(elsewhere)
    elif kind == "a file":
        shared.write_bytes(PRECIOUS)
    else:
        shared.mkdir(mode=0o700)
        os.chmod(shared, 0o755 if kind == "open to others" else 0o700)
        if kind == "another's":
            os.chown(shared, 65534, 65534)
    before = shared.lstat()
    in_memory = f"""
    from pathlib import Path
    from advlog_fast import _ring
    _ring.SHARED_MEMORY = Path({str(memory)!r})
    """
    killed_run(logs, 5, before=in_memory)
    assert not list(elsewhere.iterdir())
    assert f"{shared} cannot be used" in (logs / "run_main.log").read_text()
    monkeypatch.setattr("advlog_fast._ring.SHARED_MEMORY", memory)
    with start(logs) as log:
        ring = Path(str(log.health().ring_path))
        assert ring.parent != shared
        assert stat.S_IMODE(ring.parent.stat().st_mode) == 0o700
        log.log_batch_progress(1, 6, None, 0.5)
    assert batches(logs) == [1, 2, 3, 4, 5, 6]
    # What was made up goes with its ring; what was there is as it was.
    assert [path for path in memory.iterdir() if path != shared] == []
    assert (shared.lstat().st_mode, shared.lstat().st_ino) == (before.st_mode, before.st_ino)


def test_children_whose_folder_is_removed_are_told_and_what_was_met_is_taken_over(tmp_path: Path):
    """As systemd-logind removes it at a logout (RemoveIPC), under a training that goes on."""
    done = run_script(
        """
        import json, shutil, warnings
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, ring_dir=os.path.join(LOG_DIR, "rings"))
        ready, go = os.pipe(), os.pipe()
        first = os.fork()
        if first == 0:
            log_batches(log, 1, 10)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            log_batches(log, 11, 500)
            os._exit(0)
        os.read(ready[0], 1)
        assert log.flush(20)
        shutil.rmtree(os.path.join(LOG_DIR, "rings"))
        second = os.fork()
        if second == 0:
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                log_batches(log, 501, 510)
                deadline = time.monotonic() + 20
                while log.health().accepted == 0 and time.monotonic() < deadline:
                    time.sleep(0.05)
                    log.log_batch_progress(2, 1, None, 0.5)
            with open(os.path.join(LOG_DIR, "told"), "w") as file:
                json.dump([[str(each.message) for each in told], log.health().accepted], file)
            os._exit(0)
        os.waitpid(second, 0)
        os.write(go[1], b"x")
        os.waitpid(first, 0)
        print(log.close())
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr
    told, accepted = json.loads((tmp_path / "told").read_text())
    assert any("was removed: what this process logs is dropped until it is made again" in each for each in told)
    assert "was removed: what children log" in (tmp_path / "run_main.log").read_text()
    rows = read_jsonl(tmp_path / "run_metrics.jsonl")
    assert sorted(row["batch"] for row in rows if row["epoch"] == 1) == list(range(1, 501))
    assert len([row for row in rows if row["epoch"] == 2]) == accepted > 0


def test_a_strangers_ring_is_not_mapped_even_by_root(tmp_path: Path):
    from advlog_fast._files import NotOursError
    from advlog_fast._ring import Ring

    if os.geteuid() != 0:
        pytest.skip("only root gives a file away")
    killed_run(tmp_path, options=f"parquet=False, ring_dir={str(tmp_path / 'rings')!r}")
    (ring,) = (tmp_path / "rings").glob("*.ring")
    os.chown(ring, 65534, 65534)
    with pytest.raises(NotOursError, match="expected a file of user 0, got one of user 65534"):
        Ring.mapped(ring)
    (found,) = recover(tmp_path)
    assert found.outcome == "incomplete"  # its owner recovers it
    os.chown(ring, 0, 0)
    assert recover(tmp_path)[0].outcome == "recovered"


def test_root_goes_on_with_a_users_run(tmp_path: Path):
    """As a container does, with the logs of its host."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    for batch in range(1, 4):
        with start(tmp_path, max_log_files=2) as log:
            log.log_batch_progress(1, batch, None, 0.5)
        for path in (tmp_path, *tmp_path.rglob("*")):
            os.lchown(path, 65534, 65534)
    assert batches(tmp_path) == [2, 3]
    assert sorted(path.name for path in tmp_path.glob("run_main.log*")) == ["run_main.log", "run_main.log.1"]


def test_a_ring_lies_in_no_folder_that_others_can_write(tmp_path: Path):
    tmp_path.chmod(0o1777)
    with start(tmp_path / "logs", ring_dir=tmp_path) as log:
        ring = Path(str(log.health().ring_path))
        assert ring.parent == tmp_path / f"advlog-{os.geteuid()}"
        assert stat.S_IMODE(ring.parent.stat().st_mode) == 0o700


# ---- locks ----


@pytest.mark.parametrize("child", ["os.fork", "a fork in C", "DataLoader", "multiprocessing"])
def test_a_killed_parent_is_started_again_while_its_children_live(tmp_path: Path, child: str):
    if child == "DataLoader":
        pytest.importorskip("torch")
    code = f"""
    import ctypes
    child = {child!r}
    log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
    log_batches(log, 1, 10)
    def tell(pid):
        with open(os.path.join(LOG_DIR, "child"), "w") as file:
            file.write(str(pid))
    if child == "os.fork" or child == "a fork in C":
        pid = os.fork() if child == "os.fork" else ctypes.CDLL(None).fork()
        if pid == 0:
            tell(os.getpid())
            time.sleep(60)
            os._exit(0)
    elif child == "multiprocessing":
        import multiprocessing
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        process.start()
        tell(process.pid)
    else:
        import torch
        class Items(torch.utils.data.Dataset):
            def __len__(self):
                return 100
            def __getitem__(self, index):
                if index == 3:
                    tell(os.getpid())
                    time.sleep(60)
                return index
        loader = torch.utils.data.DataLoader(Items(), num_workers=2, multiprocessing_context="fork")
        items = iter(loader)
    while not os.path.exists(os.path.join(LOG_DIR, "child")) or not open(os.path.join(LOG_DIR, "child")).read():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=60).returncode == -signal.SIGKILL
    pid = int((tmp_path / "child").read_text())
    try:
        os.kill(pid, 0)
        with start(tmp_path) as log:
            assert log.attempt == 2
            os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert batches(tmp_path) == list(range(1, 11))


POSIX_LOCK = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.write(fd, b"pid 1 on an earlier version")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_version_with_posix_locks_and_this_one_exclude_each_other(tmp_path: Path):
    with start(tmp_path) as log:
        lock = RunPaths(tmp_path, "run").lock
        earlier = subprocess.run([sys.executable, "-c", POSIX_LOCK, lock], capture_output=True, text=True, timeout=20)
        assert "BlockingIOError" in earlier.stderr
        log.log_batch_progress(1, 1, 1, 0.5)
    holder = subprocess.Popen(
        [sys.executable, "-c", POSIX_LOCK, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunBusyError, match="another live process: pid 1 on an earlier version"):
            start(tmp_path)
    start(tmp_path).close()


# ---- signals ----


def test_a_handler_that_logs_while_its_thread_waits_for_room_hangs_nobody(tmp_path: Path):
    done = run_script(
        """
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, ring_bytes=65536, overflow_timeout_s=0.002)
        def handle(*_):
            log.log_batch_progress(2, 1, None, 0.5)
            log.log_memory_usage()
            log.log_event("alarm")
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0013, 0.0013)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            log_batches(log, 1, 5000)
            log.log_memory_usage()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(log.health().call.stalls > 0, log.close())
        """,
        tmp_path,
    )
    assert done.stdout == "True True\n", done.stderr


def test_a_sigterm_during_the_close_ends_the_process_after_it(tmp_path: Path):
    done = run_script(
        """
        log = AdvancedLogger(LOG_DIR, "run", console="off", handle_signals=True)
        log_batches(log, 1, 200_000)
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
        log.close()
        time.sleep(20)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGTERM
    assert json.loads((tmp_path / "run_summary.json").read_text())["total_metrics"] == 200_000
    assert not list((tmp_path / ".advlog/run/spool").glob("*.spool"))
    assert recover(tmp_path) == []
    assert [finding for finding in verify(tmp_path) if not finding.explained] == []


def test_an_interrupt_ends_a_flush_that_waits(tmp_path: Path):
    done = run_script(
        """
        # A text sink whose disk hangs: a drain that is stopped in C.
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
        held = log._session._drain.flush
        from advlog_fast._native import lib
        drain = log._session._drain
        drain._ending = True
        lib.advlog_drain_stop(drain._drain)
        time.sleep(1.5)  # the drain's thread is over: nothing is drained any more
        log_batches(log, 1, 10)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        try:
            log.flush(60)
        except KeyboardInterrupt:
            print(time.monotonic() - began < 20, flush=True)
        os._exit(0)
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr


def test_a_logger_that_is_collected_under_a_logging_lock_hangs_nobody(tmp_path: Path):
    """A record is written under its handler's lock, and the collector may end a logger there; meanwhile another thread
    holds the lock of the logging module and wants the handler's, as `logging.config` does."""
    done = run_script(
        """
        import gc, logging
        class Collecting(logging.Handler):
            def emit(self, record):
                inside.set()
                time.sleep(0.5)
                lost.clear()
                gc.collect()
        inside, handler = threading.Event(), Collecting()
        user = logging.Logger("user")
        user.addHandler(handler)
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, capture_logging=True)
        lost = [log]
        del log
        def configure():
            inside.wait()
            with logging._lock:
                handler.acquire()
                handler.release()
        other = threading.Thread(target=configure)
        other.start()
        began = time.monotonic()
        user.warning("x")
        other.join()
        print(time.monotonic() - began < 5)
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr
    assert json.loads((tmp_path / "run_summary.json").read_text())["status"] == "completed"


# ---- processes ----


def test_hosts_whose_boot_is_hidden_are_told_apart_by_name(monkeypatch: pytest.MonkeyPatch):
    from advlog_fast import _processes

    monkeypatch.setattr(_processes, "boot_id", lambda: bytes(16))
    hidden = bytes(16).hex()
    assert _processes.is_this_boot(hidden, os.uname().nodename)
    assert not _processes.is_this_boot(hidden, "another")
    assert os.uname().nodename in _processes.machine_id()


def test_a_copy_of_the_whole_log_folder_by_its_own_process_frees_no_lock(tmp_path: Path):
    log_dir = tmp_path / "logs"
    with start(log_dir) as log:
        log.log_batch_progress(1, 1, None, 0.5)
        shutil.copytree(log_dir, tmp_path / "copy")
        done = run_script("AdvancedLogger(LOG_DIR, 'run', console='off', parquet=False)", log_dir)
        assert "RunBusyError" in done.stderr
        for batch in range(2, 201):
            log.log_batch_progress(1, batch, None, 0.5)
    assert batches(log_dir) == list(range(1, 201))


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_threads_that_log_end_with_nothing_of_ours_left(tmp_path: Path):
    log = start(tmp_path)
    log.log_batch_progress(1, 1, None, 0.5)
    log.close()
    until(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("advlog-")])


def test_an_interrupt_of_a_start_that_waits_for_another_process_is_heeded(tmp_path: Path):
    start(tmp_path).close()
    holder = f"""
import sys, time
from pathlib import Path
from advlog_fast._locks import RECOVERING, FileLock
lock = FileLock(Path({str(RunPaths(tmp_path, "run").lock)!r}), RECOVERING)
print("locked", flush=True)
time.sleep(60)
"""
    holding = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE, text=True)
    try:
        assert holding.stdout is not None
        assert holding.stdout.readline() == "locked\n"
        done = run_script(
            """
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
            began = time.monotonic()
            try:
                AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
            except KeyboardInterrupt:
                print(time.monotonic() - began < 5, [t.name for t in threading.enumerate() if "advlog" in t.name])
            """,
            tmp_path,
        )
        assert done.stdout == "True []\n", done.stderr
    finally:
        holding.kill()
        holding.communicate()


def test_a_run_whose_end_was_not_complete_can_be_started_by_another_process(tmp_path: Path):
    """Its owner lives, and holds the ring for a recovery, but logs no more."""
    log = start(tmp_path)
    for batch in range(1, 30_001):
        log.log_batch_progress(1, batch, None, 0.5)
    if log.close(0):
        pytest.skip("the disk was quicker than nothing")
    done = run_script("print(AdvancedLogger(LOG_DIR, 'run', console='off', parquet=False).attempt)", tmp_path)
    assert done.stdout == "2\n", done.stderr


# ---- starts that are the user's good right ----


def test_a_log_folder_behind_a_link_holds_everything(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "disk")
    with AdvancedLogger(tmp_path / "logs", "run", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert log.close()
    assert list((tmp_path / "disk/run_metrics.parquet/attempt=1").glob("*.parquet"))


def test_a_log_folder_of_another_users_that_all_may_write_holds_everything(tmp_path: Path):
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    tmp_path.chmod(0o1777)
    for folder in (tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    done = run_script(
        """
        import tempfile
        with AdvancedLogger(tempfile.mkdtemp(), "run", console="off") as log:  # imports what nobody may read later
            log_batches(log, 1, 10)
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        log = AdvancedLogger(LOG_DIR, "run", console="off")
        log_batches(log, 1, 10)
        print(log.close())
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr
    assert list((tmp_path / "run_metrics.parquet/attempt=1").glob("*.parquet"))


@pytest.mark.parametrize("when", ["between", "killed", "running"])
def test_a_backup_by_hard_links_hinders_nothing(tmp_path: Path, when: str):
    """As rsnapshot and `cp -al` make it; what it holds is not written any more."""
    log_dir, rings, backup = tmp_path / "logs", tmp_path / "rings", tmp_path / "backup"
    options = f"parquet=False, max_log_files=2, ring_dir={str(rings)!r}"
    killed_run(log_dir, options=options)
    if when == "between":
        start(log_dir, ring_dir=rings).close()
    log = start(log_dir, ring_dir=rings) if when == "running" else None
    subprocess.run(["cp", "-al", tmp_path / "logs", backup], check=True)
    subprocess.run(["cp", "-al", rings, tmp_path / "rings-backup"], check=True)
    if log is not None:
        log.close()
    kept = {
        name: content for name, content in tree(backup).items() if name.endswith((".lock", "main.log", "errors.log"))
    }
    for _ in range(2):
        start(log_dir, ring_dir=rings, max_log_files=2).close()
    assert recover(log_dir) == []
    assert batches(log_dir) == list(range(1, 11))
    assert len(list(log_dir.glob("run_main.log*"))) == 2
    if when != "running":
        assert {name: (backup / name).read_bytes() for name in kept} == kept


@pytest.mark.parametrize("before", ["nothing", "a killed run"])
def test_a_logger_can_be_made_while_the_lock_of_logging_is_held(tmp_path: Path, before: str):
    """As by a handler that `logging.config` makes."""
    if before == "a killed run":
        killed_run(tmp_path, options="part_rows=5")
    done = run_script(
        """
        import logging
        with logging._lock:
            log = AdvancedLogger(LOG_DIR, "run", console="off", capture_logging=True)
        logging.getLogger("user").warning("captured")
        print(log.close())
        """,
        tmp_path,
        timeout_s=30,
    )
    assert done.stdout == "True\n", done.stderr
    assert "captured" in (tmp_path / "run_main.log").read_text()


def test_files_have_the_users_umask(tmp_path: Path):
    before = os.umask(0o002)
    try:
        with AdvancedLogger(tmp_path, "run", console="off") as log:
            log.log_batch_progress(1, 1, 1, 0.5)
    finally:
        os.umask(before)
    shared = [*tmp_path.rglob("*.parquet/*/*"), tmp_path / "run_summary.json", tmp_path / ".advlog/run/run.json"]
    assert len(shared) > 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in shared} == {0o664}


def test_what_lies_beside_the_rings_of_children_holds_no_end_up(tmp_path: Path):
    log = start(tmp_path, ring_dir=tmp_path / "rings")
    folder = Path(f"{log.health().ring_path}.workers")
    mine = [folder / "1-deadbeef.ring", folder / "photo.jpg"]
    for file in mine:
        file.write_bytes(PRECIOUS)
    began = time.monotonic()
    assert log.close(20)
    assert time.monotonic() - began < 5
    assert sorted(path.read_bytes() for path in (tmp_path / "rings").rglob("*") if path.is_file()) == [PRECIOUS] * 2


def test_a_note_with_a_relative_path_leads_on_from_where_the_run_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Earlier versions noted `ring_dir` as it was given."""
    log_dir = tmp_path / "logs"
    killed_run(log_dir, options=f"parquet=False, ring_dir={str(tmp_path / 'rings')!r}")
    file = RunPaths(log_dir, "run").ring_note(1)
    note = RingNote.read(file)
    assert note.path is not None
    dataclasses.replace(note, path=os.path.relpath(note.path, tmp_path)).write(file)
    assert recover(log_dir)[0].outcome == "incomplete"
    monkeypatch.chdir(tmp_path)
    assert recover(log_dir)[0].outcome == "recovered"
    assert batches(log_dir) == list(range(1, 11))


def test_a_thousand_loggers_with_handled_signals_end_by_a_signal(tmp_path: Path):
    done = run_script(
        """
        for number in range(1100):
            AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, jsonl=False, handle_signals=True).close()
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, handle_signals=True)
        log_batches(log, 1, 10)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGTERM
    assert json.loads((tmp_path / "run_summary.json").read_text())["status"] == "interrupted"


def test_a_handler_of_the_users_between_two_of_ours_runs_once(tmp_path: Path):
    done = run_script(
        """
        first = AdvancedLogger(LOG_DIR, "first", console="off", parquet=False, handle_signals=True)
        ours = signal.getsignal(signal.SIGTERM)
        def mine(number, frame):
            print("mine", flush=True)
            ours(number, frame)
        signal.signal(signal.SIGTERM, mine)
        second = AdvancedLogger(LOG_DIR, "second", console="off", parquet=False, handle_signals=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(20)
        """,
        tmp_path,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "mine\n"), done.stderr
    for name in ("first", "second"):
        assert json.loads((tmp_path / f"{name}_summary.json").read_text())["status"] == "interrupted"


def test_a_forked_child_with_a_logger_of_its_own_heeds_its_signal(tmp_path: Path):
    done = run_script(
        """
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, handle_signals=True)
        child = os.fork()
        if child == 0:
            mine = AdvancedLogger(LOG_DIR, "child", console="off", parquet=False, handle_signals=True)
            log_batches(mine, 1, 10)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        tmp_path,
    )
    assert done.stdout == f"{-signal.SIGTERM}\n", done.stderr
    assert json.loads((tmp_path / "child_summary.json").read_text())["status"] == "interrupted"


def test_an_end_of_training_is_waited_for_where_a_close_has_no_time(tmp_path: Path):
    log = start(tmp_path, close_timeout_s=0)
    log.log_batch_progress(1, 1, None, 0.5)
    log.end_training()
    assert json.loads((tmp_path / "run_summary.json").read_text())["status"] == "completed"
    log.close(10)


def test_a_lock_that_nobody_got_is_free(tmp_path: Path):
    """As where an interrupt comes between its making and the store of it."""
    path = tmp_path / "lock"
    FileLock(path)
    assert not FileLock.held_here(path)
    FileLock(path).release()


def test_rotated_files_are_counted_without_what_else_has_such_a_name(tmp_path: Path):
    for number in (1, 2):
        (tmp_path / f"run_main.log.{number}").symlink_to(tmp_path / "elsewhere")
    for _ in range(5):
        start(tmp_path, max_log_files=3).close()
    ours = [path for path in tmp_path.glob("run_main.log*") if not path.is_symlink()]
    assert sorted(path.name for path in ours) == ["run_main.log", "run_main.log.3", "run_main.log.4"]


# ---- compaction ----


def test_what_comes_into_a_dataset_while_it_is_compacted_is_kept_beside_what_was_there(tmp_path: Path):
    two_attempts(tmp_path)
    dataset, left = tmp_path / "run_metrics.parquet", tmp_path / ".advlog/run/compact/metrics"
    (dataset / "attempt=notes.txt").write_bytes(PRECIOUS)
    left.mkdir(parents=True)
    for folder in (dataset, left):
        (folder / "_metadata").write_bytes(str(folder).encode())
    compact(tmp_path, "run")
    assert {path.name for path in dataset.iterdir()} == {
        "_metadata",
        "_metadata.1",
        "attempt=1",
        "attempt=2",
        "attempt=notes.txt",
    }
    assert (dataset / "_metadata.1").read_bytes() == str(left).encode()
    assert not left.exists()


def two_attempts(log_dir: Path, name: str = "run") -> None:
    for batch in (1, 2):
        with AdvancedLogger(log_dir, name, console="off", part_rows=1) as log:
            log.log_batch_progress(1, batch, None, 0.5)
            log.log_metrics({"late": 1.0})


def test_a_compaction_loses_nothing_that_the_user_keeps_in_the_dataset(tmp_path: Path):
    two_attempts(tmp_path)
    two_attempts(tmp_path, "other")
    dataset = tmp_path / "run_metrics.parquet"
    (tmp_path / "other_metrics.parquet").rename(dataset / "other")
    shutil.copytree(dataset / "attempt=1", dataset / "backup")
    (dataset / "empty").mkdir()
    (dataset / "private").mkdir(mode=0o700)
    (dataset / "attempt=1/notes").mkdir()
    (dataset / "attempt=1/notes/file").write_bytes(PRECIOUS)
    (dataset / "link").symlink_to(tmp_path)
    dataset.chmod(0o750)
    (dataset / "attempt=1").chmod(0o700)

    def looked_at() -> dict[str, object]:
        paths = [path for path in dataset.rglob("*") if "attempt=1" not in path.parts or "notes" in path.parts]
        paths = [path for path in paths if path.parent.name != "attempt=2" or "other" in path.parts]
        return {str(path): (path.lstat().st_mode, path.read_bytes() if path.is_file() else b"") for path in paths}

    before = looked_at()
    compact(tmp_path, "run")
    assert looked_at() == before
    assert [stat.S_IMODE(path.stat().st_mode) for path in (dataset, dataset / "attempt=1")] == [0o750, 0o700]


@pytest.mark.parametrize("folder", ["compact", "compact/metrics"])
def test_a_compaction_follows_no_link(tmp_path: Path, folder: str):
    log_dir, mine = tmp_path / "logs", tmp_path / "mine"
    two_attempts(log_dir)
    (mine / "metrics/sub").mkdir(parents=True)
    (mine / "metrics/sub/file").write_bytes(PRECIOUS)
    planted = log_dir / ".advlog/run" / folder
    planted.parent.mkdir(exist_ok=True)
    planted.symlink_to(mine)
    with pytest.raises(OSError, match="expected a folder or nothing, got a symbolic link"):
        compact(log_dir, "run")
    assert tree(mine) == {"metrics/sub/file": PRECIOUS}


def test_an_attempts_folder_that_is_a_link_is_named_before_anything_is_done(tmp_path: Path):
    two_attempts(tmp_path)
    attempt = tmp_path / "run_metrics.parquet/attempt=1"
    attempt.rename(tmp_path / "elsewhere")
    attempt.symlink_to(tmp_path / "elsewhere")
    before = tree(tmp_path / "elsewhere")
    for _ in range(2):
        with pytest.raises(OSError, match=r"expected a folder or nothing, got a symbolic link.*attempt=1"):
            compact(tmp_path, "run")
    assert tree(tmp_path / "elsewhere") == before
