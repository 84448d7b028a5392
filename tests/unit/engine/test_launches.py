"""Runs the tests of the launches on a GPU's stand-in, in a process that believes in a driver (tests/device)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

TESTS = Path(__file__).parents[2]
PTX = TESTS.parent / "advlog_fast" / "engine" / "put.ptx"


def test_launches_on_a_stand_in_for_the_driver(tmp_path):
    options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'runs'}"]
    command = [sys.executable, "-m", "pytest", *options, "device/launches.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_drivers_of_old_take_the_kernel():
    lines = PTX.read_text().splitlines()
    (version,) = (line.split()[1] for line in lines if line.startswith(".version"))
    (target,) = (line.split()[1] for line in lines if line.startswith(".target"))
    assert tuple(map(int, version.split("."))) <= (7, 0)
    assert target == "sm_70"
    assert "make ptx" in lines[0]
