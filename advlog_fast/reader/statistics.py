"""Merges statistics of several ranks: moments merge exactly, in any order, without reading a value again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from .._native import ffi, lib

_CLASSES = ("nan", "posinf", "neginf")


def merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The statistics of all values together, from those of each part: `count` (of the finite ones), `mean`, `std` (of
    the population), `min`, `max`, `nan`, `posinf`, `neginf`. None (NaN in JSON) and a missing key count as nothing.

    The merge is Chan, Golub and LeVeque's (Stanford STAN-CS-79-773, 1979), pairwise, in float64.
    """
    total, other = ffi.new("advlog_stat *"), ffi.new("advlog_stat *")
    lib.advlog_stat_init(total)
    for part in parts:
        lib.advlog_stat_init(other)
        other.count = int(part.get("count") or 0)
        for name in ("mean", "min", "max"):
            setattr(other, name, _number(part.get(name)))
        std = _number(part.get("std"))
        other.m2 = std * std * other.count if other.count else 0.0
        for name in _CLASSES:
            setattr(other, name, int(part.get(name) or 0))
        lib.advlog_stat_merge(total, other)
    some = total.count > 0
    return {
        "count": total.count,
        "min": total.min if some else math.nan,
        "max": total.max if some else math.nan,
        "mean": total.mean if some else math.nan,
        "std": math.sqrt(total.m2 / total.count) if some else math.nan,
        **{name: getattr(total, name) for name in _CLASSES},
    }


def statistics_of(values: Any) -> dict[str, Any]:
    """Those of an Arrow array of float64; nulls are nothing."""
    import pyarrow.compute as pc

    finite = values.filter(pc.is_finite(values), null_selection_behavior="drop")
    ends = pc.min_max(finite)
    return {
        "count": len(finite),
        "min": ends["min"].as_py(),
        "max": ends["max"].as_py(),
        "mean": pc.mean(finite).as_py(),
        "std": pc.stddev(finite).as_py(),
        "nan": pc.sum(pc.is_nan(values)).as_py() or 0,
        "posinf": pc.sum(pc.equal(values, math.inf)).as_py() or 0,
        "neginf": pc.sum(pc.equal(values, -math.inf)).as_py() or 0,
    }


def of_ranks(summaries: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The metrics of all ranks together, by name, from the `metrics` of each rank's summary: as :func:`merged`, `last`,
    the mean of the last values, and `first_nonfinite` of the rank that had it first."""
    summaries = list(summaries)
    by_name: dict[str, list[tuple[Any, Mapping[str, Any]]]] = {}
    for summary in summaries:
        for name, told in (summary.get("metrics") or {}).items():
            by_name.setdefault(name, []).append((summary.get("rank"), told))
    found = {}
    for name, told in by_name.items():
        firsts = [{**part["first_nonfinite"], "rank": rank} for rank, part in told if part.get("first_nonfinite")]
        first = min(firsts, key=lambda at: str(at["timestamp"]), default=None)
        found[name] = {**merged(part for _, part in told), "last": _last(name, summaries), "first_nonfinite": first}
    return found


def _last(name: str, summaries: Iterable[Mapping[str, Any]]) -> float | None:
    """The mean of the ranks' last values; None where none is known, NaN where one is not finite."""
    lasts = [summary["last"][name] for summary in summaries if name in (summary.get("last") or {})]
    if not lasts:
        return None
    return math.nan if None in lasts else math.fsum(last / len(lasts) for last in lasts)


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def import_lazily() -> None:
    """Makes pyarrow do its imports of the first use now, among them pandas if installed."""
    import pyarrow as pa

    statistics_of(pa.array([1.0]))
