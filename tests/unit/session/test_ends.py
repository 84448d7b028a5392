"""What the end of a run says: its status, in every file and reader, whatever ended it."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, list_runs, read_run

PRELUDE = """
import os, signal, sys, threading, time
from contextlib import suppress
from advlog_fast import AdvancedLogger
LOG_DIR = sys.argv[1]
def after(seconds, *signals):
    def send():
        time.sleep(seconds)
        for number, gap in signals:
            os.kill(os.getpid(), number)
            time.sleep(gap)
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    return sender
def train(log):
    for batch in range(100_000):
        log.log_batch_progress(1, batch, 100_000, 0.5)
        time.sleep(0.001)
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)


def summary(folder: Path) -> dict:
    found: dict = json.loads((folder / "run_summary.json").read_text())
    return found


def check_end(folder: Path, status: str) -> None:
    """The summary, the lists of runs and the last line of the training log say the same."""
    assert summary(folder)["status"] == status
    assert list_runs(folder)["status"].to_pylist() == [status]
    assert read_run(folder, "run").processes["status"].to_pylist() == [status]
    last = (folder / "run_training.log").read_text().splitlines()[-1]
    level = "INFO" if status == "completed" else "WARNING"
    assert re.fullmatch(rf"\S+ {level} attempt_end status={status} duration_s=[\d.]+", last)


@pytest.mark.parametrize("status", [None, "completed", "failed", "interrupted"])
def test_the_user_says_how_it_ended(tmp_path: Path, status: str | None):
    log = AdvancedLogger(tmp_path, "run", console="off")
    log.log_batch_progress(1, 1, 1, 0.5)
    assert log.close(status=status)
    assert log.close(status="failed"), "a second call returns what the first did, and changes nothing"
    check_end(tmp_path, status or "completed")


@pytest.mark.parametrize(
    ("ended", "closed", "status"),
    [
        (None, None, "completed"),
        ("failed", None, "failed"),
        (None, "failed", "failed"),
        ("completed", "interrupted", "interrupted"),
    ],
)
def test_what_was_said_last_holds(tmp_path: Path, ended: str | None, closed: str | None, status: str):
    log = AdvancedLogger(tmp_path, "run", console="off")
    log.log_batch_progress(1, 1, 1, 0.5)
    log.end_training({"loss": 0.5}, status=ended)
    assert log.close(status=closed)
    check_end(tmp_path, status)


@pytest.mark.parametrize("call", [AdvancedLogger.close, AdvancedLogger.end_training])
def test_a_status_that_is_none_raises_and_nothing_ends(tmp_path: Path, call):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        with pytest.raises(
            ValueError, match=r"^status: expected one of completed, failed, interrupted, got str 'done'$"
        ):
            call(log, status="done")
        log.log_batch_progress(1, 1, 1, 0.5)
    check_end(tmp_path, "completed")


def test_after_end_training_a_run_is_not_running(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    with AdvancedLogger(tmp_path, "run", console="plain") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        log.flush()
        assert list_runs(tmp_path)["status"].to_pylist() == ["running"]
        log.end_training()
        log.end_training()
        assert log.health().status == "completed"
        assert list_runs(tmp_path)["status"].to_pylist() == ["completed"]
    assert capfd.readouterr().err.count("run: completed after") == 1


def test_a_run_has_a_status_from_the_first(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log._session.shielded(lambda: None)  # after what the start has put into the queue
        assert read_run(tmp_path, "run").summary["status"] == "running"


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        ("sys.exit(3)", "failed"),
        ("sys.exit('no data')", "failed"),
        ("sys.exit(0)", "completed"),
        ("sys.exit()", "completed"),
        ("raise ValueError('x')", "failed"),
        ("os.kill(os.getpid(), signal.SIGINT); time.sleep(5)", "interrupted"),
    ],
)
def test_leaving_a_with_block_says_how(tmp_path: Path, leave: str, status: str):
    run(
        f"""
        with AdvancedLogger(LOG_DIR, "run", console="off") as log:
            log.log_batch_progress(1, 1, 1, 0.5)
            {leave}
        """,
        tmp_path,
    )
    check_end(tmp_path, status)


