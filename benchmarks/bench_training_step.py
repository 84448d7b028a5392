"""A training loop, logged every step, over the same loop without."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Record, Rounds, median_of, run_program


@pytest.mark.parametrize(("step_ms", "pairs"), [(1, 100), (5, 40), (20, 20)])
def bench_slowdown(rounds: Rounds, record: Record, tmp_path: Path, step_ms: int, pairs: int) -> None:
    runs = rounds(lambda: run_program("training_step.py", tmp_path, step_ms, pairs), 3)
    figures = [{k: v for k, v in run.figures.items() if k != "quartiles"} for run in runs]
    record(**median_of(figures), quartiles=[run.figures["quartiles"] for run in runs])
