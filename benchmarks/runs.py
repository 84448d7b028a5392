"""Whole processes as benchmarks: each run in a process of its own, its CPU time taken by its parent."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Rounds = Callable[[Callable[[], Any], int], list[Any]]
"""The fixture `rounds`."""
Record = Callable[..., None]
"""The fixture `record`."""

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAMS = HERE / "programs"


@dataclass(frozen=True)
class Run:
    """What a program said, and what it took."""

    figures: dict[str, Any]
    user_s: float
    system_s: float
    peak_bytes: int

    @property
    def cpu_s(self) -> float:
        return self.user_s + self.system_s


def run_program(name: str, *arguments: object, python: str | Path = sys.executable) -> Run:
    """Runs programs/NAME to its end, threads and all; what it prints is one JSON object."""
    with tempfile.TemporaryFile() as output:
        command = [str(python), str(PROGRAMS / name), *map(str, arguments)]
        process = subprocess.Popen(command, stdout=output, cwd=PROGRAMS)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    assert process.returncode == 0, f"{' '.join(command)}: exit status {process.returncode}"
    return Run(json.loads(text), usage.ru_utime, usage.ru_stime, usage.ru_maxrss * 1024)


def median_of(runs: list[Any]) -> Any:
    """The median of each number in the runs' figures."""
    first = runs[0]
    if isinstance(first, dict):
        return {name: median_of([run[name] for run in runs]) for name in first}
    if isinstance(first, bool) or not isinstance(first, (int, float)):
        return first
    return statistics.median(runs)
