"""Readers that know nothing of the logger poll the dataset while ranks write it, are killed, and start again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from stress.harness import TIMEOUT_S, Trial, Zygote, check_rank, check_verified, launch_environment, parts_of
from stress.reading import READERS

RANKS = 4
RATE = 2000
"""Records a second and rank: fast, and few enough in the long form that each reader can hold them all."""

OPTIONS = {"part_interval_s": 0.2, "part_rows": 300, "max_log_size": 1 << 40}


class Reader:
    """A process that polls the dataset until it is told to end: see reading.py."""

    def __init__(self, name: str, dataset: Path, folder: Path) -> None:
        self.name = name
        self._end = folder / f"{name}.end"
        self._told, self._stderr = folder / f"{name}.polls", folder / f"{name}.stderr"
        script = Path(__file__).with_name("reading.py")
        command = [sys.executable, str(script), name, str(dataset), str(self._end)]
        with self._told.open("w") as told, self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(command, stdout=told, stderr=stderr)

    def polls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._told.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def wait_for(self, enough: Callable[[list[dict[str, Any]]], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not enough(self.polls()):
            assert self._process.poll() is None, f"{self.name} ended: {self._stderr.read_text()}"
            assert time.monotonic() < deadline, f"{self.name} polls no more"
            time.sleep(0.01)

    def wait_for_another(self) -> None:
        """A poll that began after this call, and ended."""
        before = len(self.polls())
        self.wait_for(lambda polls: len(polls) >= before + 2)

    def end(self) -> None:
        self._end.touch()
        assert self._process.wait(TIMEOUT_S) == 0, self._stderr.read_text()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def launch(zygotes: list[Zygote], folder: Path, number: int, chance: random.Random, longest_s: float) -> list[Trial]:
    """Four ranks of one launch, each killed at a moment of its own: from its start to well after its first parts; in
    every second launch, once all of them have logged."""
    trials = [
        Trial(
            folder / f"launch{number}-rank{rank}",
            log_dir=str(folder / "logs"),
            environ=launch_environment(rank, RANKS, number),
            epoch=number,
            rate=RATE,
            options=OPTIONS,
        )
        for rank in range(RANKS)
    ]
    for zygote, trial in zip(zygotes, trials, strict=True):
        zygote.start(trial.task)
    if number % 2 == 0:
        for trial in trials:
            trial.wait_for(records=1)
    began = time.monotonic()
    moments = sorted((chance.random() * longest_s, rank) for rank in range(RANKS))
    for moment, rank in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        zygotes[rank].kill()
        assert zygotes[rank].wait() == -9, trials[rank].said()
    return trials


def check_polls(name: str, polls: list[dict[str, Any]]) -> None:
    errors = [poll["error"] for poll in polls if "error" in poll and poll["stands"]]
    assert errors == [], f"{name}, {len(errors)} of {len(polls)} polls: {errors[0]}"
    found = [poll for poll in polls if "rows" in poll]
    assert [poll for poll in found if poll["rows"] != poll["different"]] == [], f"{name}: rows that stand twice"
    fell = [(a["rows"], b["rows"]) for a, b in pairwise(found) if b["rows"] < a["rows"]]
    assert fell == [], f"{name}: rows that were there and are not"
    assert any(0 < poll["rows"] < found[-1]["rows"] for poll in found), f"{name} never saw the dataset grow"


@pytest.mark.parametrize(
    ("launches", "longest_s"),
    [pytest.param(4, 1.0, id="short"), pytest.param(7, 8.0, id="long", marks=pytest.mark.stress)],
)
def test_readers_meet_no_error_and_no_row_that_goes_again_while_ranks_are_killed_and_started_again(
    rank_zygotes: list[Zygote], tmp_path: Path, launches: int, longest_s: float
):
    for module in ("duckdb", "pandas", "polars"):
        pytest.importorskip(module)
    seed = int(os.environ.get("ADVLOG_TEST_SEED", "0")) or random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    log_dir = tmp_path / "logs"
    readers = [Reader(name, log_dir / "run_metrics.parquet", tmp_path) for name in READERS]
    trials: list[list[Trial]] = []
    try:
        for reader in readers:
            reader.wait_for(bool)  # it has imported what it needs
        for number in range(1, launches + 1):
            trials.append(launch(rank_zygotes, tmp_path, number, chance, longest_s))
            if any(log_dir.glob("run_metrics.parquet/*/*.parquet")):
                for reader in readers:
                    reader.wait_for_another()
        assert rank_zygotes[0].run(trials[-1][0].recovery(environ={})) == 0, trials[-1][0].said()
        for reader in readers:
            reader.end()

        check_verified(log_dir)
        for rank in range(RANKS):
            check_rank(log_dir, rank, {number: of[rank].acknowledged() for number, of in enumerate(trials, 1)})
        there = {
            f"{rank}/{epoch}": len(batches)
            for rank in range(RANKS)
            for epoch, batches in parts_of(log_dir, f"{rank:05d}").items()
        }
        assert len(there) > RANKS
        for reader in readers:
            polls = reader.polls()
            check_polls(reader.name, polls)
            assert polls[-1]["each"] == there, reader.name
            print(reader.name, sum("rows" in poll for poll in polls), "polls, at last", polls[-1]["rows"], "rows")
    finally:
        for reader in readers:
            reader.kill()
        for trial in (trial for of in trials for trial in of):
            trial.clean()
