"""Pictures of real runs: live, resumed, compacted, of many ranks and children; beside DuckDB's group-by.

Long, since each kind of run is looked at through the same few calls, and what is found in them stands beside it."""

from __future__ import annotations

import json
import math
import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from picture_model import check_picture, rows_of

from advlog_fast import AdvancedLogger, read_run
from advlog_fast.compaction import compact
from advlog_fast.reader.comparing import first_difference


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "advlog_fast" / "pictures"


def opened(folder: Path, rank: int = 0, world_size: int = 1, **options: object) -> AdvancedLogger:
    options = {"console": "off", "memory_interval_s": 0, "text": False, **options}
    return AdvancedLogger(folder, "run", rank=rank, world_size=world_size, **options)  # type: ignore[arg-type]


def train(
    folder: Path, ranks: int = 2, steps: int = 3000, *, close: bool = True, **options: object
) -> list[AdvancedLogger]:
    """Ranks whose loss is one bad batch in many, with values that are not finite, late metrics, and several records a
    step."""
    logs = [opened(folder, rank, ranks, **options) for rank in range(ranks)]
    rng = random.Random(7)
    for step in range(1, steps + 1):
        for rank, log in enumerate(logs):
            loss = 4 / step + rng.gauss(1, 0.01)
            if rank == ranks - 1 and step == 1234:
                loss = 50.0
            if rank == 0 and 2000 <= step < 2010:
                loss = math.nan
            log.log_batch_progress(
                1, step, steps, loss, batch_time=0.1 * (1.6 if rank == 1 and 500 <= step < 1500 else 1)
            )
            if step % 100 == 0:
                log.log_metrics({"late": float(step), "other/one": -math.inf if step == 700 else 1.0}, step)
    for log in logs:
        assert log.close() if close else log.flush()
    return logs


SPANS = [None, (1, 3000), (1200, 1300), (1234, 1234), (0, 10), (2990, 4000), (1001, 2999)]


@pytest.mark.parametrize("width", [1, 7, 100, 1500])
def test_every_bucket_holds_what_its_rows_say(tmp_path: Path, width: int):
    train(tmp_path, part_rows=700)
    rows = rows_of(read_run(tmp_path, "run"))
    for span in SPANS:
        for ranks in ("band", "each", [1]):
            for picture in read_run(tmp_path, "run").pictures(
                ["loss", "late", "other/one"], span=span, width=width, ranks=ranks
            ):
                check_picture(picture, rows)


def test_one_bad_batch_is_at_every_zoom_with_its_step_and_rank(tmp_path: Path):
    train(tmp_path)
    run = read_run(tmp_path, "run")
    span, seen = 3000, 0
    while span >= 1:
        for share in (0.0, 0.4, 0.99):
            low = max(1, int(1234 - span * share))
            highest = max(
                (
                    row
                    for row in run.picture(span=(low, low + span), width=50).table.to_pylist()
                    if row["max"] is not None
                ),
                key=lambda row: row["max"],
            )
            assert (highest["max"], highest["argmax"], highest["rank_max"]) == (50.0, 1234, 1)
            seen += 1
        span //= 2
    assert seen > 30


def test_buckets_are_those_of_duckdbs_group_by(tmp_path: Path):
    duckdb = pytest.importorskip("duckdb")
    train(tmp_path, ranks=3)
    picture = read_run(tmp_path, "run").picture("loss", width=20)
    files = str(tmp_path / "run_metrics.parquet" / "*" / "*.parquet")
    wanted = duckdb.sql(
        f"""select (step >> {picture.shift}) << {picture.shift} as x0,
            min(loss) filter (isfinite(loss)) as min, max(loss) filter (isfinite(loss)) as max,
            avg(loss) filter (isfinite(loss)) as mean, count(loss) filter (isfinite(loss)) as count,
            count(*) filter (isnan(loss)) as nan, count(*) as records
            from read_parquet('{files}', union_by_name=true) group by all order by all"""
    ).to_arrow_table()
    found = picture.table
    for name in ("x0", "min", "max", "count", "nan", "records"):
        assert found[name].to_pylist() == wanted[name].to_pylist(), name
    assert found["mean"].to_pylist() == pytest.approx(wanted["mean"].to_pylist(), rel=1e-12)


