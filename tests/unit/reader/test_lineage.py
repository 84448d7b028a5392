"""Which attempts make one series: the newest, and those that it goes on from, each as far as that point."""

from __future__ import annotations

import json

import pytest

from advlog_fast import AdvancedLogger, read_run
from advlog_fast.reader.lineage import Cut, chosen

RUN_ID = "0" * 32


def origin(attempt, step, second=0, run_id=RUN_ID):
    return {
        "run_id": run_id,
        "attempt": attempt,
        "step": step,
        "epoch": 1,
        "batch": step,
        "timestamp": f"2026-11-22T19:31:{second:02}.000000Z",
    }


def of_rank_0(origins):
    return {attempt: {0: state} for attempt, state in origins.items()}


def steps_of(cuts):
    return {attempt: None if cut is None else cut.step for attempt, cut in cuts.items()}


@pytest.mark.parametrize(
    ("origins", "shown"),
    [
        ({}, {4: None}),
        ({4: origin(3, 50)}, {4: None, 3: 50}),
        ({4: origin(1, 50)}, {4: None, 1: 50}),
        ({4: origin(3, 50), 3: origin(2, 30), 2: origin(1, 10)}, {4: None, 3: 50, 2: 30, 1: 10}),
        ({4: origin(3, 20), 3: origin(2, 30)}, {4: None, 3: 20, 2: 30}),
        ({4: origin(3, None)}, {4: None, 3: None}),
        ({4: origin(3, 20), 3: origin(2, None)}, {4: None, 3: 20, 2: None}),
        ({4: origin(4, 50)}, {4: None}),
        ({4: origin(7, 50)}, {4: None}),
        ({4: origin(3, 50, run_id="1" * 32)}, {4: None}),
        ({3: origin(2, 50)}, {4: None}),
    ],
)
def test_the_chain_follows_the_newest_attempt_back(origins, shown):
    assert steps_of(chosen("chain", [1, 2, 3, 4], {1, 2, 3, 4}, of_rank_0(origins), RUN_ID).cuts) == shown


def test_what_was_logged_after_the_point_is_cut_by_time_where_it_has_no_step():
    cut = chosen("chain", [1, 2], {1, 2}, of_rank_0({2: origin(1, 5, second=7)}), RUN_ID).cuts[1]
    assert isinstance(cut, Cut)
    assert (cut.time.second, cut.time.utcoffset().total_seconds()) == (7, 0)


def test_the_latest_alone_and_all_of_them_can_be_asked_for():
    origins = of_rank_0({2: origin(1, 5)})
    assert steps_of(chosen("latest", [1, 2], {1, 2}, origins, RUN_ID).cuts) == {2: None}
    assert steps_of(chosen("all", [1, 2], {1, 2}, origins, RUN_ID).cuts) == {1: None, 2: None}
    assert chosen("chain", [], set(), {}, None).cuts == {}


class Training:
    """A run of two ranks that can be stopped, and gone on with from a checkpoint."""

    def __init__(self, tmp_path, **options):
        self.folder, self.options = tmp_path, {"console": "off", "memory_interval_s": 0, **options}

    def attempt(self, first, last, *, state=None, keep_at=None, step=True):
        logs = [AdvancedLogger(self.folder, "run", rank=rank, world_size=2, **self.options) for rank in (0, 1)]
        kept = None
        for log in logs:
            if state is not None:
                log.load_state_dict(json.loads(json.dumps(state)))
        for batch in range(first, last + 1):
            for rank, log in enumerate(logs):
                log.log_batch_progress(1, batch, 100 if step else None, logs[0].attempt + batch / 1000, mine=rank)
            if batch == keep_at:
                kept = logs[0].state_dict()
        logs[0].log_validation(1, {"accuracy": last / 100})
        for log in logs:
            log.close()
        return kept


def rows(run, *columns):
    return list(zip(*(run.metrics[name].to_pylist() for name in columns), strict=True))


