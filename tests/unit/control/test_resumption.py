"""A checkpoint's word of where the logging stood, and an attempt that goes on from it."""

from __future__ import annotations

import json

import pytest

from advlog_fast import AdvancedLogger, read_jsonl

STATE = {
    "run_id": "0" * 32,
    "attempt": 1,
    "step": 4,
    "epoch": 1,
    "batch": 4,
    "timestamp": "2026-11-22T19:31:04.123456Z",
}


def log_batches(log, first, last):
    for batch in range(first, last + 1):
        log.log_batch_progress(1, batch, 100, 1 / batch)


@pytest.fixture
def state(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log_batches(log, 1, 7)
        return log.state_dict()


def test_the_state_covers_every_call_before_and_is_plain_json(tmp_path, state):
    assert json.loads(json.dumps(state)) == state
    run_id = json.loads((tmp_path / "run_summary.json").read_text())["run_id"]
    timestamp = state.pop("timestamp")
    assert 0 < state.pop("duration_s") < 60
    assert timestamp >= read_jsonl(tmp_path / "run_metrics.jsonl")[-1]["timestamp"].strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    place = {"step": 7, "max_step": 7, "epoch": 1, "batch": 7, "total_batches": 100, "first_epoch": 1}
    assert state == {"run_id": run_id, "attempt": 1, "rank": 0, "seq": 7, "best": None, **place}


def test_the_state_can_be_asked_for_after_the_end(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log_batches(log, 1, 7)
    assert (log.state_dict()["attempt"], log.state_dict()["step"]) == (1, 7)


def test_a_state_before_the_first_record_knows_no_step(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        state = log.state_dict()
        assert (state["step"], state["epoch"], state["batch"]) == (None, None, None)
        log.load_state_dict(state)


def test_an_attempt_that_goes_on_says_from_where(tmp_path, state):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        assert log.get_training_summary()["resumed_from"] is None
        log.load_state_dict(state)
        log_batches(log, 8, 9)
        assert log.get_training_summary()["resumed_from"] == state
    assert json.loads((tmp_path / "run_summary.json").read_text())["resumed_from"] == state
    events = [event for event in read_jsonl(tmp_path / "run_events.jsonl") if event["event"] == "resumed"]
    assert [event["resumed_from"] for event in events] == [state]
    place = (
        f"step=7 epoch=1 batch=7 timestamp={state['timestamp']} rank=0 seq=7 max_step=7 total_batches=100 first_epoch=1"
    )
    resumed = f"resumed run_id={state['run_id']} attempt=1 {place}"
    assert f"INFO {resumed}\n" in (tmp_path / "run_main.log").read_text()
    assert f"INFO {resumed}\n" in (tmp_path / "run_training.log").read_text()
    assert [row["step"] for row in read_jsonl(tmp_path / "run_metrics.jsonl")] == list(range(1, 10))


def test_going_back_within_an_attempt_is_an_event_and_no_more(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log_batches(log, 1, 2)
        log.load_state_dict(log.state_dict())
    assert not list((tmp_path / ".advlog" / "run" / "attempts").glob("*origin*"))


@pytest.mark.parametrize(("other", "said"), [({"step": 3}, True), ({"timestamp": STATE["timestamp"], "seq": 9}, False)])
def test_a_second_rank_resumed_from_elsewhere_is_said(tmp_path, state, other, said):
    # Ranks that each keep a state of one step are resumed from one place.
    first, second = (AdvancedLogger(tmp_path, "run", console="off", rank=rank, world_size=2) for rank in (0, 1))
    first.load_state_dict(state)
    second.load_state_dict({**state, "rank": 1, **other})
    assert (first.attempt, first.close(), second.close()) == (second.attempt, True, True)
    assert ("rank 0 was resumed from another state" in (tmp_path / "run_main.rank00001.log").read_text()) == said


def test_a_logger_that_is_off_has_no_state_and_its_state_is_nothing_to_go_on_from(tmp_path):
    off = AdvancedLogger(tmp_path, "run", enabled=False)
    assert off.state_dict() == {}
    off.load_state_dict(STATE)
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.load_state_dict({})
        assert log.get_training_summary()["resumed_from"] is None


def test_no_state_is_ignored(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.load_state_dict(None)
        log.load_state_dict({})
    assert log.get_training_summary()["resumed_from"] is None


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([STATE], TypeError, r"state_dict: expected what state_dict\(\) gave, got list"),
        ({**STATE, "run_id": 3}, ValueError, r"state_dict\['run_id'\]: expected what state_dict\(\) gave, got int 3"),
        ({**STATE, "step": "4"}, ValueError, r"state_dict\['step'\]: expected what state_dict\(\) gave, got str '4'"),
        (
            {name: STATE[name] for name in STATE if name != "step"},
            ValueError,
            r"state_dict\['step'\]: expected what state_dict\(\) gave, got NoneType None",
        ),
        ({"model": {}}, ValueError, r"state_dict\['run_id'\]: expected what state_dict\(\) gave, got NoneType None"),
    ],
)
def test_anything_else_is_refused(tmp_path, given, error, message):
    with AdvancedLogger(tmp_path, "run", console="off") as log, pytest.raises(error, match=message):
        log.load_state_dict(given)


@pytest.mark.parametrize(
    "wrong", [{"timestamp": "x"}, {"max_step": 2**70}, {"total_batches": 10**30}, {"first_epoch": 7}, {"seq": True}]
)
def test_a_state_that_no_logger_gave_is_refused_before_anything_is_noted(tmp_path, state, wrong):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        with pytest.raises(ValueError, match=r"state_dict\['.*'\]: expected what state_dict\(\) gave"):
            log.load_state_dict({**state, **wrong})
        log.load_state_dict(state)
        assert log.get_training_summary()["resumed_from"] == state
