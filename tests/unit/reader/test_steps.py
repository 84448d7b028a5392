"""The ranks side by side: what is said of a step agrees with what each rank logged of it, however it is read."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import advlog_fast.reader.steps as module
from advlog_fast.reader.steps import (
    INTERVAL_COLUMN,
    Course,
    Moment,
    RankSteps,
    RankTime,
    StepTimes,
    find_stragglers,
    step_table,
    windows,
    with_intervals,
)

pa = pytest.importorskip("pyarrow")

SCHEMA = pa.schema([("step", pa.int64()), ("t", pa.float64())])


def source(rows, batch_rows=3):
    """A rank's rows as batches."""
    columns = [pa.array([row[at] for row in rows], field.type) for at, field in enumerate(SCHEMA)]
    return RankSteps(iter(pa.Table.from_arrays(columns, schema=SCHEMA).to_batches(batch_rows)))


def walked(ranks, monkeypatch, window_rows=4):
    """Everything that a walk in windows of so many rows finds: steps of the table, times, course."""
    monkeypatch.setattr(module, "_WINDOW_ROWS", window_rows)
    monkeypatch.setattr(module, "_LEAST_ROWS", 1)
    times, course, table = StepTimes("t"), Course("t"), []
    for window in windows({rank: source(rows) for rank, rows in ranks.items()}):
        times.add(window)
        course.add(window, ranks)
        found = step_table(window, "t")
        if found is not None:
            table += found[0].to_pylist()
    return table, times, course


values = st.floats(0.001, 1000.0)
ranks_of_steps = st.dictionaries(
    st.integers(0, 5), st.dictionaries(st.integers(1, 30), values, max_size=30), min_size=1, max_size=4
)


@settings(deadline=None)
@given(ranks=ranks_of_steps, window_rows=st.integers(1, 40))
def test_over_the_steps_that_all_have_the_numbers_are_those_of_plain_python(ranks, window_rows):
    # Every rank has the steps from its first to the common end; in between there may be gaps.
    with pytest.MonkeyPatch.context() as monkeypatch:
        table, times, course = walked({r: sorted(s.items()) for r, s in ranks.items()}, monkeypatch, window_rows)
    assert [row["step"] for row in table] == sorted({row["step"] for row in table})
    for row in table:
        told = {rank: steps[row["step"]] for rank, steps in ranks.items() if row["step"] in steps}
        assert len(told) >= row["ranks"] >= 1
        if row["ranks"] == len(told):
            assert row["min"] == min(told.values())
            assert row["max"] == max(told.values())
            assert row["mean"] == pytest.approx(statistics.fmean(told.values()))
            assert row["skew"] == pytest.approx(row["max"] / row["mean"])
            assert told[row["slowest"]] == row["max"]
    everywhere = set.intersection(*map(set, ranks.values()))
    assert everywhere <= {row["step"] for row in table if row["ranks"] == len(ranks)}
    assert times.steps == len(table)
    whole = [row for row in table if row["ranks"] == len(ranks)]
    if whole:
        assert (course.first, course.last) == tuple((row["step"], row["mean"]) for row in (whole[0], whole[-1]))
        assert course.lowest[1] == min(row["mean"] for row in whole)
    else:
        assert course.first is course.last is course.lowest is None
    if table:
        assert times.min_s == min(row["min"] for row in table)
        assert times.max_s == max(row["max"] for row in table)
        assert times.mean_s == pytest.approx(statistics.fmean(row["mean"] for row in table))
        assert times.skew == pytest.approx(statistics.fmean(row["skew"] for row in table))


