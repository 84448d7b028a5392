"""The progress tracker: every milestone once, the right numbers beside it, and next to nothing in between."""

from __future__ import annotations

import io
import logging
import sys
import time

import pytest

from advlog_fast.control import events
from advlog_fast.control.console import Console
from advlog_fast.progress import TrainingProgressTracker


class Logger:
    """As much of a logger as the tracker asks for: it keeps what it is told."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.console = Console("plain", 0, logging.INFO, io.StringIO())
        self.told: list[tuple] = []
        self.misuses: list = []

    @property
    def _plane(self) -> Logger:
        return self

    def _emit(self, make) -> None:
        self.told.append(tuple(make(events).fields.values()))

    def _take_misuses(self, misuses) -> None:
        self.misuses += misuses

    def marks(self, scope: str) -> list[tuple[int, int, int]]:
        return [(percent, epoch, batch) for s, percent, epoch, batch, *_ in self.told if s == scope]


@pytest.fixture
def logger() -> Logger:
    return Logger()


def train(logger, epochs, batches, total_batches=..., first=1):
    tracker = TrainingProgressTracker(logger)
    for epoch in range(first, epochs + 1):
        for batch in range(1, batches + 1):
            tracker.update_progress(epoch, batch, batches if total_batches is ... else total_batches, epochs)
    return tracker


def test_each_milestone_is_told_once_at_the_first_batch_that_reaches_it(logger):
    train(logger, epochs=4, batches=10)
    per_epoch = [(25, 3), (50, 5), (75, 8), (90, 9)]
    assert logger.marks("epoch") == [(p, epoch, b) for epoch in range(1, 5) for p, b in per_epoch]
    assert logger.marks("overall") == [(25, 1, 10), (50, 2, 10), (75, 3, 10), (90, 4, 6)]


def test_calls_that_skip_batches_lose_no_milestone(logger):
    tracker = TrainingProgressTracker(logger)
    for batch in (40, 100):
        tracker.update_progress(1, batch, 100, 1)
    assert logger.marks("epoch") == [(25, 1, 40), (50, 1, 100), (75, 1, 100), (90, 1, 100)]


def test_a_repeated_batch_repeats_no_milestone(logger):
    tracker = TrainingProgressTracker(logger)
    for _ in range(3):
        tracker.update_progress(1, 50, 100, 10)
    assert logger.marks("epoch") == [(25, 1, 50), (50, 1, 50)]


def test_an_iterable_without_a_length_has_milestones_of_the_whole_only(logger):
    train(logger, epochs=4, batches=5, total_batches=None)
    assert logger.marks("epoch") == []
    assert logger.marks("overall") == [(25, 2, 1), (50, 3, 1), (75, 4, 1)]


def test_a_continued_training_does_not_repeat_what_the_attempt_before_told(logger):
    train(logger, epochs=10, batches=10, first=6)
    assert [mark[0] for mark in logger.marks("overall")] == [75, 90]


def test_epochs_counted_from_zero(logger):
    tracker = TrainingProgressTracker(logger)
    for epoch in range(4):
        for batch in range(1, 3):
            tracker.update_progress(epoch, batch, 2, 4)
    assert logger.marks("overall") == [(25, 0, 2), (50, 1, 2), (75, 2, 2), (90, 3, 2)]


def test_a_batch_beyond_the_total_counts_as_the_last(logger):
    TrainingProgressTracker(logger).update_progress(1, 12, 10, 1)
    assert logger.marks("epoch")[-1] == (90, 1, 10)


def test_rate_and_time_left_are_of_this_epoch_and_of_the_whole(logger):
    tracker = TrainingProgressTracker(logger)
    tracker.update_progress(1, 1, 11, 2)
    time.sleep(0.5)
    tracker.update_progress(1, 6, 11, 2)
    of_epoch = next(told for told in logger.told if told[:2] == ("epoch", 50))
    of_whole = next(told for told in logger.told if told[:2] == ("overall", 25))
    # 5 batches in half a second, a little more on a busy machine: 5 more in this epoch, 16 in all.
    assert 2.0 < of_epoch[5] <= 10.0
    assert of_epoch[6] == pytest.approx(5 / of_epoch[5], rel=0.05, abs=0.06)  # rounded to tenths
    assert of_whole[6] == pytest.approx(16 / of_epoch[5], rel=0.05, abs=0.06)


def test_the_first_call_of_all_knows_no_rate(logger):
    TrainingProgressTracker(logger).update_progress(1, 1, 1, 1)
    assert {told[5:] for told in logger.told if told[0] == "epoch"} == {(None, None)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("1", 1, 1, 1), "epoch: expected an integer, got str '1'"),
        ((1, 1.5, 1, 1), "batch: expected an integer, got float 1.5"),
        ((1, True, 1, 1), "batch: expected an integer, got bool True"),
        ((1, -1, 1, 1), "batch: expected an integer from 0 to 2147483647, got int -1"),
        ((-2, 1, 1, 1), "epoch: expected an integer from 0 to 2147483647, got int -2"),
    ],
)
@pytest.mark.parametrize("warm", [False, True])
def test_a_call_that_says_no_position_is_left_out_and_named(logger, arguments, message, warm):
    tracker = TrainingProgressTracker(logger)
    if warm:
        tracker.update_progress(1, 1, 5, 5)
    tracker.update_progress(*arguments)
    assert [misuse.message() for misuse in logger.misuses] == [message]
    tracker.update_progress(1, 4, 4, 4)
    assert logger.marks("epoch") == [(25, 1, 4), (50, 1, 4), (75, 1, 4), (90, 1, 4)]


@pytest.mark.parametrize("unknown", [None, 0, -1, float("inf"), sys.maxsize])
def test_a_total_may_be_unknown(logger, unknown):
    tracker = TrainingProgressTracker(logger)
    for batch in range(1, 11):
        tracker.update_progress(1, batch, 10, unknown)
    tracker.update_progress(2, 1, unknown, unknown)
    assert logger.marks("epoch") == [(25, 1, 3), (50, 1, 5), (75, 1, 8), (90, 1, 9)]
    assert logger.marks("overall") == logger.misuses == []


def test_a_total_that_is_none_is_named_and_unknown(logger):
    tracker = TrainingProgressTracker(logger)
    for batch in range(1, 11):
        tracker.update_progress(1, batch, "x", object())
    assert {misuse.name for misuse in logger.misuses} == {"total_batches", "total_epochs"}
    assert logger.told == []


def test_what_cannot_be_compared_is_no_total(logger):
    numpy = pytest.importorskip("numpy")
    tracker = TrainingProgressTracker(logger)
    for batch in (5, 10):
        tracker.update_progress(1, batch, numpy.array([10, 20]), numpy.array([1, 2]))
    assert len(logger.misuses) == 4


def test_integers_of_numpy_are_integers(logger):
    numpy = pytest.importorskip("numpy")
    tracker = TrainingProgressTracker(logger)
    for batch in numpy.arange(1, 11):
        tracker.update_progress(numpy.int32(1), batch, numpy.int64(10), 1)
    assert logger.marks("epoch") == [(25, 1, 3), (50, 1, 5), (75, 1, 8), (90, 1, 9)]
    assert {type(value) for told in logger.told for value in told[2:5]} == {int}


@pytest.mark.parametrize("other", [None, 3, "log", logging.getLogger(), object()])
def test_what_is_no_logger_is_refused(other):
    with pytest.raises(TypeError, match="logger: expected an AdvancedLogger"):
        TrainingProgressTracker(other)


def test_a_disabled_logger_makes_it_do_nothing():
    logger = Logger(enabled=False)
    train(logger, epochs=2, batches=10)
    assert logger.told == []


def test_a_call_between_milestones_compares_numbers_and_does_nothing_else(logger):
    tracker = TrainingProgressTracker(logger)
    tracker.update_progress(1, 1, 1_000_000, 10)
    called = []

    def record(frame, event, argument):
        if event == "call":
            called.append(frame.f_code.co_name)
        elif event == "c_call":
            called.append(argument.__name__)

    sys.setprofile(record)
    try:
        tracker.update_progress(1, 2, 1_000_000, 10)
    finally:
        sys.setprofile(None)
    assert called == ["update_progress", "update", "setprofile"]
    assert logger.told == []