@pytest.mark.parametrize("options", [{}, {"parquet": False}])
def test_a_resumed_run_is_one_series_without_what_its_attempts_logged_after_their_checkpoints(tmp_path, options):
    training = Training(tmp_path, **options)
    state = training.attempt(1, 10, keep_at=6)
    state = training.attempt(7, 12, state=state, keep_at=8)
    training.attempt(9, 11, state=state)
    run = read_run(tmp_path, "run")
    for rank in (0, 1):
        mine = [(attempt, step) for attempt, step, of in rows(run, "attempt", "step", "rank") if of == rank]
        assert mine == [*((1, n) for n in range(1, 7)), (2, 7), (2, 8), (3, 9), (3, 10), (3, 11)]
    assert run.validation["accuracy"].to_pylist() == [0.11]
    assert len(rows(read_run(tmp_path, "run", attempts="latest"), "step")) == 2 * 3
    every = read_run(tmp_path, "run", attempts="all")
    assert len(rows(every, "step")) == 2 * (10 + 6 + 3)
    assert every.validation["accuracy"].to_pylist() == [0.10, 0.12, 0.11]
    series = run.series("loss")
    assert series["step"].to_pylist() == list(range(1, 12))
    assert series["loss"].to_pylist() == pytest.approx(
        [*(1 + n / 1000 for n in range(1, 7)), 2.007, 2.008, 3.009, 3.01, 3.011]
    )
    processes = run.processes.select(["attempt", "rank", "resumed_from_attempt", "resumed_from_step"])
    assert [tuple(row.values()) for row in processes.to_pylist()] == [
        *[(1, 0, None, None), (1, 1, None, None)],
        *[(2, 0, 1, 6), (2, 1, 1, 6)],
        *[(3, 0, 2, 8), (3, 1, 2, 8)],
    ]


def test_of_all_attempts_each_has_a_series_of_its_own(tmp_path):
    training = Training(tmp_path)
    training.attempt(1, 3)
    training.attempt(2, 3)
    every = read_run(tmp_path, "run", attempts="all")
    wanted = [(1, 1), (1, 2), (1, 3), (2, 2), (2, 3)]
    for table in (every.series("loss"), every.step_times()):
        found = list(zip(table["attempt"].to_pylist(), table["step"].to_pylist(), strict=True))
        assert found == [place for place in wanted if table.column_names[2] == "loss" or place not in ((1, 1), (2, 2))]
    assert every.series("mine", reduce="sum")["count"].to_pylist() == [2] * 5
    assert every.series("mine", reduce=None).num_rows == 10


def test_what_lies_before_the_state_stays_although_its_step_comes_again(tmp_path):
    training = Training(tmp_path)
    state = training.attempt(1, 10, keep_at=8)
    training.attempt(5, 6, state=state)  # from an older checkpoint of the model than of the log
    run = read_run(tmp_path, "run")
    expected = {(1, step) for step in range(1, 9)} | {(2, 5), (2, 6)}
    assert sorted(rows(run, "attempt", "step")) == sorted([*expected] * 2)
    assert sum(batch.num_rows for batch in run.scan(["mine"])) == 20


def test_a_start_that_died_before_its_first_record_hides_nothing(tmp_path):
    training = Training(tmp_path)
    training.attempt(1, 4)
    AdvancedLogger(tmp_path, "run", rank=0, world_size=2, console="off", memory_interval_s=0).close()
    run = read_run(tmp_path, "run")
    assert (run.attempts, set(rows(run, "attempt"))) == ([1, 2], {(1,)})


def test_without_steps_the_time_of_the_checkpoint_decides(tmp_path):
    training = Training(tmp_path)
    state = training.attempt(1, 10, keep_at=6, step=False)
    assert state["step"] is None
    training.attempt(7, 8, state=state, step=False)
    run = read_run(tmp_path, "run")
    expected = [*((1, batch) for batch in range(1, 7)), (2, 7), (2, 8)]
    assert sorted(rows(run, "attempt", "batch")) == sorted([*expected] * 2)


def test_a_start_from_nothing_is_a_series_of_its_own_and_nothing_else_is_hidden(tmp_path):
    training = Training(tmp_path)
    training.attempt(1, 4)
    training.attempt(1, 2)
    run = read_run(tmp_path, "run")
    assert set(rows(run, "attempt")) == {(2,)}
    assert run.attempts == [1, 2]
    assert set(run.events["attempt"].to_pylist()) == {1, 2}
