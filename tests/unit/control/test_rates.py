"""Batches, samples and tokens a second, of trainings that log in every way that real ones do."""

from __future__ import annotations

import time

import pytest

from advlog_fast import AdvancedLogger, read_jsonl


@pytest.fixture
def log(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as logger:
        yield logger


def ends(log, tmp_path):
    log.flush()
    return [event for event in read_jsonl(tmp_path / "run_events.jsonl") if event["event"] == "epoch_end"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("told", [False, True])
def test_where_every_tenth_batch_is_logged_all_of_them_count(log, tmp_path, first, told):
    if told:
        log.start_epoch(1)
    for batch in range(first, 100 + first):
        time.sleep(0.002)
        if batch % 10 == 0:
            log.log_batch_progress(1, batch, 100, 0.5, samples=64, tokens=1000)
    log.end_epoch(1)
    (end,) = ends(log, tmp_path)
    assert end["batches"] == 100
    assert end["samples_per_s"] == pytest.approx(64 * end["batches_per_s"], rel=0.02)
    assert end["tokens_per_s"] == pytest.approx(1000 * end["batches_per_s"], rel=0.02)
    # The duration is the epoch's own: whichever it is, the rate belongs to it.
    counted = 100 if told else 90
    assert end["batches_per_s"] == pytest.approx(counted / end["duration_s"], rel=1e-2)


def test_an_epoch_that_ends_early_has_the_batches_that_it_had(log, tmp_path):
    log.start_epoch(1)
    for batch in range(5, 50, 5):
        log.log_batch_progress(1, batch, 100, 0.5)
    log.end_epoch(1)
    assert ends(log, tmp_path)[0]["batches"] == 45


def test_an_epoch_number_that_comes_again_counts_from_its_start(log, tmp_path):
    for fold in range(3):
        log.start_epoch(1)
        for batch in range(1, 11):
            log.log_batch_progress(1, batch, 10, float(fold), samples=2)
        log.end_epoch(1)
    found = ends(log, tmp_path)
    assert [end["batches"] for end in found] == [10, 10, 10]
    assert [end["mean_loss"] for end in found] == pytest.approx([0.0, 1.0, 2.0])
    for end in found:
        assert end["samples_per_s"] == pytest.approx(20 / end["duration_s"], rel=1e-2)


def test_without_starts_an_epoch_that_ends_again_has_what_came_since(log, tmp_path):
    for _ in range(3):
        for batch in range(1, 11):
            log.log_batch_progress(1, batch, 10, 0.5)
        log.end_epoch(1)
    assert [end["batches"] for end in ends(log, tmp_path)] == [10, 10, 10]


def test_after_a_rollback_the_epoch_counts_from_its_second_start(log, tmp_path):
    log.start_epoch(1)
    for batch in range(1, 31):
        log.log_batch_progress(1, batch, 40, 0.5)
    log.start_epoch(1)
    for batch in range(21, 41):
        log.log_batch_progress(1, batch, 40, 0.5)
    log.end_epoch(1)
    assert ends(log, tmp_path)[0]["batches"] == 20


def test_a_record_of_another_epoch_in_between_takes_no_batch_away(log, tmp_path):
    log.start_epoch(3)
    for batch in range(1, 11):
        log.log_batch_progress(3, batch, 10, 1.0, samples=2)
        if batch == 5:
            log.log_batch_progress(0, 1, 1, 9.0, samples=100)
    log.end_epoch(3)
    (end,) = ends(log, tmp_path)
    assert (end["batches"], end["mean_loss"]) == (10, 1.0)
    assert end["samples_per_s"] == pytest.approx(20 / end["duration_s"], rel=1e-2)


def test_a_training_resumed_within_an_epoch_has_only_its_own_batches(log, tmp_path):
    log.start_epoch(4)
    for batch in range(57, 101):
        log.log_batch_progress(4, batch, 100, 1.0)
    log.end_epoch(4)
    assert ends(log, tmp_path)[0]["batches"] == 44


@pytest.mark.parametrize("both", [False, True])
def test_two_records_of_one_batch_are_one_batch(log, tmp_path, both):
    log.start_epoch(1)
    for batch in range(1, 11):
        log.log_batch_progress(1, batch, 10, 1.0, discriminator=1.0, **({"samples": 3} if both else {}))
        log.log_batch_progress(1, batch, 10, 2.0, generator=1.0, samples=3)
    log.end_epoch(1)
    (end,) = ends(log, tmp_path)
    assert end["batches"] == 10
    # As of micro-batches: each says its own.
    assert end["samples_per_s"] == pytest.approx((60 if both else 30) / end["duration_s"], rel=1e-2)


def test_an_evaluation_within_an_epoch_counts_no_batch_of_it(log, tmp_path):
    log.start_epoch(1)
    for batch in range(1, 101):
        log.log_batch_progress(1, batch, 100, 1.0, samples=8)
        if batch % 10 == 0:
            for each in range(1, 6):
                log.log_batch_progress(1, each, 5, 2.0, step=batch, samples=8)
    log.end_epoch(1)
    (end,) = ends(log, tmp_path)
    assert (end["batches"], end["mean_loss"]) == (100, 1.0)
    assert end["samples_per_s"] == pytest.approx(800 / end["duration_s"], rel=1e-2)


def test_two_streams_of_one_epoch_count_their_records(log, tmp_path):
    log.start_epoch(1)
    for batch in range(1, 76):
        if batch > 25:
            log.log_batch_progress(1, batch - 25, 100, 1.0)
        log.log_batch_progress(1, batch, 100, 1.0)
    log.end_epoch(1)
    assert ends(log, tmp_path)[0]["batches"] == 125


@pytest.mark.parametrize(("total", "counted"), [(250, [250] * 3), (1001, [1001] * 3), (101, [2, 101, 101])])
def test_every_hundredth_batch_and_the_last(log, tmp_path, total, counted):
    for epoch in (1, 2, 3):
        log.start_epoch(epoch)
        for batch in range(1, total + 1):
            if batch % 100 == 0 or batch == total:
                log.log_batch_progress(epoch, batch, total, 1.0)
        log.end_epoch(epoch)
    # Of two records of the first epoch nobody knows what came before them: it may have been resumed in its middle.
    assert [end["batches"] for end in ends(log, tmp_path)] == counted


def test_where_the_batch_numbers_say_nothing_the_records_count(log, tmp_path):
    log.start_epoch(1)
    for step in range(12):
        log.log_batch_progress(1, 0, None, 1.0, step=step, samples=5)
    log.end_epoch(1)
    (end,) = ends(log, tmp_path)
    assert end["batches"] == 12
    assert end["samples_per_s"] == pytest.approx(60 / end["duration_s"], rel=1e-2)


def test_the_running_epoch_has_the_rate_of_its_records(log):
    log.start_epoch(1)
    for batch in range(0, 100, 10):
        log.log_batch_progress(1, batch, 1000, 1.0, samples=8)
        time.sleep(0.004)
    rates = log.get_training_summary()["performance"]
    # Nine strides of ten batches lie between the first and the last record, and each took 4 ms at least.
    assert 100 < rates["batches_per_s"] <= 90 / (9 * 0.004)
    assert rates["samples_per_s"] == pytest.approx(8 * rates["batches_per_s"], rel=1e-2)


@pytest.mark.parametrize(
    ("times", "wanted"),
    [
        ([0.123] * 5, (0.123, 0.123, 0.123)),
        ([0.118, 0.12, 0.13, 0.136], (0.12, 0.136, 0.136)),
        ([1.0, 10.0, 100.0], (10.0, 100.0, 100.0)),
        ([-1.0, 2.0, 3.0, 4.0], (2.0, 4.0, 4.0)),
    ],
)
def test_percentiles_are_of_the_nearest_rank_and_never_outside_the_data(log, times, wanted):
    for value in times:
        log.log_batch_progress(1, 1, 10, 1.0, batch_time=value)
    told = log.get_training_summary()["performance"]["batch_time"]
    found = (told["p50"], told["p90"], told["p99"])
    assert found == pytest.approx(wanted, rel=0.01)
    assert all(told["min"] <= each <= told["max"] for each in found)


def test_a_percentile_outside_of_what_the_sketch_can_tell_is_not_told(log):
    for value in (-1.0, -2.0, 1e-12, 1.0):
        log.log_batch_progress(1, 1, 10, 1.0, batch_time=value)
    told = log.get_training_summary()["performance"]["batch_time"]
    assert (told["p50"], told["p99"]) == (pytest.approx(float("nan"), nan_ok=True), pytest.approx(1.0, rel=0.01))


@pytest.mark.parametrize("total", [lambda batch: batch + 1, lambda batch: None if batch <= 50 else 100])
def test_of_a_stream_whose_total_changes_the_loss_is_that_of_all_batches(log, tmp_path, total):
    log.start_epoch(1)
    for batch in range(1, 101):
        log.log_batch_progress(1, batch, total(batch), float(batch), step=batch)
    log.end_epoch(1)
    (end,) = ends(log, tmp_path)
    assert (end["mean_loss"], end["batches"]) == (50.5, 100)
