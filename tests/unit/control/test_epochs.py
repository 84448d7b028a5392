"""Epochs timed, and the best validation."""

import math
import time

import pytest

from advlog_fast.control.epochs import KEPT_EPOCHS, Best, Epochs
from advlog_fast.snapshots import EpochTotals, MetricStats


def totals(epoch, batches=10, samples=0.0, seconds=2.0):
    loss = MetricStats(count=batches, mean=0.5)
    return EpochTotals(epoch, batches, 10**9, 10**9 + int(seconds * 1e9), samples, 0.0, loss, MetricStats())


class TestEpochs:
    def test_an_epoch_has_its_duration_and_rates(self):
        epochs = Epochs()
        epochs.start(3, 10)
        time.sleep(0.05)
        entry = epochs.end(3, {"accuracy": 0.9}, totals(3, 10, samples=320.0))
        assert 0.05 <= entry["duration_s"] < 5
        assert entry["batches"] == 10
        assert entry["batches_per_s"] == pytest.approx(10 / entry["duration_s"], rel=1e-3)
        assert entry["samples_per_s"] == pytest.approx(320 / entry["duration_s"], rel=1e-3)
        assert "tokens_per_s" not in entry
        assert (entry["mean_loss"], "mean_accuracy" in entry) == (0.5, False)
        assert entry["metrics"] == {"accuracy": 0.9}

    def test_totals_of_another_epoch_are_not_taken_for_this_one(self):
        epochs = Epochs()
        epochs.start(3, 10)
        entry = epochs.end(3, {}, totals(2))
        assert entry["batches"] is None
        assert "batches_per_s" not in entry

    def test_an_epoch_never_started_has_the_time_of_its_records(self):
        assert Epochs().end(3, {}, totals(3, seconds=2.0))["duration_s"] == 2.0
        assert Epochs().end(3, {}, None)["duration_s"] is None

    def test_an_epoch_ended_twice_is_not_timed_from_the_first_start(self):
        epochs = Epochs()
        epochs.start(1, None)
        epochs.end(1, {}, None)
        assert epochs.end(1, {}, None)["duration_s"] is None

    def test_the_latest_thousand_are_kept_and_all_are_counted(self):
        epochs = Epochs()
        for epoch in range(KEPT_EPOCHS + 5):
            epochs.start(epoch, None)
            epochs.end(epoch, {}, totals(epoch, 2))
        assert (len(epochs.finished), epochs.finished[0]["epoch"]) == (KEPT_EPOCHS, 5)
        assert (epochs.count, epochs.batches) == (KEPT_EPOCHS + 5, 2 * (KEPT_EPOCHS + 5))


class TestBest:
    def offered(self, *validations):
        best = Best()
        told = [best.offer(epoch, *validation) for epoch, validation in enumerate(validations, start=1)]
        return told, best.summary()

    def test_without_a_validation_there_is_none(self):
        assert Best().summary() is None

    def test_the_highest_accuracy_is_the_best(self):
        told, best = self.offered(*(({"loss": 1.0, "accuracy": a}, False) for a in (0.5, 0.7, 0.7, 0.6)))
        assert told == [True, True, False, False]
        assert (best["metric"], best["value"], best["epoch"], best["mode"]) == ("accuracy", 0.7, 2, "max")
        assert best["is_best"] is False

    def test_without_an_accuracy_it_is_the_lowest_loss(self):
        told, best = self.offered(*(({"val_loss": v}, False) for v in (0.5, 0.7, 0.2)))
        assert told == [True, False, True]
        assert (best["metric"], best["value"], best["epoch"], best["mode"]) == ("val_loss", 0.2, 3, "min")

    def test_what_the_user_calls_best_is_the_best_from_then_on(self):
        told, best = self.offered(
            ({"accuracy": 0.9}, False),
            ({"accuracy": 0.5}, True),
            ({"accuracy": 0.99}, False),
            ({"f1": 0.4}, True),
        )
        assert told == [True, True, False, True]
        assert best == {
            "metric": None,
            "value": None,
            "epoch": 4,
            "step": None,
            "mode": None,
            "metrics": {"f1": 0.4},
            "is_best": True,
        }

    def test_a_value_that_is_not_finite_is_never_the_best(self):
        told, best = self.offered(*(({"accuracy": a}, False) for a in (math.nan, math.inf, 0.1)))
        assert told == [False, False, True]
        assert best["epoch"] == 3

    def test_different_metrics_are_not_compared(self):
        told, best = self.offered(({"accuracy": 0.1}, False), ({"loss": 99.0}, False))
        assert told == [True, False]
        assert best["metric"] == "accuracy"

    def test_what_says_more_of_a_validation_takes_over_when_it_comes(self):
        told, best = self.offered(
            ({"loss": 2.0}, False), ({"loss": 1.0, "acc": 0.5}, False), ({"loss": 0.1, "acc": 0.9}, False)
        )
        assert told == [True, True, True]
        assert (best["metric"], best["value"], best["epoch"]) == ("acc", 0.9, 3)

    @pytest.mark.parametrize(
        ("names", "metric"),
        [
            (("train/loss", "val/loss"), "val/loss"),
            (("train_loss", "eval_loss"), "eval_loss"),
            (("accuracy", "val/loss"), "val/loss"),
            (("train/accuracy", "loss"), "loss"),
            (("val/top/acc", "val/loss"), "val/top/acc"),
            (("train/accuracy", "train/loss"), "train/accuracy"),
            (("perplexity", "f1"), None),
            (("aux_loss", "lr"), None),
        ],
    )
    def test_the_names_say_which_metric_decides(self, names, metric):
        _, best = self.offered((dict.fromkeys(names, 0.5), False))
        assert (None if best is None else best["metric"]) == metric

    def test_the_lowest_validation_loss_decides_and_not_the_trainings(self):
        losses = ((3.0, 3.1), (2.0, 2.5), (1.0, 2.9), (0.5, 4.0))
        told, best = self.offered(*(({"train/loss": t, "val/loss": v}, False) for t, v in losses))
        assert told == [True, True, False, False]
        assert (best["metric"], best["value"], best["epoch"], best["mode"]) == ("val/loss", 2.5, 2, "min")

    def test_where_the_user_calls_it_best_no_metric_is_named_that_was_not_told(self):
        best = Best()
        assert best.offer(1, {"eval/top1": 80.0, "train/loss": 2.26}, True)
        assert (best.summary()["metric"], best.summary()["value"], best.summary()["mode"]) == (None, None, None)
        best = Best("eval/top1", "max")
        assert best.offer(1, {"eval/top1": 80.0, "train/loss": 2.26}, True)
        assert (best.summary()["metric"], best.summary()["value"], best.summary()["mode"]) == ("eval/top1", 80.0, "max")

    def test_the_metric_that_was_told_decides_alone(self):
        best = Best("wer", "min")
        assert [best.offer(None, {"wer": wer, "accuracy": 1.0}, False, step) for step, wer in enumerate((9, 7, 8))] == [
            True,
            True,
            False,
        ]
        assert not best.offer(None, {"accuracy": 2.0}, False, 3)
        assert (best.summary()["value"], best.summary()["step"]) == (7, 1)
        assert Best("val_acc").offer(1, {"val_acc": 0.5}, False)
