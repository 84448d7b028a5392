"""What every benchmark is given, and what the results say of the machine."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
from runs import HERE, ROOT, Record, Rounds


@pytest.fixture
def record(benchmark: Any) -> Record:
    """Puts figures into the results, beside what pytest-benchmark itself says of the runs."""

    def put(**figures: Any) -> None:
        benchmark.extra_info.setdefault("figures", {}).update(figures)

    return put


@pytest.fixture
def rounds(benchmark: Any) -> Rounds:
    """Runs something so many times; what each run returned."""

    def run(function: Callable[[], Any], count: int) -> list[Any]:
        outcomes: list[Any] = []
        benchmark.pedantic(lambda: outcomes.append(function()), rounds=count, iterations=1)
        return outcomes

    return run


def pythons() -> dict[str, str]:
    """By version: this interpreter, and those of the environments that `make test-all` makes, as far as the package is
    in them."""
    found = {f"{sys.version_info[0]}.{sys.version_info[1]}": sys.executable}
    for each in sorted(ROOT.glob(".venv-3.*/bin/python")):
        version = each.parts[-3].removeprefix(".venv-")
        asked = subprocess.run([each, "-c", "import advlog_fast"], capture_output=True, check=False, cwd=HERE)
        if asked.returncode == 0:
            found.setdefault(version, str(each))
    return dict(sorted(found.items()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "python" in metafunc.fixturenames:
        found = pythons()
        metafunc.parametrize("python", list(found.values()), ids=list(found))


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
