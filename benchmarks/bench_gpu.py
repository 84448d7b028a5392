"""Tensors of a GPU, logged at every step: the training's pace over that without logging, and `.item()` beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Record, Rounds, median_of, run_program

BLOCKS = 7


@pytest.mark.parametrize("tensors", [1, 10])
@pytest.mark.parametrize("step_ms", [1, 5, 20])
def bench_gpu(rounds: Rounds, record: Record, tmp_path: Path, step_ms: int, tensors: int) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: make bench BENCH_EXTRA=bench-peers")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    figures = median_of(
        [run.figures for run in rounds(lambda: run_program("gpu_step.py", tmp_path, step_ms, tensors, BLOCKS), 1)]
    )
    assert figures["whole"]
    assert not any(figures["unresolved"].values())
    record(**figures)
