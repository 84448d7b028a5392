"""One rule for every mean over the ranks: each rank counts once, and who is missing is said."""

from __future__ import annotations

import math

import pytest
from unit.reader.writing import put
from unit.spools import Spool

from advlog_fast import AdvancedLogger, read_run
from advlog_fast.reader import series as module
from advlog_fast.store.paths import RunPaths


def logged(folder, *ranks, **options):
    """Logs the rows of each rank: (step, metrics)."""
    world = len(ranks)
    logs = [
        AdvancedLogger(folder, "run", rank=rank, world_size=world, console="off", memory_interval_s=0, **options)
        for rank in range(world)
    ]
    for log, rows in zip(logs, ranks, strict=True):
        for step, metrics in rows:
            log.log_metrics(metrics, step=step)
    for log in logs:
        log.close()
    return read_run(folder, "run")


def test_each_rank_is_averaged_first(tmp_path):
    run = logged(tmp_path, [(1, {"loss": 1.0})] * 3, [(1, {"loss": 5.0})])
    wanted = {"step": [1], "loss": [3.0], "count": [4], "ranks": [2], "of": [2]}
    assert run.series("loss").to_pydict() == wanted
    assert run.overview()["loss"]["first"] == {"step": 1, "mean": 3.0}
    assert run.step_times("loss")["mean"].to_pylist() == [3.0]
    assert run.series("loss", reduce=None).to_pydict() == {"step": [1, 1], "rank": [0, 1], "loss": [1.0, 5.0]}
    for reduce, value in (("min", 1.0), ("max", 5.0), ("sum", 6.0), ("std", 2.0)):
        assert run.series("loss", reduce=reduce)["loss"].to_pylist() == [value]


def test_where_a_rank_is_missing_it_is_said_and_no_end_is_taken_from_there(tmp_path):
    run = logged(
        tmp_path,
        [(step, {"loss": 1.0}) for step in range(1, 11)],
        [(step, {"loss": 10.0 + step}) for step in range(1, 10)],
        [(step, {"other": 1.0}) for step in range(1, 11)],
    )
    curve = run.series("loss").to_pydict()
    assert (curve["ranks"], curve["of"]) == ([2] * 9 + [1], [2] * 10)
    assert curve["loss"][-1] == 1.0
    found = run.overview()["loss"]
    assert found["first"] == found["lowest"] == {"step": 1, "mean": 6.0}
    assert found["last"] == {"step": 9, "mean": 10.0}


def test_values_that_have_diverged_have_a_mean(tmp_path):
    run = logged(tmp_path, [(1, {"loss": 1e308})] * 2, [(1, {"loss": 1.2e308})])
    assert run.series("loss")["loss"].to_pylist() == [pytest.approx(1.1e308)]
    assert run.overview()["loss"]["last"]["mean"] == pytest.approx(1.1e308)


def test_a_nan_of_one_record_is_one_of_its_step(tmp_path):
    run = logged(tmp_path, [(1, {"loss": 1.0}), (1, {"loss": math.nan}), (2, {"loss": 1.0})], [(2, {"loss": math.inf})])
    assert [str(value) for value in run.series("loss")["loss"].to_pylist()] == ["nan", "inf"]


def test_metrics_under_the_names_of_columns_stand_beside_them(tmp_path):
    run = logged(tmp_path, [(1, {"count": 3.0, "ranks": 4.0, "of": 5.0})])
    for name, value in (("count", 3.0), ("ranks", 4.0), ("of", 5.0)):
        names = ["step", f"metrics/{name}", "count", "ranks", "of"]
        assert run.series(name).to_pylist() == [dict(zip(names, (1, value, 1, 1, 1), strict=True))]


def test_without_steps_the_series_is_over_the_records(tmp_path):
    run = logged(tmp_path, [(None, {"loss": value}) for value in (3.0, 2.0, 1.0)])
    assert run.series("loss").select(["seq", "loss"]).to_pydict() == {"seq": [1, 2, 3], "loss": [3.0, 2.0, 1.0]}