@pytest.mark.parametrize("window_rows", [1, 5, 1000])
def test_what_is_told_does_not_depend_on_the_window(window_rows, monkeypatch):
    ranks = {rank: [(step, rank + step / 100) for step in range(1, 201)] for rank in range(3)}
    table, times, course = walked(ranks, monkeypatch, window_rows)
    assert [row["step"] for row in table] == list(range(1, 201))
    assert times.ranks[2].slowest_share == 1.0
    assert times.ranks[0].slowest_share == 0.0
    assert times.ranks[1].steps == 200
    assert times.ranks[2].mean_s == pytest.approx(3.005)
    assert times.ranks[2].ratio == pytest.approx(3.005 / 1.505)
    assert (course.first, course.last) == ((1, pytest.approx(1.01)), (200, pytest.approx(3.0)))


def test_a_rank_that_stopped_early_is_missed_from_there_on_only(monkeypatch):
    ranks = {0: [(step, 1.0) for step in range(1, 101)], 1: [(step, 3.0) for step in range(1, 41)]}
    table, times, course = walked(ranks, monkeypatch)
    assert [row["step"] for row in table] == list(range(1, 101))
    assert [row["ranks"] for row in table] == [2] * 40 + [1] * 60
    assert (times.ranks[0].steps, times.ranks[1].steps) == (100, 40)
    # The steps without others compare with nothing.
    assert (times.ranks[0].ratio, times.ranks[1].ratio) == (pytest.approx(1 / 3), pytest.approx(3.0))
    assert (times.ranks[0].slowest_share, times.ranks[1].slowest_share) == (0.0, 1.0)
    assert course.last == (40, 2.0)


def test_a_value_that_is_missing_or_no_number_leaves_its_step_out(monkeypatch):
    odd = [(1, 1.0), (2, math.nan), (3, None), (4, math.inf), (5, 1.0)]
    table, _, _ = walked({0: odd, 1: [(step, 2.0) for step in range(1, 6)]}, monkeypatch, 100)
    assert [row["step"] for row in table] == [1, 5]


def test_a_rank_that_never_gives_the_metric_does_not_hide_the_others(monkeypatch):
    ranks = {0: [(1, 1.0), (2, 2.0)], 1: [(1, None), (2, None)], 2: [(1, 3.0), (2, 4.0)]}
    table, _, _ = walked(ranks, monkeypatch, 100)
    assert [(row["step"], row["mean"], row["ranks"]) for row in table] == [(1, 2.0, 2), (2, 3.0, 2)]


def test_of_a_step_logged_more_than_once_the_mean_counts(monkeypatch):
    table, _, _ = walked({0: [(1, 1.0), (1, 3.0), (2, 5.0)], 1: [(1, 2.0), (2, 5.0)]}, monkeypatch, 100)
    assert [(row["step"], row["mean"]) for row in table] == [(1, 2.0), (2, 5.0)]


@pytest.mark.parametrize("window_rows", [1, 4, 8, 1000])
def test_a_step_whose_records_lie_in_several_batches_is_one(window_rows, monkeypatch):
    rows = [(step, float(part)) for step, parts in ((1, 3), (2, 3), (3, 20), (4, 1)) for part in range(parts)]
    table, times, _ = walked({0: rows, 1: rows}, monkeypatch, window_rows)
    assert [(row["step"], row["mean"]) for row in table] == [(1, 1.0), (2, 1.0), (3, 9.5), (4, 0.0)]
    assert times.steps == 4


def intervals(micros, before=None, jumps=()):
    schema = pa.schema([("step", pa.int64()), ("timestamp", pa.timestamp("us", "UTC")), ("seq", pa.int64())])
    rows = [(at, moment, 10 + at) for at, moment in enumerate(micros, start=1)]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), schema, strict=True)],
        schema=schema,
    )
    found, moment = with_intervals(batch, before, jumps)
    assert found.schema.names == ["step", INTERVAL_COLUMN]
    return found[INTERVAL_COLUMN].to_pylist(), moment


def test_intervals_are_the_seconds_since_the_record_before():
    times = [1_000_000, 1_500_000, 1_500_001]
    assert intervals(times) == ([None, 0.5, 1e-6], Moment(1_500_001, 13))
    assert intervals(times, Moment(750_000, 10))[0] == [0.25, 0.5, 1e-6]


