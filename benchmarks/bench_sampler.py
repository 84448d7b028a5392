"""What memory samples cost: the sampler's own thread, and the calls beside it while the GPU's driver hangs."""

from __future__ import annotations

from pathlib import Path

from runs import Record, Rounds, median_of, run_program


def bench_sampler(rounds: Rounds, record: Record) -> None:
    record(**median_of([run.figures for run in rounds(lambda: run_program("sampler.py", 20), 3)]))


def bench_hung_driver(rounds: Rounds, record: Record, tmp_path: Path) -> None:
    (run,) = rounds(lambda: run_program("hung_driver.py", tmp_path, 60), 1)
    assert run.figures["closed"]
    assert [run.figures[f"{when}_stale"] for when in ("before", "hanging")] == [False, True]
    record(**run.figures)
