"""How memory developed over a run of any length: its ends, its growth, and whether that looks like a leak."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

RETAINED = 120
"""Samples that a slope is drawn from, however long the run."""

_LEAK_S, _LEAK_GB, _LEAK_SHARE, _LEAK_PARTS = 600.0, 0.1, 0.05, 4


@dataclass(frozen=True)
class _Point:
    time_ns: int
    step: int
    values: Mapping[str, float]


class MemoryTrend:
    """First, last and extremes of all samples, and at most RETAINED of them, evenly spread."""

    def __init__(self) -> None:
        self.count = 0
        self._every = 1
        self._kept: list[_Point] = []
        self._ends: dict[str, tuple[float, float, float, float]] = {}

    def add(self, time_ns: int, step: int, values: Mapping[str, float]) -> None:
        """One sample, of any of the names.

        :param step: how many steps there were until then.
        """
        for name, value in values.items():
            first, _, low, high = self._ends.get(name, (value, value, value, value))
            self._ends[name] = first, value, min(low, value), max(high, value)
        if self.count % self._every == 0:
            if len(self._kept) >= RETAINED:
                self._kept = self._kept[::2]
                self._every *= 2
            if self.count % self._every == 0:
                self._kept.append(_Point(time_ns, step, values))
        self.count += 1

    def series(self) -> dict[str, dict[str, float | bool | None]]:
        """Returns the trend by name; see :meth:`MemorySampler.trend`."""
        trends: dict[str, dict[str, float | bool | None]] = {}
        for name, (first, last, low, high) in list(self._ends.items()):
            kept = self._points(name)
            per_ns = _slope((point.time_ns, point.values[name]) for point in kept)
            trends[name] = {
                "first": first,
                "last": last,
                "min": low,
                "max": high,
                "growth_gb_per_hour": None if per_ns is None else per_ns * 3.6e12,
                "growth_gb_per_step": _slope((point.step, point.values[name]) for point in kept),
                "leak_suspected": self.is_leak(name),
            }
        return trends

    def is_leak(self, name: str) -> bool:
        """See :meth:`MemorySampler.trend`."""
        points = self._points(name)
        if not points or points[-1].time_ns - points[0].time_ns < _LEAK_S * 1e9:
            return False
        since_ns = points[0].time_ns + (points[-1].time_ns - points[0].time_ns) // 4
        later = [point.values[name] for point in points if point.time_ns >= since_ns]
        size = len(later) // _LEAK_PARTS
        if size < _LEAK_PARTS:
            return False
        # Medians, so that neither a checkpoint's spike nor a sawtooth is growth.
        levels = [statistics.median(later[part * size : (part + 1) * size]) for part in range(_LEAK_PARTS)]
        growth = levels[-1] - levels[0]
        steady = all(b - a >= growth / (3 * _LEAK_PARTS) for a, b in itertools.pairwise(levels))
        return steady and growth >= max(_LEAK_GB, _LEAK_SHARE * levels[0])

    def _points(self, name: str) -> list[_Point]:
        # The sampler's thread may replace the list meanwhile; it never shortens this one.
        return [point for point in list(self._kept) if name in point.values]


def _slope(points: Iterable[tuple[int, float]]) -> float | None:
    """Returns the Theil-Sen slope: the median over all pairs, so that a spike in a few samples does not tilt it. None
    below two different places."""
    slopes = sorted((b - a) / (y - x) for (x, a), (y, b) in itertools.combinations(points, 2) if y > x)
    return statistics.median(slopes) if slopes else None
