"""Statistics of ranks merge to those of all values together."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from advlog_fast.reader.statistics import merged, of_ranks, statistics_of

pa = pytest.importorskip("pyarrow")

numbers = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([math.nan, math.inf, -math.inf]))


def told(values):
    return statistics_of(pa.array(values, pa.float64()))


@settings(deadline=None)
@given(parts=st.lists(st.lists(numbers, max_size=20), max_size=6))
def test_merged_statistics_are_those_of_all_values_together(parts):
    values = [value for part in parts for value in part]
    finite = [value for value in values if math.isfinite(value)]
    found = merged(map(told, parts))
    assert found["count"] == len(finite)
    assert found["nan"] == sum(map(math.isnan, values))
    assert (found["posinf"], found["neginf"]) == (values.count(math.inf), values.count(-math.inf))
    if not finite:
        assert all(math.isnan(found[name]) for name in ("mean", "std", "min", "max"))
        return
    assert (found["min"], found["max"]) == (min(finite), max(finite))
    assert found["mean"] == pytest.approx(statistics.fmean(finite), rel=1e-12, abs=1e-9)
    assert found["std"] == pytest.approx(statistics.pstdev(finite), rel=1e-7, abs=1e-6)


def test_what_json_says_of_nothing_is_nothing():
    nothing = {"count": 0, "mean": None, "std": None, "min": None, "max": None, "nan": 2}
    found = merged([nothing, {}, told([1.0, 3.0])])
    assert found == {"count": 2, "mean": 2.0, "std": 1.0, "min": 1.0, "max": 3.0, "nan": 2, "posinf": 0, "neginf": 0}


def test_metrics_of_ranks_are_merged_by_name_and_the_first_that_was_not_finite_is_named():
    def summary(rank, second, **values):
        first = {"value": "nan", "step": 7, "timestamp": f"2026-11-22T19:31:{second:02}.000000Z"}
        return {"rank": rank, "metrics": {name: {**told(v), "first_nonfinite": first} for name, v in values.items()}}

    found = of_ranks([summary(0, 9, loss=[1.0]), summary(1, 3, loss=[3.0], mine=[5.0]), {"rank": 2, "metrics": None}])
    assert (found["loss"]["mean"], found["loss"]["count"], found["mine"]["mean"]) == (2.0, 2, 5.0)
    assert (found["loss"]["first_nonfinite"]["rank"], found["loss"]["first_nonfinite"]["step"]) == (1, 7)
