"""Many runs share one directory."""

from __future__ import annotations

import threading
from pathlib import Path

import duckdb
import pytest
from run_files import descriptors

from advlog_fast import AdvancedLogger


def one_run(log_dir: Path, number: int, of: int) -> None:
    with AdvancedLogger(log_dir, f"run{number:04d}", console="off") as log:
        log.start_training({"seed": number})
        for batch in range(1, 101):
            log.log_batch_progress(1, batch, 100, 1.0 / batch)
        log.log_validation(1, {"accuracy": (number * 7919 % of) / of}, True)
        log.end_training()


@pytest.mark.parametrize(
    "runs", [pytest.param(25, id="short"), pytest.param(1000, id="long", marks=pytest.mark.stress)]
)
def test_the_summaries_of_many_runs_are_a_leaderboard_and_nothing_is_left(tmp_path: Path, runs: int):
    one_run(tmp_path / "before", 0, 1)  # what the first run loads for good, stays open for good
    threads, open_before = threading.active_count(), descriptors()
    for number in range(runs):
        one_run(tmp_path / "logs", number, runs)
    assert threading.active_count() == threads
    assert descriptors() == open_before
    board = duckdb.sql(
        f"SELECT experiment, status, total_metrics, best.metrics.accuracy AS accuracy "
        f"FROM read_json('{tmp_path}/logs/*_summary.json') ORDER BY accuracy DESC"
    ).fetchall()
    assert len(board) == runs
    assert {(status, metrics) for _, status, metrics, _ in board} == {("completed", 100)}
    best = max(range(runs), key=lambda number: number * 7919 % runs)
    assert board[0][0] == f"run{best:04d}"
