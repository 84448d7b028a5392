"""What the call costs the training loop, on each Python found."""

from __future__ import annotations

from pathlib import Path

from runs import Record, Rounds, median_of, run_program


def bench_call(rounds: Rounds, record: Record, tmp_path: Path, python: str) -> None:
    runs = rounds(lambda: run_program("log_call.py", tmp_path, python=python), 3)
    assert all(run.figures["dropped"] == 0 for run in runs)
    record(**median_of([run.figures for run in runs]))