def test_a_live_run_shows_what_was_flushed_and_reads_only_what_is_new(tmp_path: Path, monkeypatch):
    (log,) = train(tmp_path, ranks=1, close=False, part_rows=1000)
    check_picture(read_run(tmp_path, "run").picture("loss"), rows_of(read_run(tmp_path, "run")))
    log.log_batch_progress(1, 3001, None, 7.0, step=3001)
    assert log.flush()
    last = read_run(tmp_path, "run").picture("loss").table.to_pylist()[-1]
    assert (last["max"], last["argmax"]) == (7.0, 3001)
    read = []
    from advlog_fast.pictures import levels

    held = levels._read
    monkeypatch.setattr(levels, "_read", lambda piece, into, span: (read.append(piece), held(piece, into, span)))
    read_run(tmp_path, "run").picture("loss")
    assert [piece.identity for piece in read] == [None]  # the spool alone
    log.close()


def test_a_resumed_run_is_one_series_and_what_was_superseded_is_not_in_it(tmp_path: Path):
    logs = [opened(tmp_path, rank, 2) for rank in range(2)]
    states = None
    for step in range(1, 301):
        for log in logs:
            log.log_batch_progress(1, step, 1000, 1.0)
        if step == 200:
            states = [log.state_dict() for log in logs]
    for log in logs:
        log.close()
    for loaded in (2, 1):  # each rank's own state, then that of rank 0 alone
        folder = tmp_path.parent / f"copy{loaded}"
        shutil.copytree(tmp_path, folder)
        logs = [opened(folder, rank, 2) for rank in range(2)]
        for rank, log in enumerate(logs):
            log.load_state_dict(json.loads(json.dumps(states[rank if loaded == 2 else 0])))
        for step in range(201, 401):
            for log in logs:
                log.log_batch_progress(1, step, 1000, 2.0)
        for log in logs:
            log.close()
        for _ in range(2):
            run = read_run(folder, "run")
            picture = run.picture("loss", width=8000)
            check_picture(picture, rows_of(run))
            assert [(row["x0"], row["min"], row["max"], row["count"]) for row in picture.table.to_pylist()] == [
                (step, 1.0 if step <= 200 else 2.0, 1.0 if step <= 200 else 2.0, 2) for step in range(1, 401)
            ]
            assert picture.account == {"records": 800, "rows": pytest.approx(800, abs=200)}
            everything = read_run(folder, "run", attempts="all")
            check_picture(everything.picture("loss", width=11), rows_of(everything))


def test_what_is_kept_may_be_removed_cut_or_unwritable_and_the_picture_is_the_same(tmp_path: Path, cache: Path):
    train(tmp_path)
    wanted = read_run(tmp_path, "run").picture("loss", width=100).table
    kept = sorted(path for path in cache.rglob("*") if path.is_file())
    assert kept
    for path in kept:
        path.write_bytes(path.read_bytes()[:-5])
    assert read_run(tmp_path, "run").picture("loss", width=100).table.equals(wanted)
    assert read_run(tmp_path, "run").picture("loss", width=100).table.equals(wanted)
    shutil.rmtree(cache)
    cache.write_text("no folder")
    assert read_run(tmp_path, "run").picture("loss", width=100).table.equals(wanted)


def test_nothing_is_written_into_the_runs_folder(tmp_path: Path):
    train(tmp_path)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    run = read_run(tmp_path, "run")
    run.picture("loss")
    run.findings()
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_a_compacted_run_shows_the_same(tmp_path: Path):
    train(tmp_path, part_rows=500)
    wanted = [picture.table for picture in read_run(tmp_path, "run").pictures(["loss", "late"], width=200)]
    compact(tmp_path, "run")
    found = [picture.table for picture in read_run(tmp_path, "run").pictures(["loss", "late"], width=200)]
    for before, after in zip(wanted, found, strict=True):
        exact = [name for name in before.column_names if name != "mean"]
        assert after.select(exact).equals(before.select(exact))


def test_json_lines_alone_show_the_same(tmp_path: Path):
    train(tmp_path / "a")
    train(tmp_path / "b", parquet=False)
    one, other = (read_run(tmp_path / name, "run").picture("loss", width=300).table for name in "ab")
    assert one.equals(other)


