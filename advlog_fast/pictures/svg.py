"""Draws charts as SVG: text alone, without scripts, fonts or anything to load."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import pairwise
from typing import NamedTuple
from xml.sax.saxutils import escape

HUES = ("#2f5fd0", "#b25a00", "#0b7d61", "#b0189c", "#7a6a00", "#5b3fc4", "#c8264e", "#0f7a96")
"""Each 4.5 times as bright or as dark as a white page, at least."""
_NAN = "#b0189c"
_BAD = "#c8264e"
_STYLE = (
    "<style>.advlog{color:#14181f;background:#fff;font:11.5px system-ui,sans-serif}.advlog text{fill:#545c69}"
    ".advlog .title{fill:currentColor;font-weight:600;font-size:13px}.advlog .grid{stroke:#e3e6eb}"
    "@media(prefers-color-scheme:dark){.advlog{color:#e8ebf0;background:#161a21}.advlog text{fill:#a7b0bd}"
    ".advlog .grid{stroke:#272d37}}</style>"
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 20, 34, 26
_MARKS = 5
"""Values beyond the axis that are named, of a chart."""
_BEYOND = 0.002
"""The share of the extremes, at each end, that does not stretch the axis."""


_FAR, _FEW = 4.0, 4
"""So many times as far from the middle eight tenths as these are wide, and so many or one in a hundred: left out."""


class Curve(NamedTuple):
    """A metric by bucket. None where there is no value."""

    name: str
    x: Sequence[float | None]
    low: Sequence[float | None]
    high: Sequence[float | None]
    mean: Sequence[float | None]
    nonfinite: Sequence[int]


def chart(
    curves: Sequence[Curve],
    *,
    title: str,
    x: str = "step",
    width: int = 860,
    height: int = 300,
    log: bool | None = None,
) -> str:
    """Draws curves over one axis.

    :param title: text, not markup.
    :param x: what the axis shows; "time" is in seconds since 1970.
    :param log: a logarithmic axis of values; None decides by them.
    """
    places = [at for curve in curves for at in curve.x if at is not None]
    if not places:
        return _svg(width, height, title, [_text(width / 2, height / 2, "no value", "middle")])
    axis = Axis(min(places), max(places), _LEFT, width - _RIGHT)
    values = _value_axis(curves, height, log)
    parts = [*_grid(axis, values, x, width, height)]
    for number, curve in enumerate(curves):
        parts += _drawn(curve, axis, values, HUES[number % len(HUES)])
    parts += _marks(curves, axis, values, height)
    for number, curve in enumerate(curve for curve in curves if curve.name):
        parts.append(_text(width - _RIGHT - 64 * number, 20, curve.name, "end", HUES[number % len(HUES)]))
    return _svg(width, height, title, parts)


class Axis:
    """Places of values, linear or logarithmic."""

    def __init__(self, low: float, high: float, begin: float, end: float, *, log: bool = False) -> None:
        self.log = log
        self._low, self._high = (math.log10(low), math.log10(high)) if log else (low, high)
        self.low, self.high = low, high
        self._begin, self._end = begin, end

    def __call__(self, value: float) -> float:
        """Returns the place of a value; what lies beyond an end is at that end."""
        at = min(max(value, self.low), self.high)
        at = math.log10(at) if self.log else at
        # Halves: the difference of two floats may be none.
        half = self._high / 2 - self._low / 2
        share = 0.5 if half == 0 else (at / 2 - self._low / 2) / half
        return self._begin + share * (self._end - self._begin)

    def ticks(self, most: int) -> list[float]:
        """Returns round values within it."""
        if self.log:
            first, last = math.ceil(self._low), math.floor(self._high)
            every = max(1, math.ceil((last - first + 1) / most))
            decades = [10.0**power for power in range(first, last + 1, every)]
            if len(decades) > 1:
                return decades
            more = [digit * 10.0**power for power in range(first - 1, min(last + 2, 308)) for digit in (1, 2, 5)]
            return [each for each in more if self.low <= each <= self.high]
        half = self.high / 2 - self.low / 2
        if not half > 0:
            return [self.low]
        step = half / most * 2
        size = 10.0 ** math.floor(math.log10(step))
        step = next(size * times for times in (1, 2, 5, 10) if size * times >= step * 0.999)
        first = math.ceil(self.low / step)
        return [(first + i) * step for i in range(most + 2) if (first + i) * step <= self.high]


def value_range(curves: Sequence[Curve], *, log: bool) -> tuple[float, float]:
    """Returns the ends of an axis: of nearly all extremes, so that one value alone flattens no curve."""
    ends = sorted(
        value
        for curve in curves
        for column in (curve.low, curve.high)
        for value in column
        if value is not None and (value > 0 or not log)
    )
    if not ends:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = _nearly_all(ends, log=log)
    if log:
        return low / 1.25, min(high * 1.6, 1.7e308)
    room = (high / 2 - low / 2) * 0.16 or abs(high) * 0.1 or 1.0
    return max(low - room, -1.7e308), min(high + room, 1.7e308)


def _nearly_all(ends: list[float], *, log: bool) -> tuple[float, float]:
    """The ends of all but the few that lie far from the others.

    :param ends: in order.
    """
    cut = int(len(ends) * _BEYOND)
    kept = ends[cut : len(ends) - cut]
    scaled = math.log10 if log else _half
    first, last = scaled(kept[len(kept) // 10]), scaled(kept[len(kept) - 1 - len(kept) // 10])
    reach = _FAR * (last - first)
    near = [value for value in kept if first - reach <= scaled(value) <= last + reach]
    if last > first and len(kept) - len(near) <= max(_FEW, len(kept) // 100):
        kept = near
    return kept[0], kept[-1]


def _half(value: float) -> float:
    return value / 2


def wants_log(curves: Sequence[Curve]) -> bool:
    """Returns whether values are better seen by their order of magnitude: all above 0, and over more than a factor of
    30."""
    lows = [value for curve in curves for value in curve.low if value is not None]
    means = sorted(value for curve in curves for value in curve.mean if value is not None)
    if not lows or min(lows) <= 0 or not means:
        return False
    return means[len(means) - 1 - int(len(means) * _BEYOND)] / 30 > means[int(len(means) * _BEYOND)]


def _value_axis(curves: Sequence[Curve], height: int, log: bool | None) -> Axis:
    chosen = wants_log(curves) if log is None else log
    low, high = value_range(curves, log=chosen)
    return Axis(low, high, height - _BOTTOM, _TOP, log=chosen)


def _grid(axis: Axis, values: Axis, x: str, width: int, height: int) -> Iterator[str]:
    for tick in values.ticks(5):
        at = values(tick)
        yield f'<line class="grid" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
        yield _text(_LEFT - 8, at + 4, short(tick), "end")
    ticks = axis.ticks(6)
    for tick in ticks:
        text = _moment(tick, axis.high - axis.low) if x == "time" else short(tick)
        yield _text(axis(tick), height - 8, text, "middle")


def _drawn(curve: Curve, axis: Axis, values: Axis, hue: str) -> Iterator[str]:
    """The band and the mean."""
    # Over empty buckets the line goes on: where a metric comes seldom, each would stand alone.
    rows = [
        (axis(at), values(low), values(high), values(mean))
        for at, low, high, mean in zip(curve.x, curve.low, curve.high, curve.mean, strict=True)
        if at is not None and low is not None and high is not None and mean is not None
    ]
    if not rows:
        return
    edges = [(x, high) for x, _, high, _ in rows] + [(x, low) for x, low, _, _ in reversed(rows)]
    yield f'<polygon points="{_points(edges)}" fill="{hue}" fill-opacity=".18" stroke="none"/>'
    line = [(x, mean) for x, _, _, mean in rows]
    style = 'fill="none" stroke-width="1.5" stroke-linejoin="round" stroke-linecap="round"'
    yield f'<polyline points="{_points(line if len(line) > 1 else line * 2)}" stroke="{hue}" {style}/>'


def _points(places: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _marks(curves: Sequence[Curve], axis: Axis, values: Axis, height: int) -> Iterator[str]:
    beyond: list[tuple[float, float, bool]] = []
    for curve in curves:
        for at, low, high, count in zip(curve.x, curve.low, curve.high, curve.nonfinite, strict=True):
            if at is None:
                continue
            if count:
                yield _triangle(axis(at), _TOP, 1, _NAN, f"{count} not finite")
            if high is not None and high > values.high:
                beyond.append((at, high, True))
            if low is not None and low < values.low:
                beyond.append((at, low, False))
    middle = (values.low + values.high) / 2
    for at, value, is_above in sorted(beyond, key=lambda each: -abs(each[1] - middle))[:_MARKS]:
        y = _TOP if is_above else height - _BOTTOM
        yield _triangle(axis(at), y, 1 if is_above else -1, _BAD, short(value))
        yield _text(axis(at) + 8, y + (9 if is_above else -3), short(value), "start", _BAD)


def _triangle(x: float, y: float, way: int, hue: str, title: str) -> str:
    points = f"{x:.1f},{y:.1f} {x - 5:.1f},{y + 9 * way:.1f} {x + 5:.1f},{y + 9 * way:.1f}"
    return f'<polygon points="{points}" fill="{hue}"><title>{escape(title)}</title></polygon>'


def heat_map(rows: Mapping[int, Sequence[float | None]], *, title: str, span: tuple[int, int], width: int = 860) -> str:
    """Draws ratios, a row each.

    :param rows: by rank; None where there is no value.
    """
    tall = max(4, min(19, 600 // max(len(rows), 1)))
    height = _TOP + tall * len(rows) + _BOTTOM
    axis = Axis(span[0], span[1], _LEFT, width - _RIGHT)
    parts = []
    for number, (rank, ratios) in enumerate(rows.items()):
        y = _TOP + number * tall
        if tall >= 11 or number % (11 // tall + 1) == 0:
            parts.append(_text(_LEFT - 8, y + tall / 2 + 4, f"r{rank}", "end"))
        cell = (width - _LEFT - _RIGHT) / max(len(ratios), 1)
        for begin, end, ratio in _runs(ratios):
            parts.append(
                f'<rect x="{_LEFT + begin * cell:.2f}" y="{y}" width="{(end - begin) * cell:.2f}" height="{tall}" '
                f'fill="{heat_hue(ratio)}"/>'
            )
    parts += [_text(axis(tick), height - 8, short(tick), "middle") for tick in axis.ticks(6)]
    return _svg(width, height, title, parts)


def _runs(ratios: Sequence[float | None]) -> Iterator[tuple[int, int, float]]:
    """Neighbours of one colour together."""
    begin = 0
    for at in range(1, len(ratios) + 1):
        before = ratios[begin]
        if at < len(ratios) and _hue_of(ratios[at]) == _hue_of(before):
            continue
        if before is not None:
            yield begin, at, before
        begin = at


def _hue_of(ratio: float | None) -> str | None:
    return None if ratio is None else heat_hue(ratio)


def heat_hue(ratio: float) -> str:
    """Returns the colour of a ratio: grey at 1, blue from a half on, yellow at 1.4, red at 2."""
    log = math.log2(ratio) if 0 < ratio < math.inf else 1.0
    stops = ((-0.5, (91, 141, 239)), (0.0, (214, 218, 225)), (0.5, (255, 176, 0)), (1.0, (209, 73, 91)))
    log = round(min(max(log, stops[0][0]), stops[-1][0]) * 16) / 16
    for (low, before), (high, after) in pairwise(stops):
        if log <= high:
            share = (log - low) / (high - low)
            return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(before, after, strict=True))
    raise AssertionError


_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")


def _told(text: str) -> str:
    """Text as markup has it; what XML cannot hold, or turns text around, becomes a dot."""
    return escape(_UNSAFE.sub("·", text))


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    told = _told(title)
    return (
        f'<svg class="advlog" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" style="max-width:100%;height:auto" role="img"><title>{told}</title>{_STYLE}'
        f'<text class="title" x="16" y="20">{told}</text>{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str, hue: str | None = None) -> str:
    style = f' style="fill:{hue};font-weight:600"' if hue else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{_told(text)}</text>'


def short(value: float) -> str:
    """Returns a number as a few characters, such as `1.2M` or `0.05`."""
    size = abs(value)
    if size >= 1e15 or (0 < size < 1e-4):
        return f"{value:.3g}"
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.4g}{unit}"
    return f"{value:.4g}"


def _moment(seconds: float, span_s: float) -> str:
    try:
        at = datetime.fromtimestamp(seconds, timezone.utc)
    except (OverflowError, ValueError, OSError):
        return short(seconds)
    return f"{at:%m-%d %H:%M}" if span_s > 86_400 else f"{at:%H:%M:%S}" if span_s < 3600 else f"{at:%H:%M}"
