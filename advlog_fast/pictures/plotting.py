"""Draws pictures with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .svg import HUES, Curve, value_range, wants_log


def plotted(metric: str, x: str, curves: Sequence[Curve], ax: Any, label: str | None, log: bool | None) -> Any:
    """See :meth:`Picture.plot`."""
    try:
        import matplotlib.pyplot as plt
    except ModuleNotFoundError:
        message = "Picture.plot needs matplotlib: pip install 'advlog-fast[plot]'"
        raise ModuleNotFoundError(message, name="matplotlib") from None
    if ax is None:
        _, ax = plt.subplots(figsize=(8, 3), layout="constrained")
    hue = ax._get_lines.get_next_color() if ax.lines else HUES[0]
    for number, curve in enumerate(curves):
        _draw(ax, curve, hue if len(curves) == 1 else HUES[number % len(HUES)], label or curve.name or metric)
    # What a run's text says is no markup.
    ax.set_title(metric, parse_math=False)
    ax.set_xlabel(x, parse_math=False)
    chosen = wants_log(curves) if log is None else log
    if chosen:
        ax.set_yscale("log")
    ax.set_ylim(*value_range(curves, log=chosen))
    return ax


def _draw(ax: Any, curve: Curve, hue: str, label: str) -> None:
    rows = [row for row in zip(curve.x, curve.low, curve.high, curve.mean, strict=True) if None not in row]
    if not rows:
        return
    at, low, high, mean = zip(*rows, strict=True)
    ax.fill_between(at, low, high, color=hue, alpha=0.18, linewidth=0)
    (line,) = ax.plot(at, mean, color=hue, linewidth=1.5)
    line.set_label(label if not label.startswith("_") else f" {label}")
    for place, count in zip(curve.x, curve.nonfinite, strict=True):
        if count and place is not None:
            ax.axvline(place, color="#b0189c", linewidth=1, alpha=0.6)