def test_a_metric_of_validations_has_a_series(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        for step in (10, 20):
            log.log_metrics({"loss": 1.0}, step=step)
            log.log_validation(metrics={"val/accuracy": step / 100})
    run = read_run(tmp_path, "run")
    found = run.series("val/accuracy").to_pydict()
    assert found == {"step": [10, 20], "val/accuracy": [0.1, 0.2], "count": [1, 1], "ranks": [1, 1], "of": [1, 1]}
    with pytest.raises(ValueError, match="metric: expected one of"):
        run.series("val/nothing")


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_what_is_told_does_not_depend_on_the_chunk(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(module, "_CHUNK_ROWS", chunk)
    run = logged(
        tmp_path,
        [(step, {"loss": float(step)}) for step in [1, 2, 3, 9, 4, 5, 2, 30]],
        [(step, {"loss": 1.0}) for step in [0, 4, 4, 10, 31]],
    )
    curve = run.series("loss").to_pydict()
    assert curve["step"] == [0, 1, 2, 3, 4, 5, 9, 10, 30, 31]
    assert curve["loss"] == [1.0, 1.0, 2.0, 3.0, 2.5, 5.0, 9.0, 1.0, 30.0, 1.0]
    assert curve["count"] == [1, 1, 2, 1, 3, 1, 1, 1, 1, 1]
    assert curve["ranks"] == [1, 1, 1, 1, 2, 1, 1, 1, 1, 1]


def test_ranks_that_end_at_different_steps_are_no_stragglers(tmp_path):
    run = logged(
        tmp_path,
        [(step, {"batch_time": 0.101}) for step in range(1, 1001)],
        [(step, {"batch_time": 0.100}) for step in range(1, 601)],
    )
    assert run.stragglers().num_rows == 0
    (times,) = run.overview()["step_times"]
    assert times["ranks"][0]["ratio"] == pytest.approx(1.01)
    table = run.step_times()
    assert table.num_rows == 1000
    assert set(table["of"].to_pylist()) == {2}
    assert table["ranks"].to_pylist() == [2] * 600 + [1] * 400


def test_the_time_of_a_step_is_the_one_that_any_rank_logs(tmp_path):
    run = logged(
        tmp_path,
        [(step, {"loss": 1.0}) for step in range(1, 101)],
        [(step, {"batch_time": 0.1}) for step in range(1, 101)],
        [(step, {"batch_time": 0.4}) for step in range(1, 101)],
    )
    assert run.stragglers().to_pylist()[0]["rank"] == 2
    assert run.step_times()["mean"].to_pylist() == pytest.approx([0.25] * 100)


def test_the_time_of_a_step_does_not_depend_on_the_files(tmp_path):
    paths = RunPaths(tmp_path, "run")
    put(paths, Spool().add({"data_time": 0.01}, step=1).add({"data_time": 0.01}, step=2), 1, sealed=True)
    put(paths, Spool(first_seq=2).add({"data_time": 0.01, "batch_time": 0.5}, step=3), 2, sealed=True)
    run = read_run(tmp_path, "run")
    assert run.step_times().select(["step", "mean"]).to_pylist() == [{"step": 3, "mean": 0.5}]
    assert [each["metric"] for each in run.overview()["step_times"]] == ["batch_time", "data_time"]


def test_a_metric_of_the_name_of_the_interval_is_the_metric(tmp_path):
    run = logged(tmp_path, [(step, {"step_interval": 7.0}) for step in range(3)])
    assert run.step_times("step_interval")["mean"].to_pylist() == [7.0] * 3
    plain = logged(tmp_path / "plain", [(step, {"loss": 7.0}) for step in range(3)])
    assert plain.step_times("step_interval").num_rows == 2


def test_small_values_are_averaged_to_the_digit(tmp_path):
    run = logged(tmp_path, [(1, {"loss": 1e-307})], [(1, {"loss": 3e-307})])
    assert run.series("loss")["loss"].to_pylist() == [2e-307]
    assert run.overview()["loss"]["last"]["mean"] == 2e-307


def test_without_steps_a_resumed_run_goes_on_behind_the_attempt_before(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        for value in (1.0, 2.0, 3.0):
            log.log_metrics({"a": value})
        state = log.state_dict()
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        log.load_state_dict(state)
        for value in (4.0, 5.0):
            log.log_metrics({"a": value})
    found = read_run(tmp_path, "run").series("a").select(["seq", "a"]).to_pydict()
    assert found == {"seq": [1, 2, 3, 4, 5], "a": [1.0, 2.0, 3.0, 4.0, 5.0]}


def test_validations_without_records_are_over_the_epochs_and_those_of_other_data_apart(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        for epoch in (1, 2, 3):
            log.log_validation(epoch, {"accuracy": epoch / 10})
            log.log_validation(epoch, {"accuracy": 0.9}, name="other")
    found = read_run(tmp_path, "run").series("accuracy").select(["epoch", "accuracy"]).to_pydict()
    assert found == {"epoch": [1, 2, 3], "accuracy": [0.1, 0.2, 0.3]}
