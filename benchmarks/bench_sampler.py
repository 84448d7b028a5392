"""What memory samples cost: the sampler's own thread, in CPU time."""

from __future__ import annotations

from runs import Record, Rounds, median_of, run_program


def bench_sampler(rounds: Rounds, record: Record) -> None:
    record(**median_of([run.figures for run in rounds(lambda: run_program("sampler.py", 20), 3)]))
