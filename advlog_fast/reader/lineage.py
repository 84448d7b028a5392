"""Finds the attempts of a run that form one series: the newest, and those that it resumed from, each up to that
point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from .lines import moment

Attempts = Literal["chain", "latest", "all"]


@dataclass(frozen=True)
class Cut:
    """The point where a later attempt resumed: everything that this attempt logged after it is superseded."""

    step: int | None
    time: datetime
    """Decides for records and events without a step."""


def chosen(
    attempts: Attempts, there: list[int], origins: Mapping[int, Mapping[str, Any]], run_id: str | None
) -> Lineage:
    """The attempts to show of those that there are."""
    if attempts == "all":
        return Lineage(dict.fromkeys(there))
    if not there:
        return Lineage({})
    attempt = max(there)
    cuts: dict[int, Cut | None] = {attempt: None}
    while attempts == "chain" and (origin := origins.get(attempt)):
        before, step = origin["attempt"], origin["step"]
        if origin["run_id"] != run_id or before >= attempt:
            break  # goes on from another run, whose rows lie elsewhere
        later = cuts[attempt]
        if later is not None and later.step is not None and (step is None or later.step < step):
            step = later.step
        time = moment(origin["timestamp"])
        cuts[before] = Cut(step, time)
        attempt = before
    return Lineage(cuts)


@dataclass(frozen=True)
class Lineage:
    """The attempts shown, each with its cut; None if the whole attempt is shown."""

    cuts: Mapping[int, Cut | None]

    def later(self, attempt: int) -> list[int]:
        """The attempts that went on from this one."""
        return [other for other in self.cuts if other > attempt]

    def __contains__(self, attempt: int) -> bool:
        return attempt in self.cuts

    def has_event(self, line: Mapping[str, Any]) -> bool:
        """Returns whether an event belongs to the series."""
        cut = self.cuts.get(line["attempt"])
        return line["attempt"] in self and (cut is None or line["timestamp"] <= cut.time)
