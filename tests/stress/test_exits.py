"""However the process ends: every record whose call had returned is in every file, after a recovery if one is due."""

from __future__ import annotations

import json
import signal
from itertools import pairwise
from pathlib import Path

import pytest
from stress.harness import Trial, Zygote, lines_of, parts_of, unexplained

from advlog_fast.recovery import recover
from advlog_fast.verification import verify

RECORDS = 3000
OPTIONS = {"max_log_size": 100_000, "part_rows": 1000}

# The ending, the exit status, and the summary's status after recovery.
ENDINGS = [
    ("close", 0, "completed"),
    ("return", 0, "completed"),
    ("exception", 1, "failed"),
    ("sys.exit", 3, "completed"),
    ("os._exit", 3, "killed"),
    ("SIGTERM", -signal.SIGTERM, "killed"),
    ("abort", -signal.SIGABRT, "killed"),
    ("SIGKILL", -signal.SIGKILL, "killed"),
]


@pytest.mark.parametrize(("ending", "exit_status", "status"), ENDINGS)
def test_every_acknowledged_record_survives_an_ending(
    zygote: Zygote, tmp_path: Path, ending: str, exit_status: int, status: str
):
    trial = Trial(tmp_path / "trial", records=RECORDS, ending=ending, options=OPTIONS)
    try:
        assert zygote.run(trial.task) == exit_status, trial.said()
        assert trial.acknowledged() == RECORDS
        found = recover(trial.log_dir)
        assert [f.outcome for f in found] == (["recovered"] if status == "killed" else [])
        trial.check(in_flight=0, status=status)
    finally:
        trial.clean()


@pytest.mark.parametrize(
    "exits", [pytest.param(50, id="short"), pytest.param(1000, id="long", marks=pytest.mark.stress)]
)
def test_an_interpreter_ends_silently_while_threads_log(zygote: Zygote, tmp_path: Path, exits: int):
    """What is logged after the end began may be refused, and is counted then."""
    for number in range(exits):
        exit_after_s = 0.02 + 0.01 * (number % 4)
        trial = Trial(
            tmp_path / "trial",
            threads=3,
            exit_after_s=exit_after_s,
            ending="return",
            rate=None if number % 50 == 0 else 20_000,  # a burst writes more than all the others together
            options={"max_log_size": 1 << 40},
        )
        try:
            assert zygote.run(trial.task) == 0, trial.said()
            assert trial.said() == ""
            assert recover(trial.log_dir) == []
            account = json.loads((trial.log_dir / ".advlog/run/accounts/attempt1-rank00000.json").read_text())
            assert account["status"] == "completed"
            # Threads 2 and 3 logged; the calls after the end began were acknowledged too, and counted as refused.
            refused = account["dropped_at_entry"]["closed"]
            accepted = account["sinks"]["metrics_jsonl"]["accepted"]
            acknowledged = trial.acknowledged(2) + trial.acknowledged(3)
            assert accepted + refused <= acknowledged + 2
            check_threads(trial, accepted)
        finally:
            trial.clean()


def check_threads(trial: Trial, accepted: int) -> None:
    """What was acknowledged before the end began is there; of what came after, whatever was accepted; in order."""
    for where, numbers in (
        ("jsonl", lines_of(trial.log_dir / "run_metrics.jsonl", rb'"epoch":(\d+),"batch":(\d+)')),
        ("text", lines_of(trial.log_dir / "run_training.log", rb" epoch=(\d+) batch=(\d+) ")),
        ("parquet", parts_of(trial.log_dir)),
    ):
        assert sum(map(len, numbers.values())) == accepted, where
        for thread in (2, 3):
            before = trial.acknowledged(8 + thread)
            got = numbers[thread]
            assert got[:before] == list(range(1, before + 1)), where
            assert all(a < b for a, b in pairwise(got)), where
    assert unexplained(verify(trial.log_dir)) == []
