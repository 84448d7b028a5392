"""Finds the attempts of a run that form one series: the newest, and those that it resumed from, each up to that
point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ..store.attempts import Origins, is_origin, origin_of, read_origins, read_run_id
from ..store.paths import RunPaths
from .events import is_own
from .lines import moment

Attempts = Literal["chain", "latest", "all"]


@dataclass(frozen=True)
class Cut:
    """The point where a later attempt resumed: everything that this attempt logged after it is superseded.

    A state says how far its own rank had come. The records of the other ranks stay up to the step of its last record,
    and without a step up to its time. An evaluation may have a lower step than the batches before it. So records beyond
    that step stay too, up to its greatest one, but for those logged after its time whose step a later attempt logged
    again; or up to its time, where an earlier version noted no greatest step, but for those logged again.
    """

    step: int | None
    time: datetime
    max_step: int | None = None
    seqs: Mapping[int, int] = field(default_factory=dict)
    """The last record that stays, of the ranks whose own states were loaded."""
    times: Mapping[int, datetime] = field(default_factory=dict)
    """When those states were taken."""
    duration_s: float | None = None
    """How long the attempt had taken by then; None where an earlier version did not note it."""

    @property
    def goes_by_time(self) -> bool:
        """Whether the state was taken before its rank had logged a step; one of an earlier version may say none."""
        return self.step is None and bool(self.seqs)

    @property
    def furthest(self) -> int | None:
        """The greatest step that may stay: `step` where an earlier version noted no greatest one."""
        return self.step if self.max_step is None else self.max_step

    def time_of(self, rank: int) -> datetime:
        """When this rank's series ends."""
        return self.times.get(rank, self.time)


def chosen(attempts: Attempts, there: list[int], begun: set[int], origins: Origins, run_id: str | None) -> Lineage:
    """The attempts to show of those that there are.

    :param begun: those with records. A start that died before it logged or was resumed hides no other.
    """
    if attempts == "all":
        return Lineage(dict.fromkeys(there))
    if not there:
        return Lineage({})
    attempt = max((attempt for attempt in there if attempt in begun or attempt in origins), default=max(there))
    cuts: dict[int, Cut | None] = {attempt: None}
    while attempts == "chain" and (origin := origin_of(origins, attempt)):
        before = origin["attempt"]
        if origin["run_id"] != run_id or before >= attempt:
            break  # goes on from another run, whose rows lie elsewhere
        if before in there:
            cuts[before] = cut_of(origin, origins[attempt].items())
        attempt = before
    return Lineage(cuts)


def cut_of(origin: Mapping[str, Any], loaded: Iterable[tuple[int, Mapping[str, Any]]]) -> Cut:
    """The cut that an attempt makes in the one that it was resumed from.

    :param origin: the state that decides for the ranks whose own states were not loaded.
    :param loaded: the states that its ranks loaded.
    """
    seqs: dict[int, int] = {}
    times: dict[int, datetime] = {}
    for by, state in loaded:
        of, seq = state.get("rank"), state.get("seq")
        same = (state["run_id"], state["attempt"]) == (origin["run_id"], origin["attempt"])
        # A rank's own word counts before that of another that loaded the same rank's state.
        if same and of is not None and seq is not None and (of not in seqs or of == by):
            seqs[of], times[of] = seq, moment(state["timestamp"])
    return Cut(
        origin.get("step"), moment(origin["timestamp"]), origin.get("max_step"), seqs, times, origin.get("duration_s")
    )


Lines = Callable[[], Iterable[Mapping[str, Any]]]
"""The events of a run, asked for where its private folder is not there."""


def run_id_of(paths: RunPaths, lines: Lines) -> str | None:
    """The run's id; None if neither its file nor its events are there."""
    found = read_run_id(paths)
    return _told_run_id(lines()) if found is None else found


def origins_of(paths: RunPaths, lines: Lines) -> Origins:
    """The states that the attempts of the run were resumed from."""
    return read_origins(paths) if paths.private.is_dir() else _told_origins(lines())


def _told_run_id(lines: Iterable[Mapping[str, Any]]) -> str | None:
    ids = (line.get("run_id") for line in lines if is_own(line, "attempt_start"))
    return next((run_id for run_id in ids if isinstance(run_id, str)), None)


def _told_origins(lines: Iterable[Mapping[str, Any]]) -> Origins:
    found: Origins = {}
    for line in lines:
        origin = line.get("resumed_from")
        if is_own(line, "resumed") and is_origin(origin) and line.get("kept", True):
            found.setdefault(line["attempt"], {})[line["rank"]] = origin
    return found


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
        if line["attempt"] not in self:
            return False
        cut, rank, step = self.cuts[line["attempt"]], line["rank"], line.get("step")
        if cut is None:
            return True
        if rank not in cut.seqs and type(step) is int and cut.step is not None:
            return step <= max(cut.step, cut.step if cut.max_step is None else cut.max_step)
        seq, last = line.get("seq"), cut.seqs.get(rank)
        # Beside the last record the time decides alone; a clock that was set says nothing elsewhere.
        if type(seq) is int and last is not None and seq != last:
            return seq < last
        return bool(line["timestamp"] <= cut.time_of(rank))
