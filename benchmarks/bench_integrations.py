"""Trainers with their integration: a step's time over that without, the trainer's own loggers beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Record, Rounds, run_program


@pytest.mark.parametrize("step_ms", [0, 1, 5])
@pytest.mark.parametrize("framework", ["lightning", "transformers", "accelerate"])
def bench_integrations(rounds: Rounds, record: Record, tmp_path: Path, framework: str, step_ms: int) -> None:
    pytest.importorskip(framework, reason=f"{framework} is not installed: make bench BENCH_EXTRA=bench-peers")
    (run,) = rounds(lambda: run_program("trainer_step.py", framework, tmp_path, step_ms), 1)
    record(**run.figures)
