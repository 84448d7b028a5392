"""The C core alone: programs/core.c, built once, timed, and its instructions counted."""

from __future__ import annotations

import functools
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from runs import PROGRAMS, ROOT, Record, Rounds

COUNT = 5_000_000
FEW, MANY = 1000, 11_000


def measure(rounds: Rounds, record: Record, operation: str) -> None:
    """For the benchmark of one operation."""
    program()
    times = rounds(lambda: nanoseconds(operation, COUNT), 7)
    record(ns=statistics.median(times), fastest_ns=min(times))
    if can_count():
        record(instructions=instructions(operation))


@functools.cache
def program() -> Path:
    """The program, built as setup.py builds the core."""
    target = Path(tempfile.mkdtemp(prefix="advlog-bench-")) / "core"
    sources = [path for path in sorted((ROOT / "csrc").glob("*.c")) if not path.name.startswith(("producer", "guard"))]
    flags = ["-std=gnu11", "-O3", "-fno-math-errno", f"-I{ROOT / 'csrc'}"]
    subprocess.run(["cc", *flags, PROGRAMS / "core.c", *sources, "-lm", "-pthread", "-o", target], check=True)
    return target


def nanoseconds(operation: str, count: int) -> float:
    """Of one operation, over so many."""
    done = subprocess.run([program(), operation, str(count)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def can_count() -> bool:
    return shutil.which("valgrind") is not None


def instructions(operation: str) -> float:
    """Of one operation: what 10,000 more of them take more. The same on every run."""
    return (_instructions(operation, MANY) - _instructions(operation, FEW)) / (MANY - FEW)


def _instructions(operation: str, count: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program(), operation, str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1])
