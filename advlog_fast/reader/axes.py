"""Other axes than the step: the time, the epoch, the time without the pauses between attempts."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ..exceptions import expected
from ..pictures import Levels, Span
from ..pictures.levels import MOST_WIDTH
from .lineage import Lineage
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import pyarrow as pa

    from ..pictures.buckets import Clock

AXES = ("time", "epoch", "active")
"""Those that need the clock."""


class _Attempt(NamedTuple):
    """When an attempt logged, in seconds since 1970, and the seconds of those before it."""

    begins: float
    ends: float
    before: float


class Axes:
    """Where the steps of a run lie on other axes."""

    def __init__(self, reader: StreamReader, lineage: Lineage) -> None:
        self._attempts: list[_Attempt] = []
        before = 0.0
        for attempt in sorted(lineage.cuts):
            bounds = [
                found
                for rank in reader.ranks(attempt)
                for key in reader.keys_of[attempt, rank]
                if (found := reader.source(key).moments()) is not None
            ]
            if not bounds:
                continue
            cut = lineage.cuts[attempt]
            begins = min(low for low, _ in bounds).timestamp()
            ends = max(high for _, high in bounds).timestamp()
            if cut is not None:
                ends = max(min(ends, cut.time.timestamp()), begins)
            self._attempts.append(_Attempt(begins, ends, before))
            before += ends - begins

    def active(self, moment: datetime) -> float:
        """Returns the seconds that the run had taken by then, without the pauses between its attempts."""
        at = moment.timestamp()
        found = 0.0
        for each in self._attempts:
            if at >= each.begins:
                found = each.before + min(at, each.ends) - each.begins
        return found

    def with_clock(self, table: pa.Table, clock: Clock) -> pa.Table:
        """Returns a table of buckets with `t0`, `t1`, `epoch` and `active_s`."""
        import pyarrow as pa

        for name in ("t0", "t1", "epoch"):
            table = table.append_column(name, clock.column(name))
        active = [None if at is None else self.active(at) for at in table["t1"].to_pylist()]
        return table.append_column("active_s", pa.array(active, pa.float64()))

    def steps(self, levels: Levels, x: str, low: Any, high: Any) -> Span:
        """Returns the steps between two places of an axis.

        :raises ValueError: the first lies behind the second, or nothing lies between them.
        """
        whole = levels.span
        assert whole is not None, "there are records"
        ends = [each.timestamp() if isinstance(each, datetime) else float(each) for each in (low, high)]
        if not ends[0] <= ends[1]:
            raise ValueError(expected("span", "the first place and the last", (low, high)))
        shift = levels.shift(whole, MOST_WIDTH // 2)
        clock = levels.clock(whole, shift)
        inside = []
        columns = (clock.column(name).to_pylist() for name in ("t0", "t1", "epoch_first", "epoch"))
        for at, (begins, until, epoch_first, epoch) in enumerate(zip(*columns, strict=True)):
            if begins is None:
                continue
            if x == "time":
                first, last = begins.timestamp(), until.timestamp()
            elif x == "active":
                first, last = self.active(begins), self.active(until)
            else:
                first, last = (math.nan if each is None else each for each in (epoch_first, epoch))
            if last >= ends[0] and first <= ends[1]:
                inside.append(clock.first + at)
        if not inside:
            raise ValueError(expected("span", f"places on the axis of {x} that the run has", (low, high)))
        return Span(max(min(inside) << shift, whole.low), min(((max(inside) + 1) << shift) - 1, whole.high))
