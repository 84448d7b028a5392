"""Buckets as Arrow tables."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from ..pictures.buckets import Buckets, Clock

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = ("min", "max", "mean", "count", "nan", "posinf", "neginf", "unresolved", "records", "argmin", "argmax")
_RANK_COLUMNS = ("rank_min", "rank_max")


def bucket_table(rank: int | None, buckets: Buckets) -> pa.Table:
    """Returns buckets as a table: see :class:`Picture`."""
    import pyarrow as pa

    begins = [at << buckets.shift for at in range(buckets.first, buckets.first + buckets.count)]
    wide = (1 << buckets.shift) - 1
    columns = {
        "rank": pa.repeat(pa.scalar(rank, pa.int32()), buckets.count),
        "x0": pa.array(begins, pa.int64()),
        "x1": pa.array([begin + wide for begin in begins], pa.int64()),
    }
    columns |= {name: buckets.column(name) for name in (*_COLUMNS, *_RANK_COLUMNS)}
    return pa.table(columns)


def has_values(buckets: Buckets) -> bool:
    """Returns whether any bucket has a value."""
    import pyarrow.compute as pc

    return any(pc.any(pc.greater(buckets.column(name), 0)).as_py() for name in ("count", "nan", "posinf", "neginf"))


def smoothed(table: pa.Table, half: float) -> pa.Array:
    """Returns the mean of the values so far, whose weight halves with so many steps."""
    import pyarrow as pa

    held = weights = 0.0
    before = None
    found: list[float | None] = []
    columns = (table[name].to_pylist() for name in ("x0", "x1", "mean", "count"))
    for x0, x1, mean, count in zip(*columns, strict=True):
        middle = (x0 + x1) / 2
        if before is not None:
            fade = 2.0 ** (-(middle - before) / half)
            weights *= fade
        before = middle
        if mean is not None:
            weights += count
            share = count / weights
            held = held * (1 - share) + mean * share  # a mean of large values is a number, their sum may be none
        found.append(held if mean is not None else None)
    return pa.array(found, pa.float64())


def intervals(clock: Clock, shift: int) -> list[float | None]:
    """The seconds from one step to the next, in each bucket."""
    found: list[float | None] = []
    before = None
    for begins, ends in zip(clock.column("t0").to_pylist(), clock.column("t1").to_pylist(), strict=True):
        since = before if before is not None else begins
        steps = (1 << shift) if before is not None else (1 << shift) - 1
        known = ends is not None and since is not None and steps > 0
        found.append((ends - since).total_seconds() / steps if known else None)
        before = ends
    return found


def heat_table(means: dict[int, list[float | None]], counts: dict[int, list[int]], first: int, shift: int) -> pa.Table:
    """Returns the means of the ranks, bucket by bucket, against their median: see :class:`Heat`."""
    import pyarrow as pa

    count = max(map(len, means.values()), default=0)
    medians: list[float | None] = []
    for at in range(count):
        values = [column[at] for column in means.values()]
        there = [value for value in values if value is not None]
        medians.append(statistics.median(there) if there else None)
    rows: dict[str, list[Any]] = {"rank": [], "x0": [], "x1": [], "mean": [], "count": [], "ratio": []}
    for rank, column in means.items():
        for at, (mean, median) in enumerate(zip(column, medians, strict=True)):
            rows["rank"].append(rank)
            rows["x0"].append((first + at) << shift)
            rows["x1"].append(((first + at + 1) << shift) - 1)
            rows["mean"].append(mean)
            rows["count"].append(counts[rank][at])
            ratio = mean / median if mean is not None and median else None
            rows["ratio"].append(ratio if ratio is not None and math.isfinite(ratio) else None)
    kinds = [pa.int32(), pa.int64(), pa.int64(), pa.float64(), pa.int64(), pa.float64()]
    return pa.table(rows, pa.schema(list(zip(rows, kinds, strict=True))))
