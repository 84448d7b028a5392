"""What others do to the files while a run writes them, and how the process's own end is noticed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, read_jsonl, read_run
from advlog_fast.recovery import recover
from advlog_fast.sinks.base import OpenFile, is_file
from advlog_fast.store.paths import RunPaths
from advlog_fast.verification import verify


def wait_until(true: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """The watch comes once a second; the limit only ends a test that hangs."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def log_batches(log: AdvancedLogger, first: int, last: int) -> None:
    for batch in range(first, last + 1):
        log.log_batch_progress(1, batch, None, batch / 8)
    assert log.flush()


def batches(path: Path) -> list[int]:
    return [row["batch"] for row in read_jsonl(path)]


def main_log(log_dir: Path) -> str:
    return (log_dir / "run_main.log").read_text()


@pytest.mark.parametrize("name", ["run_metrics.jsonl", "run_training.log"])
def test_a_log_file_that_is_removed_is_left_for_a_new_one_and_its_records_are_counted(tmp_path: Path, name: str):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log_batches(log, 1, 10)
        (tmp_path / name).unlink()
        wait_until((tmp_path / name).exists, "no new file was begun")
        log_batches(log, 11, 15)
    assert f"{name} was removed or replaced" in main_log(tmp_path)
    if name.endswith("jsonl"):
        assert batches(tmp_path / name) == [11, 12, 13, 14, 15]
        sink = log.health().sinks["metrics_jsonl"]
    else:
        assert (tmp_path / name).read_text().count(" batch=") == 5
        sink = log.health().sinks["text"]
    assert (sink.vanished, sink.pending, sink.dropped) == (10, 0, 0)
    assert read_run(tmp_path, "run").metrics.num_rows == 15


def test_a_log_file_that_a_logrotate_moved_is_kept_and_a_new_one_begun(tmp_path: Path):
    path = tmp_path / "run_metrics.jsonl"
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log_batches(log, 1, 10)
        path.rename(tmp_path / "run_metrics.jsonl.1")
        path.touch()
        wait_until(
            lambda: len(os.listdir(tmp_path / ".advlog" / "run" / "tmp")) == 0 and "replaced" in main_log(tmp_path),
            "not seen",
        )
        log_batches(log, 11, 15)
    assert batches(path) == list(range(1, 16))
    assert log.health().sinks["metrics_jsonl"].vanished == 0


def remove(folder: Path) -> None:
    """Removes a folder in which the logger may make files at any moment."""
    for _ in range(100):
        try:
            return shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise
    raise AssertionError("it is never empty")


def test_a_log_directory_that_is_removed_is_made_again_and_what_follows_is_kept(tmp_path: Path):
    log_dir = tmp_path / "logs"
    with AdvancedLogger(log_dir, "run", console="off") as log:
        log_batches(log, 1, 10)
        remove(log_dir)
        wait_until((log_dir / "run_metrics.jsonl").exists, "no new file was begun")
        wait_until(lambda: bool(list(log_dir.glob(".advlog/run/spool/metrics-*"))), "no new spool was begun")
        log_batches(log, 11, 15)
    assert batches(log_dir / "run_metrics.jsonl") == [11, 12, 13, 14, 15]
    assert sorted(read_run(log_dir, "run").metrics["batch"].to_pylist()) == [11, 12, 13, 14, 15]
    health = log.health()
    assert health.sinks["metrics_jsonl"].vanished == 10
    assert health.sinks["metrics_parquet"].vanished == 10
    assert json.loads((log_dir / "run_summary.json").read_text())["status"] == "completed"