@pytest.mark.parametrize("gap_s", [0.0, 0.001, 0.005, 0.03])
@pytest.mark.parametrize("pending", [0, 200_000])
def test_an_impatient_second_interrupt_ends_nothing_halfway(tmp_path: Path, gap_s: float, pending: int):
    done = run(
        f"""
        log = AdvancedLogger(LOG_DIR, "run", console="off")
        with suppress(KeyboardInterrupt):  # Where the end is quicker than the gap, the second comes after it.
            with suppress(KeyboardInterrupt), log:
                for batch in range({pending}):
                    log.log_batch_progress(1, batch, 1_000_000, 0.5)
                sender = after(0.1, (signal.SIGINT, {gap_s}), (signal.SIGINT, 0))
                train(log)
            log.close()
            sender.join()
        print(log.close())
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr
    check_end(tmp_path, "interrupted")


@pytest.mark.parametrize("gap_s", [0.0, 0.001, 0.005, 0.03])
def test_a_doubled_sigterm_ends_nothing_halfway(tmp_path: Path, gap_s: float):
    done = run(
        f"""
        log = AdvancedLogger(LOG_DIR, "run", console="off", handle_signals=True)
        for batch in range(50_000):
            log.log_batch_progress(1, batch, 1_000_000, 0.5)
        after(0.1, (signal.SIGTERM, {gap_s}), (signal.SIGTERM, 0))
        train(log)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGTERM, done.stderr
    check_end(tmp_path, "interrupted")


NOTED = {
    "the default": ("", -signal.SIGTERM, "killed"),
    "a handler of Python's": ("signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(7))", 7, "completed"),
    "none": ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", 0, "completed"),
}


@pytest.mark.parametrize("before", NOTED)
def test_a_signal_that_is_only_noted_is_handed_on(tmp_path: Path, before: str):
    code, status, ended = NOTED[before]
    done = run(
        f"""
        {code}
        log = AdvancedLogger(LOG_DIR, "run", console="off", handle_signals="note")
        log.log_batch_progress(1, 1, 1, 0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        assert log.health().status == "running"
        assert [each["signal"] for each in log.get_training_summary()["signals"]] == ["SIGTERM"]
        """,
        tmp_path,
    )
    assert done.returncode == status, done.stderr
    assert list_runs(tmp_path)["status"].to_pylist() == [ended]
    events = read_run(tmp_path, "run").events.to_pylist()
    assert [row["event"] for row in events if row["event"] == "signal"] == ["signal"]
    assert [row["loss"] for row in read_run(tmp_path, "run").metrics.to_pylist()] == [0.5]


def test_a_handler_that_is_not_python_s_is_left_alone_and_that_is_said(tmp_path: Path):
    done = run(
        """
        import ctypes
        libc = ctypes.CDLL(None)
        libc.signal(signal.SIGTERM, ctypes.cast(libc.abs, ctypes.c_void_p))
        with AdvancedLogger(LOG_DIR, "run", console="off", handle_signals=True) as log:
            os.kill(os.getpid(), signal.SIGTERM)
            print("lives", signal.getsignal(signal.SIGTERM))
        """,
        tmp_path,
    )
    assert done.stdout.startswith("lives "), done.stderr
    check_end(tmp_path, "completed")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give up what lets root read everything")
@pytest.mark.parametrize("what", ["may not be entered", "is a file", "is gone"])
def test_a_log_folder_out_of_reach_ends_no_training_and_the_end_says_so(tmp_path: Path, what: str):
    spoil = {
        "may not be entered": "os.chmod(LOG_DIR, 0)",
        "is a file": "os.rename(LOG_DIR, LOG_DIR + '-away'); open(LOG_DIR, 'w').close()",
        "is gone": "import shutil; shutil.rmtree(LOG_DIR, ignore_errors=True)",
    }[what]
    folder = tmp_path / "logs"
    code = f"""
    with AdvancedLogger(LOG_DIR, "run", console="off", close_timeout_s=2) as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        log.flush()
        {spoil}
    print("the training goes on", log.close())
    """
    bare = shutil.which("setpriv")
    if bare is None:
        pytest.skip("needs setpriv (util-linux)")
    command = [bare, "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", sys.executable, "-c"]
    done = subprocess.run(
        [*command, PRELUDE + textwrap.dedent(code), str(folder)], capture_output=True, text=True, timeout=180
    )
    if folder.is_dir():
        folder.chmod(0o755)
    # What is gone may be made again, as far as the logger has a record to write.
    assert done.stdout.startswith("the training goes on " + ("" if what == "is gone" else "False\n")), done.stderr


def test_an_exit_with_a_code_that_leaves_the_with_block_is_said(tmp_path: Path):
    code = 'with AdvancedLogger(LOG_DIR, "run", console="plain", parquet=False) as log:\n    sys.exit("no data")'
    done = run(code, tmp_path)
    assert done.returncode == 1
    assert "[advlog] error: sys.exit('no data') left the run\n" in done.stderr
    assert "ERROR sys.exit('no data') left the run" in (tmp_path / "run_main.log").read_text()
    check_end(tmp_path, "failed")


def last_line(folder: Path) -> str:
    return (folder / "run_training.log").read_text().splitlines()[-1]


def test_the_last_line_says_how_it_ended_whoever_still_logs(tmp_path: Path):
    stop = threading.Event()
    log = AdvancedLogger(tmp_path, "run", console="off", parquet=False, ring_bytes=64 * 1024)

    def train() -> None:
        batch = 0
        while not stop.is_set():
            batch += 1
            log.log_batch_progress(1, batch, None, 0.5)

    threads = [threading.Thread(target=train, daemon=True) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert log.close()
        stop.set()
        for thread in threads:
            thread.join()
    assert " INFO attempt_end status=completed " in last_line(tmp_path)


def test_what_the_drain_finds_last_stands_before_the_end_and_counts_as_nothing_refused(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "run", console="off", parquet=False)
    log.log_batch_progress(1, 1, 10, math.nan)
    assert log.close()
    *_, found, _end = (tmp_path / "run_training.log").read_text().splitlines()
    assert "WARNING nonfinite metric=loss value=nan step=1" in found
    assert "attempt_end" in last_line(tmp_path)
    assert log.health().dropped_at_entry == {"full": 0, "closed": 0, "forked": 0}


MAKE = 'log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)\n'
IN_FLIGHT = {
    "close in finally": (f"{MAKE}try:\n    raise ValueError\nfinally:\n    log.close()", "failed"),
    "a Ctrl-C and close in finally": (
        f"{MAKE}try:\n    raise KeyboardInterrupt\nfinally:\n    log.close()",
        "interrupted",
    ),
    "an exit stack": (
        f"import contextlib\nwith contextlib.ExitStack() as stack:\n    {MAKE}    stack.callback(log.close)\n    1 / 0",
        "failed",
    ),
    "contextlib.closing": (f"import contextlib\n{MAKE}with contextlib.closing(log):\n    1 / 0", "failed"),
    "end_training in except": (
        f"{MAKE}try:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt:\n    log.end_training()\n    raise",
        "interrupted",
    ),
    "what is said holds": (
        f"{MAKE}try:\n    1 / 0\nexcept ZeroDivisionError:\n    log.close(status='completed')",
        "completed",
    ),
    "an exception that was dealt with": (
        f"{MAKE}try:\n    1 / 0\nexcept ZeroDivisionError:\n    pass\nlog.end_training()\nlog.close()",
        "completed",
    ),
    "a training that is begun again in except": (
        f"try:\n    1 / 0\nexcept ZeroDivisionError:\n    {MAKE}    log.end_training()\n    log.close()",
        "completed",
    ),
    "a generator that is left early": (
        f"""
def train():
    {MAKE.strip()}
    with log:
        while True:
            log.log_metrics({{'a': 1.0}})
            yield
for _ in train():
    break
""",
        "completed",
    ),
    "an exit without a code": (f"{MAKE}try:\n    sys.exit()\nfinally:\n    log.close()", "completed"),
    "an exit with a code": (f"{MAKE}try:\n    sys.exit(3)\nfinally:\n    log.close()", "failed"),
}


@pytest.mark.parametrize("case", IN_FLIGHT)
def test_an_exception_that_is_being_handled_says_how_it_ended(tmp_path: Path, case: str):
    code, status = IN_FLIGHT[case]
    run(code, tmp_path)
    assert summary(tmp_path)["status"] == status
    assert f"attempt_end status={status}" in last_line(tmp_path)
