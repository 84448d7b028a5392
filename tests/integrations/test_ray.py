"""Ray Train: workers whose ranks are in one attempt, whose errors are named, and whose retries are attempts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("ray.train.torch")

from advlog_fast import read_run
from advlog_fast.integrations.ray import open_for_worker

SCRIPT = """
    import sys
    sys.path.insert(0, sys.argv[2])
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    def train(config):
        import os, ray.train
        from advlog_fast.integrations.ray import open_for_worker

        rank = ray.train.get_context().get_world_rank()
        with open_for_worker(config["folder"], "run") as log:
            for step in range(1, 6):
                log.log_batch_progress(1, step, 5, 1 / step, step=step)
                if rank == 1 and step == 3 and log.attempt <= config["failures"]:
                    raise ValueError("broken on rank 1")

    ray.init(num_cpus=2, include_dashboard=False, configure_logging=False)
    trainer = TorchTrainer(
        train,
        train_loop_config={"folder": sys.argv[1] + "/logs", "failures": int(sys.argv[3])},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(
            name="exp", storage_path=sys.argv[1] + "/ray", failure_config=FailureConfig(max_failures=int(sys.argv[4]))
        ),
    )
    try:
        trainer.fit()
    except Exception as error:
        print("raised", type(error).__name__)
"""


def run(folder, failures, retries):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    environment["RAY_TRAIN_V2_ENABLED"] = "1"
    given = [folder, Path(__file__).parents[1], failures, retries]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), *map(str, given)],
        env=environment, capture_output=True, text=True, timeout=280, cwd=folder,
    )  # fmt: skip


def test_a_relative_path_is_refused_with_the_reason():
    with pytest.raises(ValueError, match="absolute path"), open_for_worker("logs"):
        pass


def test_workers_are_the_ranks_of_one_attempt(tmp_path):
    done = run(tmp_path, 0, 0)
    assert "raised" not in done.stdout, done.stderr[-3000:]
    rows = read_run(tmp_path / "logs", "run").metrics.to_pylist()
    assert sorted((row["rank"], row["step"]) for row in rows) == [
        (rank, step) for rank in (0, 1) for step in range(1, 6)
    ]
    assert {row["attempt"] for row in rows} == {1}
    assert json.loads((tmp_path / "logs" / "run_summary.json").read_text())["status"] == "completed"


def test_a_workers_error_is_a_failure_of_its_rank_and_a_retry_the_next_attempt(tmp_path):
    done = run(tmp_path, 1, 1)
    assert "raised" not in done.stdout, done.stderr[-3000:]
    rows = read_run(tmp_path / "logs", "run", attempts="all").metrics.to_pylist()
    assert {row["attempt"] for row in rows} == {1, 2}
    assert {row["step"] for row in rows if row["attempt"] == 1 and row["rank"] == 1} == {1, 2, 3}
    errors = "".join(path.read_text() for path in (tmp_path / "logs").glob("run_errors*.log*"))
    assert "ValueError: broken on rank 1" in errors
