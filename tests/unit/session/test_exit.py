"""The exit of the interpreter, and forks, where they meet the logger at an odd moment."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from advlog_fast import read_jsonl
from advlog_fast.recovery import recover
from advlog_fast.verification import verify

TIMEOUT_S = 180
"""A process that takes longer hangs; what its loggers may wait for at the end is longer still."""


def run_script(code: str, log_dir: Path) -> subprocess.CompletedProcess[str]:
    script = f"LOG_DIR = {str(log_dir)!r}\n" + textwrap.dedent(code)
    command = [sys.executable, "-W", "error", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)


def parquet_rows(log_dir: Path) -> int:
    return sum(pq.read_metadata(part).num_rows for part in (log_dir / "late_metrics.parquet").rglob("*.parquet"))


LATE = """
import atexit
{before}
def late():
    global log
    from advlog_fast import AdvancedLogger
    log = AdvancedLogger(LOG_DIR, "late", console="off", close_timeout_s=600, ring_bytes=1 << 16)
    for batch in range(1, 2001):  # more than the ring holds
        log.log_batch_progress(1, batch, 2000, 0.5)
    log.log_event("late")
    assert log.get_training_summary()["total_metrics"] == 2000
    {after}
atexit.register(late)
{last}
"""


@pytest.mark.parametrize("before", ["pass", "import threading, numpy"])
def test_a_logger_that_no_exit_handler_is_left_to_close_ends_at_once_and_is_recovered(tmp_path: Path, before: str):
    done = run_script(LATE.format(before=before, after="pass", last=""), tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert len(read_jsonl(tmp_path / "late_metrics.jsonl")) == 2000
    assert [found.outcome for found in recover(tmp_path)] == ["recovered"]
    assert parquet_rows(tmp_path) == 2000
    assert not [finding for finding in verify(tmp_path) if not finding.explained]


@pytest.mark.parametrize(
    ("before", "after", "last"),
    [("pass", "assert log.close()", ""), ("pass", "del log", ""), ("import advlog_fast", "pass", "")],
    ids=["closed", "dropped", "imported before the handler was registered"],
)
def test_a_logger_first_made_in_an_exit_handler_ends_as_any_other(tmp_path: Path, before: str, after: str, last: str):
    done = run_script(LATE.format(before=before, after=after, last=last), tmp_path)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
    assert len(read_jsonl(tmp_path / "late_metrics.jsonl")) == 2000
    assert parquet_rows(tmp_path) == 2000
    assert json.loads((tmp_path / "late_summary.json").read_text())["status"] == "completed"
    assert recover(tmp_path) == []
    assert not [finding for finding in verify(tmp_path) if not finding.explained]


def test_an_end_of_training_in_an_exit_handler_seals_what_was_logged(tmp_path: Path):
    done = run_script(LATE.format(before="pass", after="log.end_training()", last=""), tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    assert parquet_rows(tmp_path) == 2000


@pytest.mark.parametrize("closed", [True, False])
def test_destructors_that_log_at_the_very_end_say_nothing(tmp_path: Path, closed: bool):
    done = run_script(
        f"""
        import sys
        from advlog_fast import AdvancedLogger, TrainingProgressTracker
        log = AdvancedLogger(LOG_DIR, "late", console="off")
        class Trainer:
            def __init__(self):
                self.log, self.tracker, self.itself = log, TrainingProgressTracker(log), self
                self.tracker.update_progress(1, 1, 100, 1)
            def __del__(self):
                assert sys.is_finalizing()
                self.tracker.update_progress(1, 60, 100, 1)
                self.log.log_event("bye", at="the end")
                self.log.log_batch_progress(1, 1, 1, 0.5)
                self.log.log_metrics({{"x": 1.0}}, step=1)
                self.log.log_error(ValueError("late"), "end", context={{"x": 1}})
                self.log.start_epoch(2)
                self.log.end_epoch(2, {{"x": 1}})
                self.log.logger.warning("late %s", 1)
                self.log.log_memory_usage()
                with self.log.training_context("late"):
                    pass
                self.log.end_training()
                self.log.get_training_summary()
                self.log.health()
                self.log.flush()
                self.log.close()
                print("ran", file=sys.__stdout__, flush=True)
        trainer = Trainer()
        if {closed}:
            log.close()
        """,
        tmp_path,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("ran\n", "", 0)


def test_a_child_forked_while_another_thread_makes_the_first_logger_can_make_its_own(tmp_path: Path):
    done = run_script(
        """
        import faulthandler, os, sys, threading, time, warnings
        from advlog_fast import AdvancedLogger
        # Of a fork beside threads Python warns, and from 3.15 on the fork itself raises where warnings are errors.
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        inside = threading.Event()
        class Slow:
            def find_spec(self, name, path=None, target=None):
                if name in ("advlog_fast.engine.drain", "pyarrow.compute"):
                    inside.set()
                    time.sleep(0.5)
        sys.meta_path.insert(0, Slow())
        thread = threading.Thread(target=lambda: AdvancedLogger(LOG_DIR, "mine", console="off").close())
        thread.start()
        failed = []
        for number in range(2):
            inside.wait()
            inside.clear()
            child = os.fork()
            if child == 0:
                faulthandler.dump_traceback_later(20, exit=True)
                sys.meta_path.pop(0)
                log = AdvancedLogger(LOG_DIR, f"child{number}", console="off")
                log.log_batch_progress(1, 1, 1, 0.5)
                os._exit(0 if log.close() else 1)
            failed.append(os.waitpid(child, 0)[1])
        thread.join()
        print(failed)
        """,
        tmp_path,
    )
    assert done.stdout == "[0, 0]\n", done.stderr
