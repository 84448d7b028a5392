"""Tensors of a GPU: a training's pace with them logged over that without, `.item()` beside it; what a call costs."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs import Record, Rounds, median_of, run_program

BLOCKS = 7


def require_gpu() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed: make bench BENCH_EXTRA=bench-peers")
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")


@pytest.mark.parametrize("tensors", [1, 10])
@pytest.mark.parametrize("step_ms", [1, 5, 20])
def bench_gpu(rounds: Rounds, record: Record, tmp_path: Path, step_ms: int, tensors: int) -> None:
    require_gpu()
    figures = median_of(
        [run.figures for run in rounds(lambda: run_program("gpu_step.py", tmp_path, step_ms, tensors, BLOCKS), 1)]
    )
    assert figures["whole"]
    assert not any(figures["unresolved"].values())
    record(**figures)


@pytest.mark.parametrize("scalars", [1, 10, 100, 1000])
def bench_gpu_call(rounds: Rounds, record: Record, tmp_path: Path, scalars: int) -> None:
    require_gpu()
    figures = median_of([run.figures for run in rounds(lambda: run_program("gpu_call.py", tmp_path, scalars), 1)])
    assert figures["whole"]
    assert not any(figures["unresolved"].values())
    assert figures["gpu_values"]["operators"] == 0
    record(**figures)
