"""The validations of a run, as records that go to a target beside its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ..reader import read_run
from ..reader.events import validated
from ..store.paths import RunPaths
from .records import Place, Record, shown_name

_PREFIX = "val/"


class Validations:
    """Reads the events of a run, whenever they have grown, for validations that were not given yet."""

    def __init__(self, paths: RunPaths) -> None:
        self.given: dict[tuple[int, int], int] = {}
        """How many of each attempt's rank."""
        self._paths = paths
        self._sizes: list[int] = []

    def load(self, counts: list[list[int]]) -> None:
        """Go on from what `state` returned.

        :raises TypeError, ValueError: it is nothing of the kind.
        """
        self.given = {(int(attempt), int(rank)): int(count) for attempt, rank, count in counts}

    def state(self) -> list[list[int]]:
        """Return how far it is, as JSON has it."""
        return [[*key, count] for key, count in self.given.items()]

    def new(self, last: Callable[[int, int], float], *, merged: bool) -> Iterator[Record]:
        """Yields each validation once, its metrics below `val/`, those of a named one below `val/<name>/`.

        :param last: tells how far the rows of an attempt's rank were sent: a validation comes behind those before it.
        """
        sizes = []
        for path in self._paths.lines_of_all_ranks("events"):
            with contextlib.suppress(FileNotFoundError):
                sizes.append(path.stat().st_size)
        if sizes == self._sizes:
            return
        self._sizes = sizes
        table = read_run(self._paths.log_dir, self._paths.name, attempts="all").validation
        metrics = validated(table)
        seen: dict[tuple[int, int], int] = {}
        for row in table.to_pylist():
            key = row["attempt"], row["rank"]
            seen[key] = seen.get(key, 0) + 1
            if seen[key] <= self.given.get(key, 0):
                continue
            if (row["seq"] or 0) > last(*key):
                self._sizes = []  # look again, although nothing has grown
            elif seen[key] == self.given.get(key, 0) + 1:
                self.given[key] = seen[key]
                yield _record(row, metrics, merged=merged)


def _record(row: dict[str, Any], metrics: list[str], *, merged: bool) -> Record:
    prefix = f"{_PREFIX}{row['name']}/" if row["name"] else _PREFIX
    seq, rank = row["seq"] or 0, row["rank"]
    step = row["step"] if row["step"] is not None else seq
    place = Place(row["attempt"], rank, seq, step, int(row["timestamp"].timestamp() * 1e6))
    values = [(name, row[name]) for name in metrics if row[name] is not None]
    return Record(place, [(shown_name(prefix + name, rank, merged=merged), value) for name, value in values])