def test_a_folder_that_a_rotation_makes_again_is_not_taken_for_the_one_that_was_removed(tmp_path: Path):
    """Nothing but the note leads a recovery to the ring."""
    log_dir = tmp_path / "logs"
    paths = RunPaths(log_dir, "run")
    with AdvancedLogger(log_dir, "run", console="off", max_log_size=2000, max_log_files=99, part_rows=20) as log:
        log_batches(log, 1, 15)  # the next files are open by now
        log._session.shielded(lambda: None)  # nobody else writes into the folder: the first summary is there
        remove(log_dir)
        log_batches(log, 16, 100)
        wait_until(paths.ring_note(log.attempt).exists, "the ring is not noted any more")
        assert (paths.private / "run.json").exists()


def test_a_descriptor_that_the_program_closed_is_left_to_whoever_has_its_number_now(tmp_path: Path):
    path = tmp_path / "run_metrics.jsonl"
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        log_batches(log, 1, 10)
        (fd,) = (int(fd) for fd in os.listdir("/proc/self/fd") if is_link_to(f"/proc/self/fd/{fd}", path))
        os.close(fd)
        with (tmp_path / "users").open("w") as users:
            assert users.fileno() == fd
            wait_until(lambda: "was closed by another part" in main_log(tmp_path), "not seen")
            log_batches(log, 11, 12)
            wait_until(lambda: not is_link_to(f"/proc/self/fd/{fd}", path) and batches(path) != [], "no new file")
            log_batches(log, 13, 15)
            users.write("mine")
        assert (tmp_path / "users").read_text().endswith("mine")
    assert batches(path)[-3:] == [13, 14, 15]


def test_a_control_plane_file_whose_descriptor_the_program_closed_is_opened_again(tmp_path: Path):
    path = tmp_path / "run_events.jsonl"
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        log.log_event("before")
        (fd,) = (int(fd) for fd in os.listdir("/proc/self/fd") if is_link_to(f"/proc/self/fd/{fd}", path))
        os.close(fd)
        with (tmp_path / "users").open("w"):
            log.log_event("after")
    assert [row["event"] for row in map(json.loads, path.read_text().splitlines())].count("after") == 1
    assert (tmp_path / "users").read_text() == ""


def is_link_to(link: str, path: Path) -> bool:
    try:
        return os.readlink(link) == str(path)
    except OSError:
        return False


def test_a_file_that_cannot_be_looked_at_is_not_taken_for_one_that_is_gone(tmp_path: Path):
    standing = tmp_path / "file"
    standing.touch()
    found = standing.stat()
    file = OpenFile(-1, found.st_dev, found.st_ino, 1, standing)
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert is_file(standing, file)
    assert not is_file(tmp_path / "another", file)
    with pytest.raises(OSError, match="symbolic links"):
        is_file(loop / "file", file)


def test_rotation_keeps_the_only_copy_of_what_parquet_has_dropped(tmp_path: Path):
    options = {"ring_bytes": 64 * 1024, "max_log_size": 20_000, "max_log_files": 2, "part_rows": 100}
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0, **options) as log:  # type: ignore[arg-type]

        def dropping() -> bool:
            return log.health().sinks["metrics_parquet"].set_aside

        log_batches(log, 1, 120)
        third = RunPaths(tmp_path, "run").spool("metrics", log.attempt, 3)
        third.write_text("in the way of the spool after the current one")
        last = 120
        while not dropping() or last < 1000:
            last += 1
            log.log_batch_progress(1, last, None, last / 8)
        third.unlink()
        while dropping():
            last += 1
            log.log_batch_progress(1, last, None, last / 8)
            assert not log.flush(), "while one of the files lacks records"
        for more in range(1500):
            log.log_batch_progress(1, last + 1 + more, None, last / 8)
        last += 1500
        assert not log.flush()
    assert not log.close()
    assert log.health().sinks["metrics_parquet"].dropped > 0
    assert log.health().sinks["metrics_jsonl"].expired > 0
    lines = set(batches(tmp_path / "run_metrics.jsonl"))
    rows = set(read_run(tmp_path, "run").metrics["batch"].to_pylist())
    assert lines | rows == set(range(1, last + 1))


