"""The step that follows from epoch, batch and total_batches: one base a run, and a word where something speaks against
it."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys

import pytest

from advlog_fast import AdvancedLogger, TrainingMetrics, read_jsonl, read_run


def opened(folder, **options):
    return AdvancedLogger(folder, "run", **{"console": "off", "memory_interval_s": 0, **options})


def steps_of(folder, **choice):
    return read_run(folder, "run", **choice).metrics["step"].to_pylist()


def events_of(folder, name):
    return [event for event in read_jsonl(folder / "run_events.jsonl") if event["event"] == name]


def train(log, epochs, batches, total):
    for epoch in epochs:
        for batch in batches:
            log.log_batch_progress(epoch, batch, total, 1.0)


@pytest.mark.parametrize(
    ("epochs", "batches", "steps"),
    [
        (range(2), range(3), [0, 1, 2, 3, 4, 5]),
        (range(2), range(1, 4), [1, 2, 3, 4, 5, 6]),
        (range(1, 3), range(3), [0, 1, 2, 3, 4, 5]),
        (range(1, 3), range(1, 4), [1, 2, 3, 4, 5, 6]),
        (range(5, 7), range(1, 4), [13, 14, 15, 16, 17, 18]),
    ],
)
def test_the_first_record_says_which_epoch_is_the_first(tmp_path, epochs, batches, steps):
    with opened(tmp_path) as log:
        train(log, epochs, batches, 3)
    assert steps_of(tmp_path) == steps
    assert not events_of(tmp_path, "steps_contradicted")
    assert not events_of(tmp_path, "steps_collide")


@pytest.mark.parametrize("call", ["mapping", "object", "slow"])
def test_every_call_derives_it_alike(tmp_path, call):
    with opened(tmp_path) as log:
        for epoch in range(2):
            row = {"epoch": epoch, "batch": 1, "total_batches": 10, "loss": 0.5}
            if call == "mapping":
                log.log_metrics(row)
            elif call == "object":
                log.log_metrics(TrainingMetrics(**row))
            else:
                log.log_batch_progress("0" if epoch == 0 else epoch, 1, 10, 0.5, new=float(epoch))
                log.log_metrics({**row, "batch": 2, "late": "2"})
    found = steps_of(tmp_path)
    assert found == ([1, 11] if call != "slow" else [None, 2, 11, 12])


def test_a_record_with_a_step_of_its_own_says_nothing_of_the_base(tmp_path):
    with opened(tmp_path) as log:
        log.log_batch_progress(0, 1, 10, 0.5, step=700)
        log.log_metrics({"epoch": 0, "loss": 1.0})
        log.log_batch_progress(0, 1, None, 0.5)
        assert log.state_dict()["first_epoch"] is None
        log.log_batch_progress(1, 1, 10, 0.5)
        assert log.state_dict()["first_epoch"] == 1
    assert steps_of(tmp_path) == [700, None, None, 1]


@pytest.mark.parametrize(("first", "steps"), [(0, [13, 23]), (1, [3, 13])])
def test_the_option_says_it(tmp_path, first, steps):
    with opened(tmp_path, first_epoch=first) as log:
        train(log, (1, 2), [3], 10)
    assert steps_of(tmp_path) == steps
    with opened(tmp_path) as log:
        train(log, (1, 2), [3], 10)
    assert steps_of(tmp_path) == steps
    for wrong in (2, -1):
        with pytest.raises(ValueError, match="first_epoch: expected an integer from 0 to 1"):
            opened(tmp_path, first_epoch=wrong)
    with pytest.raises(TypeError, match="first_epoch: expected an integer"):
        opened(tmp_path, first_epoch="0")


def test_later_attempts_and_other_ranks_count_as_the_run_does(tmp_path):
    with opened(tmp_path) as log:
        train(log, range(2), range(3), 3)
    with opened(tmp_path) as log:
        train(log, [5], range(3), 3)
    assert steps_of(tmp_path) == [15, 16, 17]
    logs = [opened(tmp_path, rank=rank, world_size=2) for rank in (0, 1)]
    for log in logs:
        train(log, [1], [0], 3)
        log.close()
    assert steps_of(tmp_path) == [3, 3]


def test_ranks_that_begin_at_once_count_alike(tmp_path):
    logs = [opened(tmp_path, rank=rank, world_size=2) for rank in (0, 1)]
    logs[0].log_batch_progress(0, 1, 10, 1.0)
    logs[1].log_batch_progress(1, 1, 10, 1.0)  # it does not know of an epoch 0
    for log in logs:
        log.close()
    assert steps_of(tmp_path) == [1, 11]


def test_children_count_as_their_parent_does(tmp_path):
    log = opened(tmp_path)
    context = multiprocessing.get_context("fork")
    for epoch in (0, 1):
        child = context.Process(target=log.log_batch_progress, args=(epoch, 2, 10, 1.0))
        child.start()
        child.join()
        log.flush()
    train(log, [1], [3], 10)
    log.close()
    assert steps_of(tmp_path) == [2, 12, 13]


def test_handles_count_as_the_logger_does(tmp_path):
    with (
        AdvancedLogger.shared(tmp_path, "run", console="off") as first,
        AdvancedLogger.shared(tmp_path, "run") as second,
    ):
        first.log_batch_progress(0, 1, 10, 1.0)
        second.log_batch_progress(1, 1, 10, 1.0)
    assert steps_of(tmp_path) == [1, 11]


def test_an_epoch_0_after_the_first_record_is_said_once_and_changes_nothing(tmp_path):
    with opened(tmp_path) as log:
        train(log, [1, 0, 0, 2], [3], 10)
    assert steps_of(tmp_path) == [3, -7, -7, 13]
    (event,) = events_of(tmp_path, "steps_contradicted")
    assert (event["first_epoch"], event["but"]) == (1, "a record is of epoch 0: its step is -7")
    assert "WARNING steps_contradicted" in (tmp_path / "run_main.log").read_text()


def test_an_option_against_the_run_holds_and_is_said(tmp_path):
    with opened(tmp_path) as log:
        train(log, [1], [3], 10)
    with opened(tmp_path, first_epoch=0) as log:
        train(log, [1], [3], 10)
    assert steps_of(tmp_path) == [13]
    (event,) = events_of(tmp_path, "steps_contradicted")
    assert (event["first_epoch"], event["but"]) == (0, "the run has counted from epoch 1")


def test_another_total_that_makes_steps_collide_is_said_once(tmp_path):
    with opened(tmp_path) as log:
        train(log, [1, 2], range(1, 101), 100)
        train(log, [3], range(1, 51), 50)
        train(log, [4], range(1, 51), 50)
    (event,) = events_of(tmp_path, "steps_collide")
    assert {name: event[name] for name in ("epoch", "total_batches", "step", "last_step")} == {
        "epoch": 3, "total_batches": 50, "step": 101, "last_step": 200,
    }  # fmt: skip
    assert len(steps_of(tmp_path)) == 300


def test_another_total_after_a_resume_is_said(tmp_path):
    with opened(tmp_path) as log:
        train(log, [1, 2], range(1, 101), 100)
        state = log.state_dict()
    with opened(tmp_path) as log:
        log.load_state_dict(json.loads(json.dumps(state)))
        train(log, [3], range(1, 51), 50)
    (event,) = events_of(tmp_path, "steps_collide")
    assert (event["step"], event["last_step"]) == (101, 200)


@pytest.mark.parametrize("totals", [[100, 100, 120], [100, 200, 300]])
def test_another_total_that_leaves_a_gap_is_none(tmp_path, totals):
    with opened(tmp_path) as log:
        for epoch, total in enumerate(totals, 1):
            train(log, [epoch], range(1, total + 1), total)
    assert not events_of(tmp_path, "steps_collide")


def test_the_batches_of_an_epoch_logged_again_collide_with_nothing(tmp_path):
    with opened(tmp_path) as log:
        train(log, [1, 2], range(1, 101), 100)
        state = log.state_dict()
        train(log, [2], range(50, 101), 100)
    with opened(tmp_path) as log:
        log.load_state_dict(state)
        train(log, [2, 3], range(1, 101), 100)
    assert not events_of(tmp_path, "steps_collide")


def test_a_stream_that_grows_costs_a_call_no_more_after_a_while(tmp_path):
    with opened(tmp_path) as log:
        for batch in range(1, 1001):
            log.log_batch_progress(2, batch, 1000 + batch, 1.0)
        assert log._steps()[0] is not None
        assert log.log_batch_progress(2, 1001, 5000, 1.0) is None
    assert len(steps_of(tmp_path)) == 1001


def test_the_base_is_carried_in_the_state(tmp_path):
    with opened(tmp_path / "one") as log:
        train(log, [0], [3], 10)
        state = log.state_dict()
    assert state["first_epoch"] == 0
    with opened(tmp_path / "other") as log:  # a folder of its own for each job
        log.load_state_dict(state)
        train(log, [2], [3], 10)
    assert steps_of(tmp_path / "other") == [23]
    for epoch in (0, 1):  # begun anew from the weights of another run: its first record says how it counts
        with opened(tmp_path / f"new{epoch}") as log:
            log.load_state_dict(state)
            train(log, [epoch], [3], 10)
        assert steps_of(tmp_path / f"new{epoch}") == [3]
    with opened(tmp_path / "third") as log:
        train(log, [1], [3], 10)
        own = log.state_dict()
    with opened(tmp_path / "third") as log:
        log.load_state_dict({**own, "first_epoch": 0})
    (event,) = events_of(tmp_path / "third", "steps_contradicted")
    assert event["but"] == "the state counts from epoch 0"


def test_a_run_of_an_earlier_version_goes_on_from_1(tmp_path):
    opened(tmp_path).close()
    file = tmp_path / ".advlog" / "run" / "run.json"
    run = json.loads(file.read_text())
    assert run.pop("first_epoch") is None
    file.write_text(json.dumps(run))
    with opened(tmp_path) as log:
        train(log, [0, 1], [3], 10)
    assert steps_of(tmp_path) == [-7, 3]
    assert len(events_of(tmp_path, "steps_contradicted")) == 1


def test_a_folder_that_is_gone_ends_no_call(tmp_path):
    with opened(tmp_path) as log:
        shutil.rmtree(tmp_path / ".advlog", ignore_errors=True)  # the logger may be writing there
        train(log, [0, 1], [3], 10)
        assert log.state_dict()["first_epoch"] == 0


RANKS = """
import os, sys
from advlog_fast import AdvancedLogger
rank = int(sys.argv[2])
with AdvancedLogger(sys.argv[1], "run", rank=rank, world_size=4, console="off", memory_interval_s=0) as log:
    for epoch in range(rank % 2, 3):
        log.log_batch_progress(epoch, 1, 10, 1.0)
"""


def test_processes_that_race_for_the_base_agree(tmp_path):
    environment = {**os.environ, "MASTER_ADDR": "localhost", "MASTER_PORT": "29511"}
    ranks = [subprocess.Popen([sys.executable, "-c", RANKS, tmp_path, str(rank)], env=environment) for rank in range(4)]
    assert [rank.wait(60) for rank in ranks] == [0] * 4
    base = json.loads((tmp_path / ".advlog" / "run" / "first_epoch.json").read_text())["first_epoch"]
    table = read_run(tmp_path, "run").metrics
    for epoch, step in zip(table["epoch"].to_pylist(), table["step"].to_pylist(), strict=True):
        assert step == (epoch - base) * 10 + 1


@pytest.mark.parametrize("total", [-5, 0, -(2**31), 2**31 - 1])
def test_no_total_costs_a_record(tmp_path, total):
    with opened(tmp_path) as log:
        for batch in range(3):
            log.log_batch_progress(3, batch, total, 0.5)
        assert log.health().dropped_at_entry == {"full": 0, "closed": 0, "forked": 0}
    assert steps_of(tmp_path) == [2 * total + batch for batch in range(3)]
