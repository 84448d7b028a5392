"""examples/gpu_training.py, as a user starts it; on the CPU where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from advlog_fast import read_run

pytest.importorskip("torch")
pytestmark = pytest.mark.torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "gpu_training.py"


def test_every_step_has_its_loss_and_the_training_learns(tmp_path):
    command = [sys.executable, str(EXAMPLE), "--log-dir", "logs", "--steps", "200", "--cuda-graph"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "200 steps on c" in done.stdout
    assert done.stdout.rstrip().endswith("; 0 values never came")
    rows = read_run(tmp_path / "logs", "gpu_training").metrics
    losses = rows["loss"].to_pylist()
    assert rows["step"].to_pylist() == list(range(1, 201))
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])
    assert min(rows["gradient_norm"].to_pylist()) > 0
