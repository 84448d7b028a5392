"""What every test stands on: it is known which package is tested, and the launcher is not seen."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_CHECKOUT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("advlog_fast") is None and not os.environ.get("ADVLOG_TEST_INSTALLED"):
    # Not installed: the checkout is tested, where `python setup.py build_ext --inplace` has built it.
    sys.path.insert(0, str(_CHECKOUT))
_SPEC = importlib.util.find_spec("advlog_fast")
_PACKAGE = Path(next(iter(_SPEC.submodule_search_locations or ()))).resolve() if _SPEC else None
_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "ADVLOG_DISABLED")
_LAUNCHER_PREFIXES = ("SLURM_", "OMPI_", "PMI_", "TORCHELASTIC_")


def pytest_report_header() -> str:
    return f"advlog_fast: {_PACKAGE}"


def pytest_configure() -> None:
    in_checkout = _PACKAGE is None or _PACKAGE.parent == _CHECKOUT
    if in_checkout and os.environ.get("ADVLOG_TEST_INSTALLED"):
        raise pytest.UsageError(f"expected the installed package, got {_PACKAGE}")
    # The processes that tests start must import what the tests import.
    if in_checkout:
        others = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(_CHECKOUT), *([others] if others else [])])


def pytest_runtest_setup(item: pytest.Item) -> None:
    wants_gpu = item.get_closest_marker("gpu") is not None
    if (wants_gpu or item.get_closest_marker("torch")) and importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch, which is not installed for this Python")
    if wants_gpu:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
    if item.get_closest_marker("spark"):
        if importlib.util.find_spec("pyspark") is None:
            pytest.skip("needs PySpark, which `make test-spark` installs")
        home = Path(os.environ.get("JAVA_HOME", "/nowhere"), "bin", "java")
        if not home.exists() and shutil.which("java") is None:
            pytest.skip("needs Java (Debian: apt install default-jre-headless)")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 0 of 1, whatever launched the tests."""
    for name in list(os.environ):
        if name in _LAUNCHER or name.startswith(_LAUNCHER_PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the interpreter of the tests in `tmp_path`, warnings being errors, and returns how it ended."""

    def run(*arguments: str | Path, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-W", "error", *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout_s)

    return run
