"""A SIGKILL while the records of children are taken over: each that parent or child was acknowledged is there once.

The children of a killed parent log on until somebody closes their rings: a recovery does.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from stress.harness import Trial, Zygote, check_readable
from stress.test_failpoints import HANDOFF

THREADS, CHILDREN = 2, 3
FAMILY = {"run": "family", "threads": THREADS, "children": CHILDREN}
OPTIONS = {"max_log_size": 65536, "part_rows": 1000, "ring_bytes": 128 * 1024}


def check(trial: Trial, status: str) -> None:
    trial.check(threads=THREADS + CHILDREN, status=status)
    assert [path.name for path in trial.ring_dir.glob("[!.]*")] == [], "something of the children was left behind"


@pytest.mark.parametrize(("trials", "longest_s"), [(20, 0.12), pytest.param(300, 0.5, marks=pytest.mark.stress)])
def test_a_parent_killed_at_any_moment_loses_nothing_of_its_children(
    zygote: Zygote, tmp_path: Path, trials: int, longest_s: float
):
    chance = random.Random(20261123)
    taken = 0
    for number in range(trials):
        # From a burst that fills the rings to a rate that leaves them nearly empty.
        rate = chance.choice([None, 20_000, 2_000])
        trial = Trial(tmp_path / f"trial-{number}", **FAMILY, rate=rate, child_records=4000, options=OPTIONS)
        try:
            zygote.start(trial.task)
            trial.wait_for(1)
            time.sleep(chance.uniform(0.0, longest_s))
            zygote.kill()
            assert zygote.wait() == -9, trial.said()
            assert zygote.run(trial.recovery()) == 0, trial.said()
            check(trial, "killed")
            taken += sum(trial.acknowledged(t) for t in range(THREADS + 1, THREADS + CHILDREN + 1))
        finally:
            trial.clean()
    assert taken > 0


@pytest.mark.parametrize(
    "number", [1, 7, 300, *(pytest.param(n, marks=pytest.mark.stress) for n in (2, 40, 900, 2500))]
)
@pytest.mark.parametrize("point", HANDOFF)
def test_a_parent_killed_at_each_step_of_a_handoff(failing_zygote: Zygote, tmp_path: Path, point: str, number: int):
    records = max(500, 2 * number)  # the step is passed once for each record of a child, or twice for one of two slots
    trial = Trial(tmp_path / "trial", **FAMILY, failpoint=f"{point}:{number}", records=records, options=OPTIONS)
    try:
        assert failing_zygote.run(trial.task) == -9, trial.said()
        check_readable(trial.log_dir)
        # The recovery is killed at the same step, and then again.
        for again in (1, 5):
            assert failing_zygote.run(trial.recovery(failpoint=f"{point}:{again}")) in (0, -9), trial.said()
        assert failing_zygote.run(trial.recovery()) == 0, trial.said()
        check(trial, "killed")
    finally:
        trial.clean()


@pytest.mark.parametrize("trials", [10, pytest.param(200, marks=pytest.mark.stress)])
def test_a_child_killed_at_any_moment_loses_and_harms_nothing(zygote: Zygote, tmp_path: Path, trials: int):
    chance = random.Random(7)
    for number in range(trials):
        trial = Trial(tmp_path / f"trial-{number}", **FAMILY, records=3000, rate=30_000, options=OPTIONS)
        trial.task["kill_children_after_s"] = chance.uniform(0.005, 0.1)
        try:
            assert zygote.run(trial.task) == 0, trial.said()
            assert trial.phase == 2
            check(trial, "completed")
        finally:
            trial.clean()
