"""The examples run as they stand, alone and on two ranks."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advlog_fast import read_run

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TWO = ["-m", "torch.distributed.run", "--nproc-per-node=2"]


def run(tmp_path, *command):
    given = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    given["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, *map(str, command)], env=given, capture_output=True, text=True, timeout=240, cwd=tmp_path
    )


@pytest.mark.parametrize(
    ("framework", "name", "arguments", "launch", "ranks", "steps"),
    [
        ("lightning", "lightning", ["--epochs", "2"], [], {0}, 64),
        ("lightning", "lightning", ["--epochs", "1", "--devices", "2"], [], {0, 1}, 32),
        ("transformers", "counting", ["--steps", "30"], [], {0}, 30),
        (
            "transformers",
            "counting",
            ["--steps", "10"],
            TWO,
            {0, 1},
            20,
        ),
        ("accelerate", "points", ["--epochs", "2"], [], {0}, 64),
        ("accelerate", "points", ["--epochs", "1"], TWO, {0, 1}, 32),
    ],
)
def test_an_example_logs_every_step(tmp_path, framework, name, arguments, launch, ranks, steps):
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    done = run(tmp_path, *launch, EXAMPLES / f"{framework}_training.py", "--log-dir", tmp_path / "logs", *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    run_ = read_run(tmp_path / "logs", name)
    rows = [row for row in run_.metrics.to_pylist() if row["batch_time"] is not None]
    assert {row["rank"] for row in rows} == ranks
    assert {row["attempt"] for row in rows} == {1}
    assert len(rows) == steps
    losses = [row["loss"] for row in rows]
    assert sum(losses[-4:]) < sum(losses[:4])
