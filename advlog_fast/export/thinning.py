"""Thins the points of a metric as they come, and keeps every spike.

The values of a metric of a rank are cut into buckets of `width` values in a row. A bucket gives its first, lowest,
highest and last point, and its first that is not finite: real records, in their order. The lowest and the highest are
those of the finite values, so that a NaN or an infinity hides no spike, and none hides it.

What was sent cannot be taken back, so buckets widen: whenever the points meant for a width are used up, it doubles.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from .records import Place

if TYPE_CHECKING:
    import pyarrow as pa

MOST_OF_A_BUCKET = 5
LEAST_POINTS = 16
_FIRST_SHARE = 4
_LATER_SHARE = 32
"""Of an unknown number of values: a quarter of the points at width 1, and a part in 32 of them for each doubling. They
last for 24 doublings."""
_SMALL = 64
"""Values that are looked at one by one sooner than a call into Arrow returns."""


class Point(NamedTuple):
    """A value of one metric, and the record that holds it."""

    place: Place
    value: float


@dataclass
class Thinning:
    """Thins one metric of one rank.

    `points` values or fewer are all sent if their number is known (:meth:`plan`). For a number that is not known, at
    most `points` are sent until the width has doubled 24 times, and then at most five for each doubling.
    """

    points: int
    width: int = 1
    left: int = -1
    """How many points are left for this width."""
    sent: int = 0
    count: int = 0
    """How many values the open bucket has."""
    kept: dict[str, Point] = field(default_factory=dict)
    """What the open bucket will give: `first`, `low`, `high`, `last`, `odd`."""

    def __post_init__(self) -> None:
        if self.left < 0:
            self.left = max(self.points // _FIRST_SHARE, 1)

    def plan(self, values: int, *, is_all: bool) -> None:
        """Prepare for a known number of values: in buckets of one width, which give as many points as are left.

        :param is_all: no more will follow; otherwise half of the points that are left are kept for those.
        """
        share = self.points - self.sent
        share = share if is_all else share // 2
        if values > share:
            share = max(share, MOST_OF_A_BUCKET)
            # Four a bucket: a fifth comes from those buckets alone that have a value which is not finite.
            self.width = max(self.width, math.ceil(values * (MOST_OF_A_BUCKET - 1) / share))
        self.left = share

    def add(self, values: pa.Array, place_of: Callable[[int], Place]) -> list[Point]:
        """Take values, none of them null, and return the points that are to be sent now.

        :param place_of: gives the place of the value at an index.
        """
        found: list[Point] = []
        start = 0
        while start < len(values):
            size = min(self.width - self.count, len(values) - start)
            if not self.count:
                found.append(self._open(Point(place_of(start), values[start].as_py())))
            if self.width > 1:
                self._take(values.slice(start, size), lambda index, start=start: place_of(start + index))  # type: ignore[misc]
            self.count += size
            start += size
            if self.count == self.width:
                found += self.close()
        return found

    def close(self) -> list[Point]:
        """Close the open bucket before it is full, and return its points that were not sent yet."""
        opened = self.kept.pop("first", None)
        places = {point.place: point for point in self.kept.values()}
        if opened is not None:
            places.pop(opened.place, None)
        self.count, self.kept = 0, {}
        found = [places[place] for place in sorted(places)]
        self._spend(len(found))
        if opened is not None and self.left < (MOST_OF_A_BUCKET if self.width > 1 else 1):
            self.width *= 2
            self.left = self.points // _LATER_SHARE if self.sent < self.points else 0
        return found

    def forget_after(self, attempt: int, seq: int) -> None:
        """Leave out of the open bucket what a later attempt supersedes."""
        gone = [name for name, (place, _) in self.kept.items() if place.attempt == attempt and place.seq > seq]
        for name in gone:
            if name != "first":  # sent already
                del self.kept[name]

    def state(self) -> dict[str, Any]:
        """Return what a later process needs to go on, as JSON has it."""
        kept = {name: [*point.place, point.value.hex()] for name, point in self.kept.items()}
        return {"width": self.width, "left": self.left, "sent": self.sent, "count": self.count, "kept": kept}

    @classmethod
    def of(cls, points: int, state: dict[str, Any]) -> Thinning:
        """Return what :meth:`state` described.

        :raises KeyError, TypeError, ValueError: it is no such state.
        """
        width, left, sent, count = (int(state[name]) for name in ("width", "left", "sent", "count"))
        kept = {
            name: Point(Place(*map(int, place)), float.fromhex(value))
            for name, (*place, value) in state["kept"].items()
        }
        made = cls(points, width, left, sent, count, kept)
        made.left = left  # below 0 where a bucket has spent more, and no default then
        return made

    def _open(self, point: Point) -> Point:
        """The first point of a bucket is sent at once."""
        self.kept = {"first": point}
        self._spend(1)
        return point

    def _spend(self, points: int) -> None:
        self.sent += points
        self.left -= points

    def _take(self, values: pa.Array, place_of: Callable[[int], Place]) -> None:
        low, high, odd = _ends(values) if len(values) > _SMALL else _ends_of_few(values.to_pylist())
        for name, index in (("low", low), ("high", high), ("odd", odd), ("last", len(values) - 1)):
            if index is None:
                continue
            before, value = self.kept.get(name), values[index].as_py()
            if (
                before is None
                or name == "last"
                or (name == "low" and value < before.value)
                or (name == "high" and value > before.value)
            ):
                self.kept[name] = Point(place_of(index), value)


def _ends_of_few(values: list[float]) -> tuple[int | None, int | None, int | None]:
    finite = [index for index, value in enumerate(values) if math.isfinite(value)]
    odd = next((index for index, value in enumerate(values) if not math.isfinite(value)), None)
    if not finite:
        return None, None, odd
    return min(finite, key=values.__getitem__), max(finite, key=values.__getitem__), odd


def _ends(values: pa.Array) -> tuple[int | None, int | None, int | None]:
    """The indices of the lowest and the highest finite value, and of the first that is not finite; the first of equal
    ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    finite = pc.is_finite(values)
    odd = pc.index(finite, False).as_py()
    if odd < 0:
        odd = None
    else:
        values = pc.if_else(finite, values, pa.scalar(None, pa.float64()))
    ends = pc.min_max(values)
    if not ends["min"].is_valid:
        return None, None, odd
    return pc.index(values, ends["min"]).as_py(), pc.index(values, ends["max"]).as_py(), odd
