"""The summary's keys, shapes and file."""

import dataclasses
import math
from types import MappingProxyType

import pytest
from run_files import strict_json

from advlog_fast.control.epochs import Epochs
from advlog_fast.control.summaries import build_summary, overhead, performance, write_summary
from advlog_fast.control.training import TrainingState
from advlog_fast.snapshots import CallCost, EpochTotals, Health, MetricStats, NonFinite, Quantiles, SinkHealth, Totals
from advlog_fast.store.ranks import RunIdentity

RUN = RunIdentity("0" * 32, "run", 1, 0, 1, "host", 7)
SINK = SinkHealth(
    name="jsonl",
    accepted=5,
    written=5,
    dropped=0,
    pending=0,
    filtered=0,
    expired=0,
    vanished=0,
    faults=0,
    error=None,
    set_aside=False,
)
LOST = MappingProxyType({"a": 3})
CALL = CallCost.of([200, 100], stalls=3, stalled_s=0.125)
HEALTH = Health(
    offered=5,
    accepted=5,
    dropped_at_entry={"full": 0},
    pending=0,
    ring_slots=1024,
    ring_used=0,
    sinks={"jsonl": SINK},
    unresolved={"timeout": 1},
    ring_path=None,
    status="running",
    call=CALL,
    drain_cpu_s=0.5,
    sealer_cpu_s=0.25,
    parts=0,
    seal_faults=2,
    seal_error="full",
    entries_lost=LOST,
    entries_error="b",
)


OTHERS = {
    "errors": {"total": 5, "by_category": {}, "by_severity": {}, "repeated": 0, "last": None},
    "recoveries": {},
    "contexts": {},
    "memory": {},
}


def built(totals=None, duration_s=930.7, **others):
    state = TrainingState(
        status="running",
        started_ns=0,
        ended_ns=None,
        duration_s=duration_s,
        epochs=Epochs(),
        best=None,
        validations=0,
        config={},
        hyperparameters={},
        model=None,
        milestones={},
        final_metrics={},
        provenance={},
    )
    beside = {name: others.pop(name, value) for name, value in OTHERS.items()}
    return build_summary(RUN, dataclasses.replace(state, **others), totals=totals or Totals(), health=HEALTH, **beside)


def stats(mean, count=10):
    return MetricStats(count=count, mean=mean, std=0.1, min=mean / 2, max=mean * 2, last=mean)


class TestBuild:
    def test_the_guides_keys_have_the_guides_shapes(self):
        totals = Totals(metric_records=1000, metrics={"loss": MetricStats(1000, 0.8, 0.3, 0.1, 2.5, 0.2)})
        summary = built(totals)
        assert (summary["total_metrics"], summary["total_errors"]) == (1000, 5)
        assert summary["training_duration"] == "0:15:30"
        assert summary["loss_stats"] == {"min": 0.1, "max": 2.5, "mean": 0.8, "std": 0.3}
        assert list(summary["accuracy_stats"]) == ["min", "max", "mean", "std"]
        assert all(math.isnan(value) for value in summary["accuracy_stats"].values())

    def test_days_are_shown_as_days(self):
        assert built(duration_s=90_061.5)["training_duration"] == "1 day, 1:01:01"

    def test_a_metrics_first_bad_value_is_told(self):
        bad = NonFinite("nan", 97, 45, 1, 45, 0)
        totals = Totals(metrics={"loss": dataclasses.replace(stats(0.5), nan=2, first_nonfinite=bad)})
        found = built(totals)["metrics"]["loss"]
        assert (found["count"], found["nan"], found["posinf"], found["last"]) == (10, 2, 0, 0.5)
        assert found["first_nonfinite"] == {
            "value": "nan",
            "seq": 97,
            "step": 45,
            "epoch": 1,
            "batch": 45,
            "timestamp": "1970-01-01T00:00:00.000000Z",
        }

    def test_the_last_record_is_told(self):
        totals = Totals(last_epoch=3, last_batch=7, last_step=97, last_time_ns=10**9, metrics={"loss": stats(0.5)})
        last = built(totals)["last"]
        assert (last["epoch"], last["batch"], last["total_batches"], last["step"]) == (3, 7, None, 97)
        assert (last["loss"], last["timestamp"]) == (0.5, "1970-01-01T00:00:01.000000Z")

    def test_what_the_logging_cost_stands_in_it(self):
        cost = built(Totals(metric_records=1000))["overhead"]
        assert cost["call_s"] == pytest.approx(150e-9)
        assert cost["calls_s"] == pytest.approx(1000 * 150e-9 + 0.125)
        assert cost["calls_share"] == pytest.approx(cost["calls_s"] / built()["duration_s"])
        assert (cost["timed"], cost["stalls"], cost["stalled_s"], cost["background_cpu_s"]) == (2, 3, 0.125, 0.75)

    def test_what_was_never_timed_is_not_said_to_have_cost_nothing(self):
        cost = overhead(Totals(metric_records=5), dataclasses.replace(HEALTH, call=CallCost()), 10.0)
        assert cost["timed"] == 0
        assert math.isnan(cost["calls_s"])
        assert math.isnan(cost["calls_share"])

    def test_the_accounting_and_what_is_pending_stand_in_it(self):
        summary = built(Totals(pending=3))
        assert summary["pending"] == 3
        assert summary["accounting"]["sinks"]["jsonl"]["written"] == 5
        assert summary["accounting"]["dropped_at_entry"] == {"full": 0}
        assert (summary["accounting"]["seal_faults"], summary["accounting"]["seal_error"]) == (2, "full")
        assert (summary["accounting"]["entries_lost"], summary["accounting"]["entries_error"]) == ({"a": 3}, "b")

    def test_changing_it_changes_nothing_else(self):
        config = {"deep": {"lr": 0.1}}
        built(config=config)["config"]["deep"]["lr"] = 7
        assert config == {"deep": {"lr": 0.1}}


