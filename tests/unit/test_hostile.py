"""Surroundings that no logger should be in, and what it keeps there all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, read_jsonl
from advlog_fast.recovery import recover
from advlog_fast.verification import verify


def run_script(code: str, log_dir: Path, **options: object) -> subprocess.CompletedProcess[str]:
    script = f"import os\nfrom advlog_fast import AdvancedLogger\nLOG_DIR = {str(log_dir)!r}\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", script], timeout=180, capture_output=True, text=True, **options)  # type: ignore[call-overload,no-any-return]


def test_a_stray_write_to_a_closed_standard_stream_reaches_no_file_of_ours(tmp_path: Path):
    run_script(
        """
        for fd in (0, 1, 2):
            os.close(fd)
        with AdvancedLogger(LOG_DIR, "run", console="off") as log:
            for batch in range(1, 1001):
                log.log_batch_progress(1, batch, 1000, 0.5)
                if batch % 100 == 0:
                    os.write(2, b"a library warns" * 100)
        """,
        tmp_path,
    )
    rows = read_jsonl(tmp_path / "run_metrics.jsonl")
    assert [(row["attempt"], row["rank"], row["batch"]) for row in rows] == [(1, 0, n) for n in range(1, 1001)]
    assert not [finding for finding in verify(tmp_path) if not finding.explained]


def test_loggers_of_one_run_made_by_many_threads_at_once_supersede_one_another_and_lose_nothing(tmp_path: Path):
    ready = threading.Barrier(6)
    failures: list[BaseException] = []

    def one(number: int) -> None:
        try:
            ready.wait()
            log = AdvancedLogger(tmp_path, "run", console="off")
            for _ in range(200):
                log.log_batch_progress(number, 1, None, 0.5)
            log.close()
        except RuntimeWarning:
            pass  # superseded in the middle: the rest is counted
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert not [finding for finding in verify(tmp_path) if not finding.explained]
    attempts = {row["attempt"] for row in read_jsonl(tmp_path / "run_metrics.jsonl")}
    assert max(attempts) == 6


@pytest.mark.parametrize("timeout", [float("nan"), float("inf"), -1, 1e300])
def test_a_timeout_out_of_range_raises_and_the_logger_stays_open(tmp_path: Path, timeout: float):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        for call in (log.close, log.flush):
            with pytest.raises(ValueError, match=r"^timeout: expected seconds"):
                call(timeout)
        log.log_batch_progress(1, 1, 1, 0.5)
        assert log.flush()
    assert len(read_jsonl(tmp_path / "run_metrics.jsonl")) == 1


def test_two_threads_that_close_are_told_the_same(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "run", console="off")
    for batch in range(20_000):
        log.log_batch_progress(1, batch, None, 0.5)
    said: list[bool] = []
    threads = [threading.Thread(target=lambda: said.append(log.close())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == [True] * 4
    assert log.health().pending == 0


def test_a_close_that_had_no_time_does_not_later_say_that_it_was_complete(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "run", console="off")
    for batch in range(30_000):
        log.log_batch_progress(1, batch, None, 0.5)
    first = log.close(0)
    assert log.close(5) == first


def test_a_copy_of_the_log_folder_by_its_own_process_loses_no_lock(tmp_path: Path):
    """With POSIX record locks, a process that opens and closes a lock's file frees the lock that it holds."""
    log_dir = tmp_path / "logs"
    with AdvancedLogger(log_dir, "run", console="off", ring_dir=log_dir / "rings") as log:
        log.log_batch_progress(1, 1, 2, 0.5)
        shutil.copytree(log_dir, tmp_path / "copy")
        done = subprocess.run(
            [sys.executable, "-m", "advlog_fast", "recover", str(log_dir)], capture_output=True, text=True, timeout=180
        )
        assert f"alive; held by pid {os.getpid()}" in done.stdout
        start = [sys.executable, "-c", f"from advlog_fast import AdvancedLogger as L; L({str(log_dir)!r}, 'run')"]
        refused = subprocess.run(start, capture_output=True, text=True, timeout=180)
        assert f"logged by another live process: pid {os.getpid()}" in refused.stderr
        log.log_batch_progress(1, 2, 2, 0.25)
    assert [row["loss"] for row in read_jsonl(log_dir / "run_metrics.jsonl")] == [0.5, 0.25]


def test_an_attempt_is_numbered_after_those_whose_parts_stand_although_the_claims_are_gone(tmp_path: Path):
    for _ in range(2):
        with AdvancedLogger(tmp_path, "run", console="off") as log:
            log.log_batch_progress(1, 1, 1, 0.5)
    shutil.rmtree(tmp_path / ".advlog")
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        assert log.attempt == 3
    assert [row["attempt"] for row in read_jsonl(tmp_path / "run_metrics.jsonl")] == [1, 2, 3]
    assert recover(tmp_path) == []


def test_a_child_forked_while_a_thread_makes_loggers_can_make_its_own(tmp_path: Path):
    done = run_script(
        """
        import threading
        # First, since an import that a fork interrupts hangs the child in the interpreter itself.
        AdvancedLogger(LOG_DIR, "first", console="off", parquet=False).close()
        stop = threading.Event()
        def make():
            number = 0
            while not stop.is_set():
                number += 1
                AdvancedLogger(LOG_DIR, f"mine{number}", console="off", parquet=False).close()
        thread = threading.Thread(target=make)
        thread.start()
        failed = 0
        for number in range(20):
            child = os.fork()
            if child == 0:
                import faulthandler
                faulthandler.dump_traceback_later(20, exit=True)
                log = AdvancedLogger(LOG_DIR, f"child{number}", console="off", parquet=False)
                log.log_batch_progress(1, 1, 1, 0.5)
                os._exit(0 if log.close() else 1)
            failed += os.waitpid(child, 0)[1] != 0
        stop.set()
        thread.join()
        print(failed)
        """,
        tmp_path,
    )
    assert done.stdout == "0\n", done.stderr
