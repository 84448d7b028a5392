"""Starts and ends that are the user's good right, and those that are heeded when they are interrupted."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile_runs import PRECIOUS, batches, killed_run, run_script, start, tree, until

from advlog_fast import AdvancedLogger
from advlog_fast.recovery import recover
from advlog_fast.store.locks import FileLock
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ring_note import RingNote


def test_hosts_whose_boot_is_hidden_are_told_apart_by_name(monkeypatch: pytest.MonkeyPatch):
    from advlog_fast.store import processes

    monkeypatch.setattr(processes, "boot_id", lambda: bytes(16))
    hidden = bytes(16).hex()
    assert processes.is_this_boot(hidden, os.uname().nodename)
    assert not processes.is_this_boot(hidden, "another")
    assert os.uname().nodename in processes.machine_id()


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
from advlog_fast.store.locks import RECOVERING, FileLock
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
                print(time.monotonic() - began < 20, [t.name for t in threading.enumerate() if "advlog" in t.name])
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


def test_a_log_folder_behind_a_link_holds_everything(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "disk")
    with AdvancedLogger(tmp_path / "logs", "run", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert log.close()
    assert list((tmp_path / "disk/run_metrics.parquet/attempt-1").glob("*.parquet"))


@pytest.fixture
def everybodys() -> Iterator[Path]:
    """Not below pytest's own folders: every pytest that begins closes those to other users."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder)


def test_a_log_folder_of_another_users_that_all_may_write_holds_everything(everybodys: Path):
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
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
        everybodys,
    )
    assert done.stdout == "True\n", done.stderr
    assert list((everybodys / "run_metrics.parquet/attempt-1").glob("*.parquet"))


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
    assert time.monotonic() - began < 15
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
