"""What a picture must show, counted in plain Python from the rows of the run's table."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from advlog_fast.pictures import Picture

Row = Mapping[str, Any]


def rows_of(run: Any, by: str = "step") -> list[dict[str, Any]]:
    """The rows that pictures show: of the ranks themselves, with a step."""
    return [{**row, "at": row[by]} for row in run.metrics.to_pylist() if row["worker"] == 0 and row[by] is not None]


def check_picture(picture: Picture, rows: Iterable[Row]) -> None:
    """Every bucket of a picture holds what its rows say, and no row of its span is in none."""
    shift, metric = picture.shift, picture.metric
    by_bucket: dict[tuple[int | None, int], list[Row]] = {}
    alone = {rank for rank in picture.table["rank"].to_pylist() if rank is not None}
    for row in rows:
        key = row["rank"] if alone else None
        if not alone or key in alone:
            by_bucket.setdefault((key, row["at"] >> shift), []).append(row)
    low, high = picture.span[0] >> shift, picture.span[1] >> shift
    seen = set()
    for bucket in picture.table.to_pylist():
        at = bucket["x0"] >> shift
        assert (at << shift, ((at + 1) << shift) - 1) == (bucket["x0"], bucket["x1"])
        seen.add((bucket["rank"], at))
        _check_bucket(bucket, by_bucket.get((bucket["rank"], at), []), metric)
    assert {key for key in by_bucket if low <= key[1] <= high} <= seen


def _check_bucket(bucket: dict[str, Any], rows: list[Row], metric: str) -> None:
    values = [(row[metric], row["at"], row["rank"]) for row in rows if row.get(metric) is not None]
    finite = [each for each in values if math.isfinite(each[0])]
    assert bucket["records"] == len(rows)
    assert bucket["count"] == len(finite)
    assert bucket["nan"] == sum(math.isnan(value) for value, _, _ in values)
    assert bucket["posinf"] == sum(value == math.inf for value, _, _ in values)
    assert bucket["neginf"] == sum(value == -math.inf for value, _, _ in values)
    reasons = [dict(row["unresolved"] or ()) for row in rows]
    assert bucket["unresolved"] == sum(metric in each for each in reasons)
    if not finite:
        assert [bucket[name] for name in ("min", "max", "mean", "argmin", "rank_max")] == [None] * 5
        return
    low, high = min(value for value, _, _ in finite), max(value for value, _, _ in finite)
    assert (bucket["min"], bucket["max"]) == (low, high)
    assert (low, bucket["argmin"], bucket["rank_min"]) in finite
    assert (high, bucket["argmax"], bucket["rank_max"]) in finite
    scale = max(abs(low), abs(high))
    mean = math.fsum(value / len(finite) for value, _, _ in finite)
    assert math.isclose(bucket["mean"], mean, rel_tol=1e-12, abs_tol=1e-12 * scale + 1e-300)
