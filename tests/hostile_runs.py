"""What the tests share of what a logger must not do: its runs, killed ones too, and what the user has."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from advlog_fast import AdvancedLogger, read_jsonl

PRELUDE = """
import os, signal, sys, threading, time
from advlog_fast import AdvancedLogger
LOG_DIR = sys.argv[1]
def log_batches(log, first, last):
    for batch in range(first, last + 1):
        log.log_batch_progress(1, batch, None, 0.5)
def held_locks():
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").endswith(".lock"):
                found.append(int(fd))
        except FileNotFoundError:  # another thread's, closed since
            continue
    assert len(found) == 2, found
    return found
"""
PRECIOUS = b"all that I have\n" * 1000


def run_script(code: str, log_dir: Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
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


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def until(condition: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


NAMES = [
    "run_main.log",
    "run_training.log",
    "run_errors.log",
    "run_events.jsonl",
    "run_metrics.jsonl",
    "run_system.jsonl",
]