def test_a_ring_that_is_removed_is_said_once_and_logging_goes_on(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        ring = log.health().ring_path
        assert ring is not None
        os.unlink(ring)
        wait_until(lambda: "a SIGKILL would now lose" in main_log(tmp_path), "it was not said")
        time.sleep(1.5)  # two more looks of the watch
        log_batches(log, 1, 5)
    assert main_log(tmp_path).count("a SIGKILL would now lose") == 1
    assert batches(tmp_path / "run_metrics.jsonl") == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("kind", ["directory", "fifo", "link"])
def test_a_log_path_that_is_no_regular_file_is_refused(tmp_path: Path, kind: str):
    path = tmp_path / "run_metrics.jsonl"
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null")
    with pytest.raises(OSError, match=r"log_dir: expected .*run_metrics\.jsonl: expected a regular file"):
        AdvancedLogger(tmp_path, "run", console="off")


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_every_record_is_written_whatever_is_synced(tmp_path: Path, fsync: str):
    with AdvancedLogger(tmp_path, "run", console="off", fsync=fsync, max_log_size=20_000, max_log_files=99) as log:
        log_batches(log, 1, 2000)
    assert batches(tmp_path / "run_metrics.jsonl") == list(range(1, 2001))


def run_script(code: str, log_dir: Path) -> subprocess.CompletedProcess[str]:
    script = f"from advlog_fast import AdvancedLogger\nLOG_DIR = {str(log_dir)!r}\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)


def test_uncaught_exceptions_are_written_and_the_hooks_before_still_run(tmp_path: Path):
    done = run_script(
        """
        import sys, threading
        sys.excepthook = lambda *about: print("main hook", about[1])
        threading.excepthook = lambda args: print("thread hook", args.exc_value)
        log = AdvancedLogger(LOG_DIR, "run", console="off")
        def fail():
            raise ValueError("in a thread")
        thread = threading.Thread(target=fail, name="worker")
        thread.start()
        thread.join()
        raise RuntimeError("at the end")
        """,
        tmp_path,
    )
    assert done.stdout.splitlines() == ["thread hook in a thread", "main hook at the end"]
    assert done.returncode == 1
    errors = (tmp_path / "run_errors.log").read_text()
    assert 'operation="uncaught exception in thread worker"' in errors
    assert 'type=RuntimeError message="at the end"' in errors
    summary = json.loads((tmp_path / "run_summary.json").read_text())
    assert (summary["status"], summary["total_errors"]) == ("failed", 2)


def test_the_hooks_go_with_the_last_logger(tmp_path: Path):
    before = sys.excepthook, threading.excepthook
    with AdvancedLogger(tmp_path, "one", console="off"), AdvancedLogger(tmp_path, "two", console="off"):
        assert sys.excepthook is not before[0]
    assert (sys.excepthook, threading.excepthook) == before


@pytest.mark.parametrize("user_handler", [False, True])
def test_sigterm_closes_in_order_where_that_is_asked_for_and_is_handed_on(tmp_path: Path, user_handler: bool):
    done = run_script(
        f"""
        import os, signal, sys
        if {user_handler}:
            signal.signal(signal.SIGTERM, lambda *_: (print("user's handler"), sys.exit(7)))
        log = AdvancedLogger(LOG_DIR, "run", console="off", handle_signals=True)
        for batch in range(1, 101):
            log.log_batch_progress(1, batch, 100, 0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        """,
        tmp_path,
    )
    assert done.returncode == (7 if user_handler else -signal.SIGTERM)
    assert done.stdout == ("user's handler\n" if user_handler else "")
    assert batches(tmp_path / "run_metrics.jsonl") == list(range(1, 101))
    summary = json.loads((tmp_path / "run_summary.json").read_text())
    assert (summary["status"], summary["total_metrics"]) == ("interrupted", 100)


def test_no_signal_handler_is_installed_unless_asked_for(tmp_path: Path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    with AdvancedLogger(tmp_path, "run", console="off"):
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before


def test_a_signal_handler_may_log_in_the_middle_of_every_call(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        handled = 0

        def handler(number: int, frame: object) -> None:
            nonlocal handled
            handled += 1
            log.log_batch_progress(2, handled, None, 0.5)
            log.log_event("signal", count=handled)

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        try:
            for batch in range(1, 301):
                log.log_batch_progress(1, batch, None, 0.25)
                log.log_event("loop", count=batch)
                log.get_training_summary()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
    rows = read_jsonl(tmp_path / "run_metrics.jsonl")
    assert [row["batch"] for row in rows if row["epoch"] == 1] == list(range(1, 301))
    assert [row["batch"] for row in rows if row["epoch"] == 2] == list(range(1, handled + 1))
    assert handled > 0


def test_of_a_thread_that_logs_while_another_closes_no_record_is_taken_after_one_was_refused(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "run", console="off", overflow_timeout_s=None)
    begun = threading.Event()

    def produce() -> None:
        for batch in range(1, 1 << 31):
            if batch % 2:
                log.log_batch_progress(1, batch, None, 0.5)
            else:
                log.log_batch_progress(1, batch, None, 0.5, by_way_of_python={"value": 0.5})
            begun.set()
            if log.health().dropped_at_entry["closed"] > 100:
                return

    thread = threading.Thread(target=produce)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "this logger was closed", RuntimeWarning)
        thread.start()
        assert begun.wait(20)
        assert log.close()
        thread.join()
    taken = batches(tmp_path / "run_metrics.jsonl")
    assert taken == list(range(1, len(taken) + 1))


def test_closing_while_other_threads_log_loses_nothing_that_was_accepted(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "run", console="off", overflow_timeout_s=None)
    accepted = [0, 0, 0, 0]
    ready = threading.Barrier(5)

    def produce(worker: int) -> None:
        ready.wait()
        for batch in range(1, 200_000):
            log.log_batch_progress(worker, batch, None, 0.5)
            if log.health().status != "running" or log._session.closed:  # type: ignore[union-attr]
                return
            accepted[worker] = batch

    threads = [threading.Thread(target=produce, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    ready.wait()
    time.sleep(0.2)
    with pytest.warns(RuntimeWarning, match=r"closed|after close"):
        assert log.close()
        log.log_batch_progress(9, 9, 9, 9.0)
    for thread in threads:
        thread.join()
    rows = read_jsonl(tmp_path / "run_metrics.jsonl")
    for worker in range(4):
        mine = [row["batch"] for row in rows if row["epoch"] == worker]
        assert mine == list(range(1, len(mine) + 1))
        assert len(mine) >= accepted[worker] > 0
    health = log.health()
    assert health.offered == health.accepted + sum(health.dropped_at_entry.values())
    assert all(sink.accepted == sink.written + sink.dropped for sink in health.sinks.values())


def test_where_the_account_cannot_be_written_the_ring_stays_and_a_recovery_makes_it(tmp_path: Path, run_python):
    code = """
import errno
import advlog_fast.session.closing as closing
from advlog_fast import AdvancedLogger
def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
log = AdvancedLogger("logs", "run", console="off", parquet=False)
for batch in range(1, 11):
    log.log_batch_progress(1, batch, None, 0.5)
closing.write_ledger = full
assert not log.close()
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    ledger = RunPaths(tmp_path / "logs", "run").ledger(1)
    assert not ledger.exists()
    (recovered,) = recover(tmp_path / "logs")
    assert recovered.outcome == "recovered", recovered
    assert ledger.exists()
    assert batches(tmp_path / "logs" / "run_metrics.jsonl") == list(range(1, 11))
    assert list(verify(tmp_path / "logs")) == []
    assert json.loads((tmp_path / "logs" / "run_summary.json").read_text())["status"] == "completed"
