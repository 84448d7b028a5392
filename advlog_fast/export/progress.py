"""How far an export has come: the follower's cursor, the open buckets, and what is known of the attempts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..reader.events import event_lines
from ..reader.lineage import origins_of
from ..store.attempts import origin_of, read_run_id
from ..store.paths import RunPaths
from .records import Series
from .thinning import LEAST_POINTS, Thinning

ThinningKey = tuple[Series, int, str]
"""The series, the rank, the metric's own name."""


class Progress:
    """What the cursor's file holds, but for the target's own memory.

    :param points: as many points of each metric; None for all.
    """

    def __init__(self, points: int | None, run_id: str) -> None:
        self.points = points
        self._run_id = run_id
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self.cursor: Mapping[str, Any] | None = None
        self._points_before: int | None = None
        self.has_other_points = False
        """Whether buckets are open, and were cut for another number of points."""
        self.is_closed = True
        """Whether no bucket is open, and none was planned for rows that did not come yet."""
        self.cuts: dict[tuple[int, int], int] = {}
        """The last record of an attempt's rank that stays."""
        self.stale: set[Series] = set()
        """Of which superseded rows were sent."""
        self.hidden: set[tuple[Series, int]] = set()
        """The attempts before which such rows were hidden, in each series."""
        self._thinnings: dict[ThinningKey, Thinning] = {}
        self._firsts: dict[int, int] = {}
        """The first attempt of each one's lineage."""
        self._steps: dict[int, int | None] = {}
        """For each attempt that was resumed, the step of the state."""

    # -- as JSON -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return {
            "run_id": self._run_id,
            "cursor": self.cursor,
            "points": self._points_before if self.has_other_points else self.points,
            "closed": self.is_closed,
            "cuts": [[*key, seq] for key, seq in self.cuts.items()],
            "stale": [list(series) for series in self.stale],
            "hidden": [[*series, attempt] for series, attempt in self.hidden],
            "firsts": [list(pair) for pair in self._firsts.items()],
            "steps": [list(pair) for pair in self._steps.items()],
            "buckets": [[*key[0], *key[1:], thinning.state()] for key, thinning in self._thinnings.items()],
        }

    def load(self, state: Mapping[str, Any]) -> bool:
        """Goes on from a state, and returns whether it is one of this run."""
        if state.get("run_id") != self._run_id or not isinstance(state.get("memory"), dict):
            return False
        try:
            self.cursor, self.is_closed = state["cursor"], bool(state["closed"])
            self.cuts = {(attempt, rank): seq for attempt, rank, seq in state["cuts"]}
            self.stale = {Series(*series) for series in state["stale"]}
            self.hidden = {(Series(first, of), attempt) for first, of, attempt in state["hidden"]}
            self._firsts = dict(state["firsts"])
            self._steps = dict(state["steps"])
            self._points_before = state["points"]
            self.has_other_points = not self.is_closed and self._points_before != self.points
            self._thinnings = {
                (Series(first, of), rank, metric): Thinning.of(self.points or state["points"] or LEAST_POINTS, bucket)
                for first, of, rank, metric, bucket in state["buckets"]
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            self.forget()
            return False
        return True

    # -- buckets -------------------------------------------------------------------------------------------------

    def thinning(self, series: Series, rank: int, metric: str) -> Thinning:
        """Returns the buckets of a metric."""
        assert self.points is not None
        return self._thinnings.setdefault((series, rank, metric), Thinning(self.points))

    def thinnings(self) -> Iterator[tuple[ThinningKey, Thinning]]:
        """Yields the buckets of every metric."""
        yield from self._thinnings.items()

    def thinnings_of(self, series: Series, rank: int) -> Iterator[Thinning]:
        """Yields the buckets of one rank's metrics."""
        return (each for key, each in self._thinnings.items() if key[:2] == (series, rank))

    # -- attempts ------------------------------------------------------------------------------------------------

    def last(self, attempt: int, rank: int) -> int:
        """Returns the seq of the last row that was read."""
        return int((self.cursor or {"seqs": {}})["seqs"].get(f"{attempt}/{rank}", 0))

    def first_of(self, attempt: int, paths: RunPaths) -> int:
        """Returns the first attempt of the lineage that an attempt belongs to."""
        if attempt not in self._firsts:
            origin = origin_of(origins_of(paths, lambda: event_lines(paths)), attempt)
            if origin and origin["run_id"] == self._run_id and origin["attempt"] < attempt:
                self._steps[attempt] = origin.get("step")
                self._firsts[attempt] = self.first_of(origin["attempt"], paths)
            else:
                self._firsts[attempt] = attempt
        return self._firsts[attempt]

    def is_resumed(self, attempt: int) -> bool:
        """Returns whether an attempt of which rows came goes on from another."""
        return attempt in self._steps

    def step_after(self, attempt: int, step: int) -> int:
        """Returns the first step that an attempt logs again, where its first row has that step."""
        of_state = self._steps[attempt]
        return step if of_state is None else min(step, of_state + 1)

    def has_resumed(self, paths: RunPaths) -> bool:
        """Returns whether an attempt of the run was resumed."""
        return bool(origins_of(paths, lambda: event_lines(paths)))

    def is_another_run(self, paths: RunPaths) -> bool:
        """Returns whether another run has the name now."""
        return self.cursor is not None and read_run_id(paths) not in (None, self.cursor["run_id"])