def test_no_interval_spans_a_clock_that_was_set():
    assert intervals([5_000_000, 1_000_000, 1_200_000])[0] == [None, None, 0.2]
    times = [1_000_000, 1_100_000, 9_100_000, 9_200_000]
    # The jump lies before record 12, 13 or 14, of 11 to 14.
    assert intervals(times, Moment(900_000, 10), [(12, 14)])[0] == [0.1, None, None, None]
    assert intervals(times, Moment(900_000, 10), [(13, 13)])[0] == [0.1, 0.1, None, 0.1]
    # Others came in between, which have no step: from 10 to 11.
    assert intervals(times, Moment(900_000, 4), [(6, 7)])[0] == [None, 0.1, 8.0, 0.1]


def test_times_of_different_centuries_are_far_apart_and_no_error():
    assert intervals([-9_000_000_000_000_001, 9_000_000_000_000_000])[0] == [None, 1.8e10]


def times_with(metric, **ranks):
    times = StepTimes(metric, steps=100, mean_sum_s=100.0)
    for name, (own_s, others_s, slowest) in ranks.items():
        rank = int(name[1:])
        times.ranks[rank] = RankTime(rank, 100, own_s, 100, own_s, others_s, slowest)
    return times


@pytest.mark.parametrize(
    ("own_s", "others_s", "slowest", "named"),
    [
        (150.0, 100.0, 100, True),
        (111.0, 100.0, 50, True),
        (109.0, 100.0, 100, False),
        (150.0, 100.0, 49, False),
        (6.0, 3.0, 100, False),
        (100.0, 0.0, 100, False),
    ],
)
def test_a_straggler_is_slower_by_the_ratio_often_enough_and_by_what_counts(own_s, others_s, slowest, named):
    times = times_with("t", r3=(own_s, others_s, slowest))
    found = find_stragglers([times], 1.1, times.mean_s)
    assert [each.rank for each in found] == ([3] if named else [])


@pytest.mark.parametrize(("ranks", "slowest", "named"), [(2, 49, False), (2, 50, True), (4, 37, False), (4, 38, True)])
def test_among_more_ranks_the_slowest_is_so_less_often(ranks, slowest, named):
    others = {f"r{rank}": (100.0, 110.0, 0) for rank in range(1, ranks)}
    times = times_with("t", r0=(150.0, 100.0, slowest), **others)
    assert [each.rank for each in find_stragglers([times], 1.1, times.mean_s)] == ([0] if named else [])


def test_the_worst_comes_first_by_whichever_time():
    times = [times_with("batch_time", r1=(150.0, 100.0, 60)), times_with("data_time", r2=(180.0, 100.0, 90))]
    found = find_stragglers(times, 1.1, 1.0)
    assert [(each.rank, each.metric, each.ratio) for each in found] == [(2, "data_time", 1.8), (1, "batch_time", 1.5)]
    assert found[0].excess_s == pytest.approx(0.8)
    assert found[0].slowest_share == 0.9


def test_memory_is_held_for_a_window_and_not_for_the_run(monkeypatch):
    monkeypatch.setattr(module, "_WINDOW_ROWS", 100)
    monkeypatch.setattr(module, "_LEAST_ROWS", 1)
    most = defaultdict(int)

    def rows(rank):
        for first in range(0, 5000, 10):
            most[rank] = max(most[rank], sum(batch.num_rows for batch in ranks[rank]._held))
            columns = [pa.array(range(first, first + 10), pa.int64()), pa.array([1.0] * 10)]
            yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)

    ranks = {rank: RankSteps(rows(rank)) for rank in (0, 1)}
    assert sum(table.num_rows for window in windows(ranks) for table in window.values()) == 10_000
    assert max(most.values()) <= 100
