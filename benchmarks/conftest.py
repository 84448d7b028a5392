"""Whole processes as benchmarks: each run in a process of its own, its CPU time taken by its parent."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PROGRAMS = HERE / "programs"
PATIENCE_S = 1200


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


@pytest.fixture
def record(benchmark: Any) -> Callable[..., None]:
    """Puts figures into the results, beside what pytest-benchmark itself says of the runs."""

    def put(**figures: Any) -> None:
        benchmark.extra_info.setdefault("figures", {}).update(figures)

    return put


@pytest.fixture
def rounds(benchmark: Any) -> Callable[[Callable[[], Any], int], list[Any]]:
    """Runs something so many times; what each run returned."""

    def run(function: Callable[[], Any], count: int) -> list[Any]:
        outcomes: list[Any] = []
        benchmark.pedantic(lambda: outcomes.append(function()), rounds=count, iterations=1)
        return outcomes

    return run


def pythons() -> list[str]:
    """This interpreter, and those of the environments that `make test-all` makes, as far as the package is in them."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for each in sorted(ROOT.glob(".venv-3.*/bin/python")):
        version = each.parts[-3].removeprefix(".venv-")
        asked = subprocess.run([each, "-c", "import advlog_fast"], capture_output=True, check=False, cwd=HERE)
        if asked.returncode == 0:
            found.setdefault(version, str(each))
    return [f"{version}={path}" for version, path in sorted(found.items())]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        found = [each.split("=", 1) for each in pythons()]
        metafunc.parametrize("python", [path for _, path in found], ids=[version for version, _ in found])


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:  # noqa: ARG001
    """What a reader needs to compare, and no more: the plugin's own list names the host."""
    cpu = machine_info.get("cpu", {})
    machine_info.clear()
    machine_info.update(
        cpu=cpu.get("brand_raw", platform.machine()),
        cores=os.cpu_count(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        compiler=platform.python_compiler(),
    )
    for package in ("advlog-fast", "pyarrow", "cffi", "torch"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            machine_info[package] = metadata.version(package)
