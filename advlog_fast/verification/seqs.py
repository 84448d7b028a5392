"""The seqs of an (attempt, rank) in the files, as ranges: few unless something is wrong."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

_SHOWN = 3

Key = tuple[int, int]
"""Attempt and rank."""


@dataclass
class Seqs:
    """The seqs read so far."""

    ranges: list[tuple[int, int]] = field(default_factory=list)
    """The first and last seq of each range, in order; no two ranges touch."""
    doubled: int = 0
    """How many seqs were added again."""
    first_doubled: int = 0

    def add(self, first: int, last: int) -> None:
        """Adds the seqs from `first` to `last`."""
        ranges = self.ranges
        if not ranges or first > ranges[-1][1] + 1:
            ranges.append((first, last))
        elif first == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], last)
        else:
            self._merge(first, last)

    def _merge(self, first: int, last: int) -> None:
        """Adds seqs before the last range's end: from a file that is read out of order, or added before."""
        apart, low, high = [], first, last
        for start, end in self.ranges:
            if end + 1 < first or last + 1 < start:
                apart.append((start, end))
                continue
            twice = min(end, last) - max(start, first) + 1
            if twice > 0:
                self.doubled += twice
                self.first_doubled = self.first_doubled or max(start, first)
            low, high = min(low, start), max(high, end)
        self.ranges = sorted([*apart, (low, high)])

    @property
    def present(self) -> int:
        """How many distinct seqs were added."""
        return sum(end - start + 1 for start, end in self.ranges)

    @property
    def first(self) -> int:
        return self.ranges[0][0] if self.ranges else 0

    @property
    def last(self) -> int:
        return self.ranges[-1][1] if self.ranges else 0

    def gaps(self, end: int | None = None) -> list[tuple[int, int]]:
        """Returns the gaps between the ranges, and from the last range up to `end`."""
        inner = [(a[1] + 1, b[0] - 1) for a, b in zip(self.ranges, self.ranges[1:], strict=False)]
        return inner + ([(self.last + 1, end)] if end is not None and end > self.last else [])


class SeqRuns:
    """Gathers single seqs into ranges before adding them, so that a file that is read out of order costs no more."""

    def __init__(self, into: defaultdict[Key, Seqs]) -> None:
        self._into = into
        self._key: Key = (0, 0)
        self._first, self._last = 0, -1

    def add(self, key: Key, seq: int) -> None:
        if seq == self._last + 1 and key == self._key:
            self._last = seq
            return
        self.flush()
        self._key, self._first, self._last = key, seq, seq

    def flush(self) -> None:
        if self._last >= self._first:
            self._into[self._key].add(self._first, self._last)
        self._first, self._last = 0, -1


def shown(ranges: list[tuple[int, int]]) -> str:
    """Returns the first few ranges as text."""
    words = [f"{a}" if a == b else f"{a}-{b}" for a, b in ranges[:_SHOWN]]
    more = f" and {len(ranges) - _SHOWN} more ranges" if len(ranges) > _SHOWN else ""
    return f"seq {', '.join(words)}{more}" if words else ""
