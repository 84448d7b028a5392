"""Counts for a session: the records offered, accepted, written and dropped, and the cost of logging for the
training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MappingProxyType

from .._native import Producer, lib
from ..engine.drain import Drain
from ..engine.entry import Entry
from ..snapshots import CallCost, Health, Totals
from .parts import Parts


class Accounting:
    """Any thread may call it. Each method keeps the drain in a local variable, because `freeze` drops it.

    :param users: returns the user's loggers, while anybody refers to them.
    """

    def __init__(self, entry: Entry, users: Callable[[], list[Producer]]) -> None:
        self.drain: Drain | None = None
        """None before the drain exists, and after a complete end."""
        self._entry = entry
        self._users = users
        self._last_totals = Totals()
        self._last_health: Health | None = None

    def seq(self) -> int:
        """The seq of the last metrics record accepted; 0 while there is none."""
        drain = self.drain
        return self._last_totals.metric_records if drain is None else drain.ring.accepted(lib.ADVLOG_STREAM_METRICS)

    def totals(self, timeout_s: float = 1.0) -> Totals:
        """Returns the counts, which cover every call that returned before; waits for them at most that long."""
        drain = self.drain
        return self._last_totals if drain is None else drain.totals(timeout_s)

    def health(self, parts: Parts) -> Health:
        """Returns the current counts; after the end, the final ones plus the records offered since."""
        drain, last = self.drain, self._last_health
        if drain is not None:
            return self._health(drain, parts)
        assert last is not None
        late = self._entry.dropped
        dropped = {**last.dropped_at_entry, "closed": last.dropped_at_entry["closed"] + late}
        return dataclasses.replace(
            last,
            offered=last.offered + late,
            dropped_at_entry=MappingProxyType(dropped),
            status=parts.control.status,
        )

    def freeze(self, drain: Drain, parts: Parts) -> None:
        """Keeps the last numbers, at the end."""
        self._last_totals, self._last_health = drain.totals(0.0), self._health(drain, parts)

    def _health(self, drain: Drain, parts: Parts) -> Health:
        ring, sealer = drain.ring, parts.sealer
        dropped = ring.dropped()
        accepted = sum(map(ring.accepted, range(lib.ADVLOG_STREAMS)))
        sinks = {sink.name: drain.files.health(sink) for sink in drain.files.sinks}
        return Health(
            offered=accepted + sum(dropped.values()),
            accepted=accepted,
            dropped_at_entry=MappingProxyType(dropped),
            pending=max((sink.pending for sink in sinks.values()), default=0),
            ring_slots=ring.slots,
            ring_used=ring.used(),
            sinks=MappingProxyType(sinks),
            unresolved=drain.unresolved(),
            gpu_values=MappingProxyType(
                {
                    "launch": int(lib.advlog_ring_launched(ring.handle)),
                    "operators": parts.deferral.by_operators,
                }
            ),
            misuse=MappingProxyType(self._entry.misuse.counts(self._skipped())),
            hook_faults=MappingProxyType(dict(self._entry.hook_faults)),
            ring_path=str(ring.path) if ring.path else None,
            status=parts.control.status,
            call=self._call_cost(),
            drain_cpu_s=drain.cpu_s,
            sealer_cpu_s=sealer.cpu_s if sealer else 0.0,
            parts=sealer.parts if sealer else 0,
            seal_faults=sealer.faults if sealer else 0,
            seal_error=sealer.error if sealer else None,
            entries_lost=MappingProxyType({**parts.control.outputs.lost(), "console": parts.console.dropped}),
            entries_error=parts.control.outputs.fault(),
        )

    def _skipped(self) -> int:
        ring = self._entry.ring
        of_children = 0 if ring is None else int(lib.advlog_ring_left_out(ring.handle))
        return of_children + sum(user._skipped for user in self._users())

    def _call_cost(self) -> CallCost:
        overflow = self._entry.overflow
        samples = [ns for user in self._users() for ns in user._samples()]
        return CallCost.of(samples, overflow.stalls, overflow.stalled_s)
