"""What `log_metrics` costs for a mapping, over the hot call with the same metrics as keywords."""

from __future__ import annotations

from pathlib import Path

from runs import Record, Rounds, median_of, run_program


def bench_mapping(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    record(**median_of([run.figures for run in rounds(lambda: run_program("mapping.py", tmp_path), 3)]))
