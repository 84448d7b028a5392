"""A picture of a metric: its buckets as a table, and drawn."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import expected
from .plotting import plotted
from .svg import Curve, chart, heat_map

if TYPE_CHECKING:
    import os

    import pyarrow as pa

KINDS = (".svg", ".csv", ".png")


@dataclass(frozen=True)
class Picture:
    """Every value of a metric over a span of steps, in at most twice as many buckets as it was to be wide.

    In a notebook it draws itself, as SVG without scripts. `str(picture)` is the SVG.

    :ivar metric: its name.
    :ivar x: what the axis shows: "step"; "record" (the number of the record in its rank, where the records have no
        step, or steps that begin again); "time", "epoch", or "active" (seconds, without the pauses between attempts).
    :ivar span: the least and the greatest step that are shown.
    :ivar shift: a bucket covers `2 ** shift` steps.
    :ivar table: a row a bucket, of each rank: `rank` (null where the ranks are merged), the steps that it covers, `x0`
        to `x1`; `min`, `max` and `mean` of the finite values (float64, null where there is none) and their `count`; how
        many were `nan`, `posinf`, `neginf` or `unresolved` (a GPU's that never came); `records`, with the metric or
        without; the steps `argmin` and `argmax` of the extremes and the ranks `rank_min` and `rank_max` that had them.
        With another `x` than the step, also `t0` and `t1`, the times of the first and the last record, `epoch`, and
        `active_s`.
    :ivar account: how many `records` are in the picture, of how many `rows` that the shown attempts have; the others
        have no step, or are of child processes.

    >>> log.flush()
    True
    >>> picture = read_run("logs", "run").picture("loss")
    >>> picture.span, picture.account
    ((1, 1), {'records': 1, 'rows': 1})
    """

    metric: str
    x: str
    span: tuple[int, int]
    shift: int
    table: pa.Table
    account: Mapping[str, int]
    notes: Sequence[str] = field(default_factory=tuple)
    """What to know of it, as sentences."""

    def __str__(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return self.svg()

    def svg(self, width: int = 860, height: int = 300, *, log: bool | None = None) -> str:
        """Draws it: the band from the least to the greatest value, the mean, and a mark where a value is not finite.

        :param width: in pixels.
        :param height: in pixels.
        :param log: a logarithmic axis of values; None decides by them.
        """
        return chart(self.curves(), title=self.metric, x=self.x, width=width, height=height, log=log)

    def curves(self) -> list[Curve]:
        """Returns what is drawn: a curve for each rank that is shown alone."""
        return [
            Curve(
                "" if rank is None else f"rank {rank}",
                [_place(row, self.x) for row in rows],
                [row["min"] for row in rows],
                [row["max"] for row in rows],
                [row["smooth"] if "smooth" in row else row["mean"] for row in rows],
                [row["nan"] + row["posinf"] + row["neginf"] for row in rows],
            )
            for rank, rows in self._by_rank().items()
        ]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it into a file, as its name ends: `.svg`, `.csv` (the table), or `.png` (needs matplotlib).

        :raises ValueError: the name ends otherwise.
        :raises OSError: the file cannot be written.
        :raises ModuleNotFoundError: a PNG, without matplotlib.
        """
        target = Path(path)
        if target.suffix not in KINDS:
            raise ValueError(expected("path", f"a name that ends in {' or '.join(KINDS)}", str(path)))
        if target.suffix == ".svg":
            target.write_text(self.svg(), encoding="utf-8")
        elif target.suffix == ".csv":
            target.write_text(self.csv(), encoding="utf-8")
        else:
            self.plot().figure.savefig(target, dpi=150)

    def csv(self) -> str:
        """Returns the table as CSV, with every digit."""
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(self.table.column_names)
        for row in self.table.to_pylist():
            writer.writerow(["" if value is None else value for value in row.values()])
        return out.getvalue()

    def plot(self, ax: Any = None, *, label: str | None = None, log: bool | None = None) -> Any:
        """Draws it with matplotlib, and returns the axes.

        :param ax: the axes to draw into; None makes a figure.
        :param label: of the curve in a legend; None is the metric's name.
        :param log: a logarithmic axis of values; None decides by them.
        :raises ModuleNotFoundError: matplotlib is not installed.
        """
        return plotted(self.metric, self.x, self.curves(), ax, label, log)

    def _by_rank(self) -> dict[int | None, list[dict[str, Any]]]:
        found: dict[int | None, list[dict[str, Any]]] = {}
        for row in self.table.to_pylist():
            found.setdefault(row["rank"], []).append(row)
        return found


@dataclass(frozen=True)
class Heat:
    """A time of all ranks: each against the median of the ranks, by bucket of steps.

    :ivar metric: its name.
    :ivar span: the least and the greatest step that are shown.
    :ivar shift: a bucket covers `2 ** shift` steps.
    :ivar table: a row for each rank and bucket: `rank`, `x0`, `x1`, the `mean`, the `count` of values, and `ratio`, the
        mean over the median of the ranks' means in this bucket; null where the rank has no value.

    >>> log.flush()
    True
    >>> read_run("logs", "run").heat().metric
    'step_interval'
    """

    metric: str
    span: tuple[int, int]
    shift: int
    table: pa.Table

    def __str__(self) -> str:
        return self.svg()

    def _repr_html_(self) -> str:
        return self.svg()

    def svg(self, width: int = 860) -> str:
        """Draws it: a row a rank; blue is faster than the others, yellow and red slower."""
        rows: dict[int, list[float | None]] = {}
        for rank, ratio in zip(self.table["rank"].to_pylist(), self.table["ratio"].to_pylist(), strict=True):
            rows.setdefault(rank, []).append(ratio)
        return heat_map(rows, title=f"{self.metric} by rank", span=self.span, width=width)


def _place(row: dict[str, Any], x: str) -> float | None:
    """Where the middle of a bucket lies on an axis."""
    if x in ("step", "record") or "t0" not in row:
        return float((row["x0"] + row["x1"]) / 2)
    if x == "epoch":
        found = row["epoch"]
    elif x == "active":
        found = row["active_s"]
    else:
        found = None if row["t0"] is None else (row["t0"].timestamp() + row["t1"].timestamp()) / 2
    return None if found is None or not math.isfinite(found) else float(found)
