"""Compares runs: a metric of each over the same buckets, and the first step at which two of them differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..exceptions import expected
from ..pictures import Picture
from ..pictures.svg import Curve, chart
from .run import Run

if TYPE_CHECKING:
    import pyarrow as pa

    from .looks import X


@dataclass(frozen=True)
class Comparison:
    """A metric of several runs. In a notebook it draws itself.

    :ivar pictures: one of each run, over the same span; where the runs have the same density of steps, in the same
        buckets.
    :ivar names: of the runs.

    >>> log.flush()
    True
    >>> run = read_run("logs", "run")
    >>> comparison = compare([run, run], "loss")
    >>> comparison.table.select(["run", "x0", "mean"]).to_pylist()
    [{'run': 'run', 'x0': 1, 'mean': 0.5}, {'run': 'run', 'x0': 1, 'mean': 0.5}]
    >>> comparison.difference().to_pylist()
    [{'run': 'run', 'x0': 1, 'x1': 1, 'difference': 0.0}]
    """

    metric: str
    names: Sequence[str]
    pictures: Sequence[Picture]

    @property
    def table(self) -> pa.Table:
        """The tables of the pictures, one behind the other, with the column `run` before them."""
        import pyarrow as pa

        tables = [
            picture.table.add_column(0, "run", pa.repeat(pa.scalar(name), picture.table.num_rows))
            for name, picture in zip(self.names, self.pictures, strict=True)
        ]
        return pa.concat_tables(tables)

    def difference(self) -> pa.Table:
        """The mean of each run less that of the first one, by bucket: `run`, `x0`, `x1`, `difference`."""
        import pyarrow as pa

        first = {row["x0"]: row["mean"] for row in self.pictures[0].table.to_pylist()}
        rows = [
            {"run": name, "x0": row["x0"], "x1": row["x1"], "difference": row["mean"] - first[row["x0"]]}
            for name, picture in zip(self.names[1:], self.pictures[1:], strict=True)
            for row in picture.table.to_pylist()
            if row["mean"] is not None and first.get(row["x0"]) is not None
        ]
        kinds = [("run", pa.string()), ("x0", pa.int64()), ("x1", pa.int64()), ("difference", pa.float64())]
        return pa.Table.from_pylist(rows, pa.schema(kinds))

    def svg(self, width: int = 860, height: int = 300, *, log: bool | None = None) -> str:
        """Draws the runs over one axis, as :meth:`Picture.svg` does one."""
        curves = [
            Curve(name, *each[1:])
            for name, picture in zip(self.names, self.pictures, strict=True)
            for each in picture.curves()
        ]
        return chart(curves, title=self.metric, x=self.pictures[0].x, width=width, height=height, log=log)

    def __str__(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return self.svg()


def compare(
    runs: Sequence[Run],
    metric: str = "loss",
    *,
    x: X | None = None,
    span: tuple[Any, Any] | None = None,
    width: int = 1500,
    smooth: float | None = None,
) -> Comparison:
    """Look at a metric of several runs over the same steps, the ranks of each merged.

    :param runs: two or more, of :func:`read_run`.
    :param x: as of :meth:`Run.picture`.
    :param span: the first and the last place on that axis; None for from where the first run begins to where the last
        one ends.
    :param width: buckets over the span at least.
    :param smooth: as of :meth:`Run.picture`.
    :raises ValueError: there are no two runs, one lacks the metric, or an argument is out of its range.
    :raises OSError: a file cannot be read.

    >>> log.flush()
    True
    >>> compare([read_run("logs", "run"), read_run("logs", "run")], "loss").names
    ['run', 'run']
    """
    if len(runs) < 2:
        raise ValueError(expected("runs", "two runs or more", len(runs)))
    if x in (None, "step"):
        wholes = [run.picture(metric, x=x, width=1) for run in runs]
        if len({each.x for each in wholes}) > 1:  # of one the steps are no axis, so of none
            x = "record"
            wholes = [run.picture(metric, x=x, width=1) for run in runs]
        if span is None:
            span = min(each.span[0] for each in wholes), max(each.span[1] for each in wholes)
    pictures = [run.picture(metric, x=x, span=span, width=width, smooth=smooth) for run in runs]
    return Comparison(metric, [run.name for run in runs], pictures)


@dataclass(frozen=True)
class Divergence:
    """The first step at which two runs differ in a metric.

    :ivar values: of the one and of the other; None where it has none there.
    """

    metric: str
    rank: int
    step: int
    values: tuple[float | None, float | None]


_COMPARED = ("records", "count", "nan", "posinf", "neginf", "min", "max", "argmin", "argmax")


def first_difference(one: Run, other: Run, metric: str = "loss") -> Divergence | None:
    """Returns the first step, of any rank, at which two runs do not have the same values of a metric, such as a run and
    its repetition with the same seed; the first record, where steps are no axis. None where all that both have is
    alike. It narrows it down from what is kept of whole parts, so it reads few rows.

    :raises ValueError: one lacks the metric, or they have no step in common.
    :raises OSError: a file cannot be read.
    """
    wholes = [run.picture(metric, width=1) for run in (one, other)]
    x: X = "record" if "record" in {each.x for each in wholes} else "step"
    spans = [run.picture(metric, x=x, width=1).span for run in (one, other)]
    low, high = max(span[0] for span in spans), min(span[1] for span in spans)
    if low > high:
        told = " and ".join(
            f"{name} has {a:,} to {b:,}" for name, (a, b) in zip((one.name, other.name), spans, strict=True)
        )
        raise ValueError(f"runs: expected steps that both have, and {told}")
    return _search((one, other), metric, x, low, high)


def _search(runs: tuple[Run, Run], metric: str, x: X, low: int, high: int) -> Divergence | None:
    """The first difference from one step to another, both in it."""
    tables = [run.picture(metric, x=x, span=(low, high), ranks="each").table for run in runs]
    mine, theirs = ({(row["rank"], row["x0"]): row for row in table.to_pylist()} for table in tables)
    common = {rank for rank, _ in mine} & {rank for rank, _ in theirs}
    for key in sorted(mine.keys() & theirs.keys(), key=lambda key: (key[1], key[0])):
        if key[0] not in common:
            continue
        row, other = mine[key], theirs[key]
        begin, end = max(row["x0"], low), min(row["x1"], high)
        is_step = row["x0"] == row["x1"]
        # The sums of a bucket's parts may have been added in another order.
        names = (*_COMPARED, "mean") if is_step else _COMPARED
        if row["x1"] == other["x1"] and all(row[name] == other[name] for name in names):
            continue
        if is_step or (begin, end) == (low, high):  # as near as it can be looked at
            return Divergence(metric, key[0], begin, (_value(row), _value(other)))
        # A bucket at an end holds what lies beyond it too, so it may differ for that alone.
        if (found := _search(runs, metric, x, begin, end)) is not None:
            return found
    return None


def _value(row: dict[str, Any]) -> float | None:
    for name, value in (("nan", math.nan), ("posinf", math.inf), ("neginf", -math.inf)):
        if row[name]:
            return value
    mean: float | None = row["mean"]
    return mean
