"""A random run, and what must be read back of it: `plan` says what each launch does, `python random_run.py DIR SEED N`
does it for launch N, and `Model` says what the readers have to tell.

A launch is one process with a logger for each rank, so that the order of all calls is known. A kill is a SIGKILL after
calls that have returned: nothing of them may be lost.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("loss", "accuracy", "batch_time", "a", "b/c", "late")
SPECIAL = (math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0, -0.0, 5e-324, 1e15, 0.1)


@dataclass
class Launch:
    """What one start of the program does."""

    ranks: int
    options: dict[str, Any]
    load: str
    """Which states it loads: none, those of rank 0 on all ranks ("one"), or each rank's own ("own")."""
    calls: list[dict[str, Any]]
    ends: str
    """completed, failed, or killed."""


def plan(seed: int) -> list[Launch]:
    """The launches of a random run."""
    rng = random.Random(seed)
    return [_launch(rng, number) for number in range(rng.choice((1, 1, 2, 2, 3)))]


def _launch(rng: random.Random, number: int) -> Launch:
    ranks = rng.choice((1, 1, 2, 3))
    parquet = rng.random() < 0.8
    options = {
        "parquet": parquet,
        "jsonl": not parquet or rng.random() < 0.8,
        "text": rng.random() < 0.5,
        "max_log_size": rng.choice((1024, 4096, 1 << 20)),
        "max_log_files": 1_000_000,
        "part_rows": rng.choice((7, 50, 1000)),
        "best_metric": "val/loss",
        "best_mode": "min",
    }
    calls: list[dict[str, Any]] = []
    step = rng.choice((0, 1, 17)) if number == 0 else rng.randrange(40)
    back, stateful = rng.random() < 0.3, rng.random() < 0.7
    for _ in range(rng.choice((0, 1, 5, 40, 120))):
        step += rng.choice((1, 1, 1, 1, 2, 5)) if not (back and rng.random() < 0.1) else -rng.randrange(5)
        for rank in range(ranks):
            if ranks > 1 and rng.random() < 0.05:
                continue  # this rank logs nothing at this step
            calls += [_record(rng, rank, step) for _ in range(rng.choice((1, 1, 1, 1, 2)))]
        chance = rng.random()
        if chance < 0.1:
            calls.append({"call": "validation", "rank": 0, "metrics": {"val/loss": rng.random(), "val/f1": 0.5}})
        elif chance < 0.15:
            calls.append({"call": "child", "rank": rng.randrange(ranks), "metrics": {"a": rng.random()}, "step": step})
        elif chance < 0.25 and stateful and not back:
            calls.append({"call": "state"})
    return Launch(
        ranks=ranks,
        options=options,
        load=rng.choice(("none", "one", "own", "own")) if number else "none",
        calls=calls,
        ends=rng.choice(("completed", "failed", "killed", "killed")),
    )


def _record(rng: random.Random, rank: int, step: int) -> dict[str, Any]:
    names = [name for name in NAMES if rng.random() < (0.8 if name != "late" else 0.1)] or ["loss"]
    values = {name: rng.choice(SPECIAL) if rng.random() < 0.03 else rng.gauss(0, 1) for name in names}
    if "batch_time" in values:
        values["batch_time"] = abs(values["batch_time"]) if math.isfinite(values["batch_time"]) else 0.5
        values["batch_time"] = min(values["batch_time"], 1e6)
    return {"call": "record", "rank": rank, "metrics": values, "step": None if rng.random() < 0.05 else step}


def perform(folder: Path, seed: int, number: int) -> None:
    """Does what the launch says."""
    from advlog_fast import AdvancedLogger

    launch = plan(seed)[number]
    states = folder / "states.json"
    logs = [
        AdvancedLogger(
            folder / "logs", "run", rank=rank, world_size=launch.ranks, console="off", memory_interval_s=0,
            **launch.options,
        )
        for rank in range(launch.ranks)
    ]  # fmt: skip
    if states.exists() and launch.load != "none":
        kept = json.loads(states.read_text())
        for rank, log in enumerate(logs):
            mine = kept[0] if launch.load == "one" or rank >= len(kept) else kept[rank]
            log.load_state_dict(mine)
    for call in launch.calls:
        if call["call"] == "state":
            states.write_text(json.dumps([log.state_dict() for log in logs]))
            continue
        log = logs[call["rank"]]
        if call["call"] == "validation":
            log.log_validation(metrics=call["metrics"])
        elif call["call"] == "child":
            child = os.fork()
            if child == 0:
                log.log_metrics(call["metrics"], step=call["step"])
                os._exit(0)
            os.waitpid(child, 0)
            log.flush()  # its place among the other records is known from here on
        else:
            log.log_metrics(call["metrics"], step=call["step"])
    if launch.ends == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    for log in logs:
        log.close(status=launch.ends)