class TestPerformance:
    def found(self, epochs=None, **totals):
        return performance(Totals(**totals), epochs or Epochs())

    def test_waiting_for_data_is_named_as_the_bottleneck(self):
        found = self.found(metrics={"batch_time": stats(0.2), "data_time": stats(0.09)})
        assert found["data_wait_share"] == pytest.approx(0.45)
        assert found["bottleneck"] == "data loading"
        assert "45%" in found["bottleneck_detail"]

    def test_little_waiting_is_no_bottleneck(self):
        found = self.found(metrics={"batch_time": stats(0.2), "data_time": stats(0.05)})
        assert (found["data_wait_share"], found["bottleneck"]) == (pytest.approx(0.25), None)

    def test_waits_longer_than_the_batch_are_not_part_of_it(self):
        found = self.found(metrics={"batch_time": stats(0.1), "data_time": stats(0.3)})
        assert found["data_wait_share"] == pytest.approx(0.75)

    def test_without_a_batch_time_the_time_between_records_stands_in(self):
        found = self.found(metrics={"data_time": stats(0.1)}, step_interval=stats(0.2))
        assert found["data_wait_share"] == pytest.approx(0.5)

    @pytest.mark.parametrize("name", ["batch_time", "performance/batch_time"])
    def test_times_logged_by_themselves_count_with_their_percentiles(self, name):
        quantiles = {"performance/batch_time": Quantiles(0.2, 0.3, 0.4), "batch_time": Quantiles(9, 9, 9)}
        found = self.found(system={name: stats(0.2)}, quantiles=quantiles)
        assert (found["batch_time"]["mean"], found["batch_time"]["p99"]) == (0.2, 0.4)
        assert math.isnan(found["data_time"]["mean"])

    def test_rates_are_over_the_epochs_the_running_one_included(self):
        epochs = Epochs()
        finished = EpochTotals(1, 101, 0, 10 * 10**9, 3232.0, 0.0, MetricStats(), MetricStats())
        epochs.end(1, {}, finished)
        running = EpochTotals(2, 11, 0, 10**9, 352.0, 0.0, MetricStats(), MetricStats())
        found = self.found(epochs, epoch=running)
        assert found["batches_per_s"] == pytest.approx(110 / 11)
        assert found["samples_per_s"] == pytest.approx(3520 / 11)
        assert math.isnan(found["tokens_per_s"])
        assert self.found(epochs, epoch=finished)["batches_per_s"] == pytest.approx(10)

    def test_without_any_time_there_is_no_rate(self):
        one = EpochTotals(1, 1, 5, 5, 0.0, 0.0, MetricStats(), MetricStats())
        assert math.isnan(self.found(epoch=one)["batches_per_s"])


class TestFile:
    def test_the_file_is_strict_json_with_null_for_what_is_not_finite(self, tmp_path):
        path = tmp_path / "run_summary.json"
        assert write_summary(path, built(Totals(metrics={"loss": stats(math.inf)})), tmp_path / "tmp")
        found = strict_json(path.read_text())
        assert found["accuracy_stats"] == {"min": None, "max": None, "mean": None, "std": None}
        assert found["loss_stats"]["mean"] is None
        assert list((tmp_path / "tmp").iterdir()) == []

    def test_it_replaces_the_file_at_once(self, tmp_path):
        path = tmp_path / "run_summary.json"
        path.write_text("old")
        with path.open() as reader:
            assert write_summary(path, {"a": 1}, tmp_path, sync=True)
            assert reader.read() == "old"
        assert strict_json(path.read_text()) == {"a": 1}

    def test_a_fault_leaves_the_old_file_and_raises_nothing(self, tmp_path):
        path = tmp_path / "run_summary.json"
        path.write_text("old")
        blocked = tmp_path / "file"
        blocked.write_text("")
        assert not write_summary(path, {"a": 1}, blocked / "tmp")
        assert not write_summary(tmp_path / "nowhere" / "x.json", {"a": 1}, tmp_path / "tmp")
        assert path.read_text() == "old"
        assert not (tmp_path / "nowhere").exists()
