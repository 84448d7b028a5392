"""SIGKILL at random moments: no acknowledged record is lost, doubled or torn, in any sink."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
from stress.harness import Trial, Zygote, check_readable

BURST = None
"""As fast as it goes: the drain holds the producers back, so that the ring is always full."""

LARGE = {"max_log_size": 1 << 40}

# Rate a thread, threads, seconds of it at most, options. A burst writes 100,000s of records a second, of which all are
# read again. The last rotates and seals all the time; the others have large files.
SHAPES = [
    (BURST, 1, 0.08, {**LARGE, "ring_bytes": 1024 * 1024}),
    (1000, 1, 0.3, {**LARGE, "part_interval_s": 0.2}),
    (BURST, 4, 0.08, {**LARGE, "part_rows": 5000, "ring_bytes": 1024 * 1024}),
    (1000, 4, 0.3, {"max_log_size": 64 * 1024, "part_rows": 500, "ring_bytes": 256 * 1024}),
]


def kill_at_random(zygote: Zygote, folder: Path, number: int, seed: int) -> None:
    chance = random.Random(seed * 100_003 + number)
    rate, threads, longest_s, options = SHAPES[number % len(SHAPES)]
    trial = Trial(folder, rate=rate, threads=threads, options=options, events=number % 2 == 0)
    try:
        zygote.start(trial.task)
        if chance.random() < 0.8:
            trial.wait_for()
        # From before the first record to well after the first part.
        time.sleep(chance.random() ** 2 * longest_s)
        zygote.kill()
        assert zygote.wait() == -9, trial.said()
        if not trial.log_dir.exists():
            return
        check_readable(trial.log_dir)
        assert zygote.run(trial.recovery()) == 0, trial.said()
        trial.check(threads=threads)
    except AssertionError as error:
        raise AssertionError(f"kill {number} of seed {seed}: {error}") from error
    finally:
        trial.clean()


@pytest.mark.parametrize(
    "kills", [pytest.param(20, id="short"), pytest.param(1000, id="long", marks=pytest.mark.stress)]
)
def test_what_was_acknowledged_before_a_kill_is_there_once(zygote: Zygote, tmp_path: Path, kills: int):
    seed = int(os.environ.get("ADVLOG_TEST_SEED", "0")) or random.randrange(1 << 30)
    for number in range(kills):
        kill_at_random(zygote, tmp_path / "trial", number, seed)