# -- the model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    attempt: int
    rank: int
    seq: int
    worker: int
    step: int | None
    values: dict[str, float]
    order: int
    """Its place among all calls of the run."""


@dataclass
class State:
    attempt: int
    order: int
    seqs: list[int]
    """Of each rank."""
    step: int | None
    """The greatest one that rank 0 has logged."""


@dataclass
class Model:
    """What the calls have logged."""

    rows: list[Row] = field(default_factory=list)
    validations: list[tuple[int, int, dict[str, float]]] = field(default_factory=list)
    """Attempt, order, metrics."""
    origins: dict[int, tuple[State, str, int]] = field(default_factory=dict)
    """By attempt: the states, how they were loaded, and by how many ranks."""
    ends: list[str] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)

    def rows_of(self, attempt: int, rank: int) -> list[Row]:
        return [row for row in self.rows if (row.attempt, row.rank) == (attempt, rank)]

    @property
    def newest(self) -> int:
        """The attempt that is shown: the last one that has a record or was resumed."""
        begun = {row.attempt for row in self.rows} | set(self.origins)
        return max(begun, default=len(self.ends))

    def shown(self) -> dict[int, State | None]:
        """The attempts of the chain, each with the states that cut it."""
        attempt = self.newest
        cuts: dict[int, State | None] = {attempt: None}
        while attempt in self.origins:
            state = self.origins[attempt][0]
            cuts[state.attempt] = state
            attempt = state.attempt
        return cuts

    def validations_until(self, attempt: int) -> list[dict[str, float]]:
        """Those of an attempt, and of the ones before that it goes on from, as far as it does."""
        found, before = [], None
        while True:
            found += [
                metrics
                for number, order, metrics in self.validations
                if number == attempt and (before is None or order < before)
            ]
            if attempt not in self.origins:
                return found
            attempt, before = self.origins[attempt][0].attempt, self.origins[attempt][0].order

    def chain(self) -> list[Row]:
        """The rows of the default view."""
        return [row for row in self.rows if self.is_shown(row)]

    def is_shown(self, row: Row) -> bool:
        cuts = self.shown()
        if row.attempt not in cuts:
            return False
        state = cuts[row.attempt]
        if state is None:
            return True
        later = min(attempt for attempt in cuts if attempt > row.attempt)
        _, how, ranks = self.origins[later]
        own = row.rank == 0 or (how == "own" and row.rank < ranks)
        if own:
            return row.seq <= state.seqs[row.rank]
        # The steps of such a launch rise.
        return row.order < state.order if None in (row.step, state.step) else row.step <= state.step


def expected(seed: int) -> Model:
    """What the whole run logs."""
    model = Model()
    state: State | None = None
    order = 0
    for attempt, launch in enumerate(plan(seed), 1):
        model.ends.append(launch.ends)
        model.ranks.append(launch.ranks)
        seqs, children = [0] * launch.ranks, [0] * launch.ranks
        if state is not None and launch.load != "none":
            model.origins[attempt] = (state, launch.load, launch.ranks)
        for call in launch.calls:
            order += 1
            if call["call"] == "state":
                steps = [row.step for row in model.rows_of(attempt, 0) if row.step is not None and not row.worker]
                state = State(attempt, order, list(seqs), max(steps, default=None))
            elif call["call"] == "validation":
                model.validations.append((attempt, order, call["metrics"]))
            else:
                rank = call["rank"]
                seqs[rank] += 1
                children[rank] += call["call"] == "child"
                worker = children[rank] if call["call"] == "child" else 0
                model.rows.append(Row(attempt, rank, seqs[rank], worker, call["step"], call["metrics"], order))
    return model


if __name__ == "__main__":
    perform(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