def test_validations_are_shown_by_their_steps_or_epochs(tmp_path: Path):
    with opened(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.log_batch_progress(epoch, 10, 10, 0.5)
            log.log_validation(epoch, {"val_loss": 1.0 / epoch}, step=epoch * 10)
            log.log_validation(epoch, {"top1": float(epoch)})
    run = read_run(tmp_path, "run")
    rows = [row for row in run.picture("val_loss").table.to_pylist() if row["count"]]
    assert [(row["x0"], row["mean"]) for row in rows] == [(10, 1.0), (20, 0.5), (30, pytest.approx(1 / 3))]
    assert "top1" in run.metric_names()
    assert max(row["max"] for row in run.picture("top1").table.to_pylist() if row["count"]) == 3.0


def test_records_without_a_step_are_shown_by_their_number(tmp_path: Path):
    with opened(tmp_path) as log:
        for number in range(100):
            log.log_metrics({"loss": float(number)})
    picture = read_run(tmp_path, "run").picture("loss")
    assert (picture.x, picture.span) == ("record", (1, 100))
    assert "no record has a step" in picture.notes[0]
    check_picture(picture, rows_of(read_run(tmp_path, "run"), by="seq"))


def test_steps_that_begin_again_in_each_epoch_are_said_and_shown_by_record(tmp_path: Path):
    with opened(tmp_path) as log:
        for _epoch in range(5):
            for step in range(1, 101):
                log.log_metrics({"loss": 1.0}, step)
    picture = read_run(tmp_path, "run").picture("loss")
    assert (picture.x, picture.span) == ("record", (1, 500))
    assert "begin again" in picture.notes[0]
    assert read_run(tmp_path, "run").picture("loss", x="step").span == (1, 100)


def test_steps_may_be_tokens(tmp_path: Path):
    with opened(tmp_path) as log:
        for number in range(1, 2001):
            log.log_metrics({"loss": 1.0 / number}, number * 4_194_304)
    run = read_run(tmp_path, "run")
    picture = run.picture("loss", width=100)
    assert 100 <= picture.table.num_rows < 200
    check_picture(picture, rows_of(run))


def test_other_axes_have_times_epochs_and_spans(tmp_path: Path):
    with opened(tmp_path) as log:
        for epoch in (1, 2, 3, 4):
            for batch in range(1, 51):
                log.log_batch_progress(epoch, batch, 50, 1.0)
    run = read_run(tmp_path, "run")
    rows = {row["step"]: row for row in run.metrics.to_pylist()}
    picture = run.picture("loss", x="time")
    for row in picture.table.to_pylist():
        assert row["t0"] == row["t1"] == rows[row["x0"]]["timestamp"]
        assert row["epoch"] == rows[row["x0"]]["epoch"]
    second = run.picture("loss", x="epoch", span=(2, 2))
    assert second.span == (51, 100)
    until = rows[150]["timestamp"]
    last = max(step for step, row in rows.items() if row["timestamp"] <= until)
    assert run.picture("loss", x="time", span=(rows[1]["timestamp"], until)).span == (1, last)
    with pytest.raises(ValueError, match="that the run has"):
        run.picture("loss", x="time", span=(until + timedelta(days=1), until + timedelta(days=2)))
    assert run.picture("loss", x="active").table["active_s"][0].as_py() == 0.0


def test_the_smoothed_curve_is_nearly_the_same_at_every_zoom(tmp_path: Path):
    train(tmp_path, ranks=1)
    run = read_run(tmp_path, "run")
    near = run.picture("loss", span=(1500, 1600), smooth=20).table
    whole = run.picture("loss", smooth=20, width=8000).table
    at = {row["x0"]: row["smooth"] for row in whole.to_pylist()}
    for row in near.to_pylist():
        assert row["smooth"] == pytest.approx(at[row["x0"]], rel=1e-3)


def test_wrong_arguments_say_what_is_right(tmp_path: Path):
    train(tmp_path, ranks=1, steps=50)
    run = read_run(tmp_path, "run")
    for arguments, said in [
        ({"metric": "los"}, "expected one of loss"),
        ({"metric": "step"}, "expected one of loss"),
        ({"x": "wall"}, "'step' or 'record'"),
        ({"width": 0}, "from 1 to 8192"),
        ({"ranks": "all"}, "'band', 'each'"),
        ({"smooth": 0}, "above 0"),
        ({"span": (9, 3)}, "the first step and the last"),
    ]:
        with pytest.raises(ValueError, match=said):
            run.picture(**arguments)


def test_a_run_that_has_logged_nothing_yet_has_an_empty_picture(tmp_path: Path):
    with opened(tmp_path):
        run = read_run(tmp_path, "run")
        assert run.picture("loss").table.num_rows == 0
        assert run.heat().table.num_rows == 0
        assert run.findings() == []
        assert "no value" in run.picture("loss").svg()


def test_findings_name_the_batch_the_rank_and_the_stretch(tmp_path: Path):
    train(tmp_path, ranks=4)
    found = read_run(tmp_path, "run").findings()
    told = {(each.kind, each.metric): each for each in found}
    nan = told["nonfinite", "loss"]
    assert (nan.rank, nan.step) == (0, 2000)
    assert nan.text == "loss is not finite from step 2,000 on, on rank 0: 10 NaN, then it recovers"
    spike = told["spike", "loss"]
    assert (spike.rank, spike.step) == (3, 1234)
    assert "50" in spike.text
    slow = told["slow", "batch_time"]
    assert slow.rank == 1
    assert abs(slow.span[0] - 500) <= 16
    assert abs(slow.span[1] - 1500) <= 16
    assert "1.60 times" in slow.text
    assert [each.weight for each in found] == sorted((each.weight for each in found), reverse=True)


def test_a_smooth_run_has_no_finding(tmp_path: Path):
    with opened(tmp_path) as log:
        rng = random.Random(1)
        for step in range(1, 5001):
            rate = 0.1 if step < 2500 else 0.01
            log.log_batch_progress(1, step, 5000, 3 / step + abs(rng.gauss(1, 0.2)), learning_rate=rate, batch_time=0.1)
    assert read_run(tmp_path, "run").findings() == []


def test_heat_tells_each_rank_against_the_median(tmp_path: Path):
    train(tmp_path, ranks=4)
    heat = read_run(tmp_path, "run").heat()
    rows = heat.table.to_pylist()
    slow = [row for row in rows if row["rank"] == 1 and row["x0"] >= 512 and row["x1"] < 1500]
    assert all(row["ratio"] == pytest.approx(1.6) for row in slow)
    assert all(row["ratio"] == pytest.approx(1.0) for row in rows if row["rank"] != 1)
    assert "by rank" in heat.svg()


def test_without_a_time_the_heat_map_has_the_interval_between_steps(tmp_path: Path):
    logs = [opened(tmp_path, rank, 2) for rank in range(2)]
    for step in range(1, 200):
        for log in logs:
            log.log_batch_progress(1, step, 200, 1.0)
    for log in logs:
        log.close()
    heat = read_run(tmp_path, "run").heat(width=20)
    assert heat.metric == "step_interval"
    assert all(row["mean"] > 0 for row in heat.table.to_pylist() if row["mean"] is not None)


def test_records_of_child_processes_are_not_in_the_picture(tmp_path: Path):
    import multiprocessing

    with opened(tmp_path) as log:
        for step in range(1, 21):
            log.log_batch_progress(1, step, 20, 1.0)
        child = multiprocessing.get_context("fork").Process(target=lambda: log.log_metrics({"loss": 9.0}, 10))
        child.start()
        child.join()
    run = read_run(tmp_path, "run")
    assert run.metrics.num_rows == 21
    picture = run.picture("loss")
    assert max(picture.table["max"].to_pylist()) == 1.0
    assert picture.account == {"records": 20, "rows": 21}


def test_a_picture_is_saved_as_its_name_ends(tmp_path: Path):
    train(tmp_path / "logs", ranks=1, steps=50)
    picture = read_run(tmp_path / "logs", "run").picture("loss")
    picture.save(tmp_path / "loss.svg")
    picture.save(tmp_path / "loss.csv")
    assert (tmp_path / "loss.svg").read_text().startswith("<svg")
    lines = (tmp_path / "loss.csv").read_text().splitlines()
    assert lines[0].startswith("rank,x0,x1,min,max,mean")
    assert len(lines) == 1 + picture.table.num_rows
    with pytest.raises(ValueError, match=r"\.svg or \.csv or \.png"):
        picture.save(tmp_path / "loss.pdf")


def test_two_runs_that_differ_somewhere_are_found_to(tmp_path: Path):
    def made(name: str, first: int, odd: int, **options: object) -> object:
        with AdvancedLogger(tmp_path, name, console="off", memory_interval_s=0, **options) as log:
            rng = random.Random(5)
            for step in range(first, 20_001):
                value = rng.random()
                log.log_metrics({"loss": 2.0 if step == odd else value if first == 1 else 1.0}, step)
        return read_run(tmp_path, name)

    whole, other = made("whole", 1, 0), made("other", 1, 18_000, part_rows=6000)
    found = first_difference(whole, other, "loss")
    assert (found.step, found.rank, found.values[1]) == (18_000, 0, 2.0)
    later, again = made("later", 2, 5000), made("again", 2, 0)
    assert first_difference(later, again, "loss").step == 5000
    assert first_difference(again, again, "loss") is None
    assert first_difference(whole, made("same", 1, 0, part_rows=7000), "loss") is None


def test_what_was_superseded_is_in_no_span_and_in_no_account(tmp_path: Path):
    with opened(tmp_path) as log:
        for step in range(1, 101):
            log.log_batch_progress(1, step, 1000, 1.0)
            if step == 50:
                state = log.state_dict()
    with opened(tmp_path) as log:
        log.load_state_dict(json.loads(json.dumps(state)))
        for step in range(51, 61):
            log.log_batch_progress(1, step, 1000, math.nan)
    run = read_run(tmp_path, "run")
    picture = run.picture("loss")
    assert (picture.span, picture.account) == ((1, 60), {"records": 60, "rows": 60})
    assert run.attempt_spans() == {1: [1, 50], 2: [51, 60]}
    (finding,) = run.findings()
    assert "10 NaN, to the end" in finding.text


def test_a_metric_that_comes_seldom_and_stays_nan_does_not_recover(tmp_path: Path):
    with opened(tmp_path) as log:
        for step in range(1, 200):
            seldom = {"val": math.nan if step >= 50 else 1.0} if step % 10 == 0 else {}
            log.log_metrics({"loss": 1.0, **seldom}, step)
    (finding,) = read_run(tmp_path, "run").findings()
    assert "15 NaN, to the end" in finding.text


def test_steps_that_begin_again_are_found_over_many_parts_too(tmp_path: Path):
    with opened(tmp_path, part_rows=100) as log:
        for _epoch in range(5):
            for step in range(1, 101):
                log.log_metrics({"loss": 1.0}, step)
            log.log_validation(_epoch, {"acc": float(_epoch)})
    run = read_run(tmp_path, "run")
    assert run.picture("loss").x == "record"
    acc = run.picture("acc")
    assert acc.x == "epoch"
    assert [row["mean"] for row in acc.table.to_pylist()] == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_each_epoch_is_found_where_a_bucket_holds_several(tmp_path: Path):
    with opened(tmp_path) as log:
        for epoch in range(1, 20_001):
            log.log_batch_progress(epoch, 1, 1, 1.0)
    run = read_run(tmp_path, "run")
    for epoch in (1, 4, 5, 777):
        low, high = run.picture("loss", x="epoch", span=(epoch, epoch)).span
        assert low <= epoch <= high < low + 8
    with pytest.raises(ValueError, match="that the run has"):
        run.picture("loss", x="epoch", span=(30_000, 30_001))


def test_two_threads_that_ask_for_one_metric_are_told_the_same(tmp_path: Path):
    import threading

    with opened(tmp_path) as log:
        for step in range(1, 100_001):
            log.log_batch_progress(1, step, 100_000, 1.0, batch_time=0.1 if step > 99_000 else None)
    for _ in range(5):
        run, found = read_run(tmp_path, "run"), []
        threads = [threading.Thread(target=lambda: found.append(run.heat(width=10).metric)) for _ in range(3)]  # noqa: B023
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == ["batch_time"] * 3


def test_spans_beyond_every_step_are_no_fault(tmp_path: Path):
    train(tmp_path, ranks=2, steps=50)
    run = read_run(tmp_path, "run")
    rows = rows_of(run)
    for span in ((-(10**30), 10**30), (0, 2**64), (-math.inf, math.inf)):
        check_picture(run.picture("loss", span=span, width=1), rows)
        run.heat(span=span)


def test_large_values_stay_numbers_when_they_are_smoothed(tmp_path: Path):
    with opened(tmp_path) as log:
        for step in range(1, 101):
            log.log_metrics({"loss": 1.7e308}, step)
    table = read_run(tmp_path, "run").picture("loss", smooth=10, width=10).table
    assert table["smooth"].to_pylist() == pytest.approx([1.7e308] * table.num_rows)


def told(run) -> list[str]:
    return [finding.text for finding in run.findings()]


def test_a_slow_rank_is_told_by_the_others_and_by_records(tmp_path: Path):
    """Of two ranks, whose median is no third one; with tokens as steps."""
    logs = [opened(tmp_path, rank, 2) for rank in range(2)]
    for record in range(1, 1001):
        for rank, log in enumerate(logs):
            log.log_metrics({"loss": 1.0, "batch_time": 0.1 * (rank + 1)}, record * 1_000_000)
    for log in logs:
        log.close()
    assert told(read_run(tmp_path, "run")) == [
        "rank 1 took 2.00 times the others' batch_time for 1,000 records: 1.67 min of the others' waiting"
    ]


def test_ordinary_jitter_makes_no_rank_slow(tmp_path: Path):
    logs = [opened(tmp_path, rank, 8) for rank in range(8)]
    rng = random.Random(11)
    for step in range(1, 1001):
        for log in logs:
            log.log_batch_progress(1, step, 1000, 1.0, batch_time=0.1 * rng.lognormvariate(0, 0.2))
    for log in logs:
        log.close()
    assert told(read_run(tmp_path, "run")) == []


def test_new_levels_beginnings_and_ends_are_no_spikes(tmp_path: Path):
    with opened(tmp_path) as log:
        for step in range(1, 101):
            rate = step / 3 * 0.01 if step < 3 else 0.001 if step > 98 else 0.01
            log.log_metrics({"loss": 1 / step, "rate": rate, "level": 1.0 if step < 50 else 100.0}, step)
    assert told(read_run(tmp_path, "run")) == []


def test_a_value_among_equal_ones_is_told_beside_them(tmp_path: Path):
    with opened(tmp_path) as log:
        for step in range(1, 2001):
            log.log_metrics({"skipped": 1.0 if step in (700, 1500) else 0.0}, step)
    assert sorted(told(read_run(tmp_path, "run"))) == [
        "skipped 1 at step 1,500, and 0 around it",
        "skipped 1 at step 700, and 0 around it",
    ]


def test_what_is_not_finite_now_and_then_is_told_so_and_over_how_many_ranks(tmp_path: Path):
    logs = [opened(tmp_path, rank, 4) for rank in range(4)]
    for step in range(1, 1001):
        for log in logs:
            log.log_metrics({"a": math.nan if step > 500 else 1.0, "b": math.nan if step in (10, 900) else 1.0}, step)
    for log in logs:
        log.close()
    assert told(read_run(tmp_path, "run")) == [
        "a is not finite from step 501 on, on 4 ranks: 2,000 NaN, to the end",
        "b is not finite now and then, first at step 10, on 4 ranks: 8 NaN of 4,000",
    ]


def test_an_error_is_told_once_by_its_first_line(tmp_path: Path):
    with pytest.raises(ValueError, match="bad"), opened(tmp_path) as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        raise ValueError("bad" + "x" * 500 + "\nmore")
    first, second = told(read_run(tmp_path, "run"))
    assert first.startswith("attempt 1 failed: ValueError: badxxx")
    assert first.endswith("...")
    assert len(first) < 260
    assert second == "1 error"


def test_runs_that_have_nothing_in_common_are_not_said_to_be_alike(tmp_path: Path):
    def made(name: str, first: int | None, value: float = 1.0, metric: str = "loss") -> object:
        with AdvancedLogger(tmp_path, name, console="off", memory_interval_s=0) as log:
            for number in range(100):
                log.log_metrics({metric: value}, None if first is None else first + number)
        return read_run(tmp_path, name)

    early, late = made("early", 1), made("late", 1001)
    with pytest.raises(ValueError, match="early has 1 to 100 and late has 1,001 to 1,100"):
        first_difference(early, late)
    without, twice = made("without", None), made("twice", None, 2.0)
    assert first_difference(without, twice).values == (1.0, 2.0)
    assert first_difference(early, made("inf", 1, math.inf)).values == (1.0, math.inf)
    with pytest.raises(ValueError, match="expected one of foo"):
        first_difference(early, made("other", 1, metric="foo"))


def test_a_metric_that_only_validations_have_is_drawn_on_any_axis(tmp_path: Path):
    with opened(tmp_path) as log:
        for epoch in (1, 2, 3):
            log.log_batch_progress(epoch, 1, 1, 0.5)
            log.log_validation(epoch, {"acc": epoch / 4})
    run = read_run(tmp_path, "run")
    for x in (None, "step", "record", "time"):
        picture = run.picture("acc", x=x)
        assert "polyline" in picture.svg()
        assert sum(picture.table["count"].to_pylist()) == 3
