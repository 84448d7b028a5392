"""Findings: what the drain sees and somebody else acts on. The drain reports each into the background's queue, which
hands it to the subscriber of its kind, so that the drain never waits."""

from __future__ import annotations

from dataclasses import dataclass

from ..snapshots import NonFinite

FAULT = "fault"
"""A file, a ring or a child is not as it should be: `message` says it in a sentence."""

NONFINITE = "nonfinite"
"""The first value of a metric that is NaN or infinite: `metric` and `value`."""

CLOCK = "clock"
"""The wall clock has jumped: `moved_s` and `seqs`."""


@dataclass(frozen=True)
class Finding:
    """One finding, of one of the kinds above."""

    kind: str
    message: str = ""
    metric: str = ""
    value: NonFinite | None = None
    moved_s: float = 0.0
    seqs: tuple[int, int] = (0, 0)
    """The first and the last record that the jump may lie before."""


def fault(message: str) -> Finding:
    return Finding(FAULT, message)
