"""The rows of a run on their way to a target: as records with values, or as the columns of one metric."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

_LIKE_RANKS = re.compile(r"rank\d+/")


class Series(NamedTuple):
    """What becomes one run of a target: a first attempt with those resumed from it, of one rank or of all."""

    first: int
    """The number of its first attempt."""
    rank: int | None
    """None for all ranks together."""

    @property
    def suffix(self) -> str:
        """What tells it from the run's other series, of numbers alone; empty for the first attempt of all ranks."""
        rank = [] if self.rank is None else [f"rank{self.rank}"]
        return "-".join([*([] if self.first == 1 else [f"attempt{self.first}"]), *rank])


_SUFFIX = re.compile(r"(attempt[0-9]{1,9})?-?(rank[0-9]{1,9})?")


def is_suffix(text: object) -> bool:
    """Return whether a text from a file may be the suffix of a series: paths are made of them."""
    return isinstance(text, str) and _SUFFIX.fullmatch(text) is not None


class Place(NamedTuple):
    """Where a record stands."""

    attempt: int
    rank: int
    seq: int
    step: int
    """The record's own, else its `seq`."""
    time_us: int
    """Microseconds since 1970, UTC."""


class Record(NamedTuple):
    """Some values of one record of a run, under the names that the target shows."""

    place: Place
    values: list[tuple[str, float]]


def metric_columns(batch: pa.RecordBatch) -> list[str]:
    """Returns the names of the metrics in a batch: they alone are float64."""
    import pyarrow as pa

    return [field.name for field in batch.schema if field.type == pa.float64()]


def shown_name(metric: str, rank: int, *, merged: bool) -> str:
    """Returns the name of a rank's metric in a target: its own for rank 0, below `rank<k>/` for the others.

    A metric of rank 0 that is itself called so stands below `rank0/`, so that no two ranks meet in one name.
    """
    if not merged or (rank == 0 and not _LIKE_RANKS.match(metric)):
        return metric
    return f"rank{rank}/{metric}"


@dataclass(frozen=True)
class Places:
    """The places of a batch's rows, read when they are asked for."""

    attempt: int
    rank: int
    seqs: pa.Array
    steps: pa.Array
    times: pa.Array

    @classmethod
    def of(cls, batch: pa.RecordBatch) -> Places:
        import pyarrow as pa
        import pyarrow.compute as pc

        seqs = batch.column("seq")
        steps = pc.coalesce(batch.column("step").cast(pa.int64()), seqs.cast(pa.int64()))
        times = batch.column("timestamp").cast(pa.int64())
        return cls(batch.column("attempt")[0].as_py(), batch.column("rank")[0].as_py(), seqs, steps, times)

    def at(self, index: int) -> Place:
        """Returns the place of one row."""
        numbers = (column[index].as_py() for column in (self.seqs, self.steps, self.times))
        return Place(self.attempt, self.rank, *numbers)

    def all(self) -> Iterator[Place]:
        """Yields the place of every row."""
        columns = (column.to_pylist() for column in (self.seqs, self.steps, self.times))
        for seq, step, time_us in zip(*columns, strict=True):
            yield Place(self.attempt, self.rank, seq, step, time_us)


def all_records(batch: pa.RecordBatch, *, merged: bool) -> Iterator[Record]:
    """Yields every row of a batch of one rank that has a value."""
    places = Places.of(batch)
    metrics = metric_columns(batch)
    names = [shown_name(metric, places.rank, merged=merged) for metric in metrics]
    columns = [batch.column(metric).to_pylist() for metric in metrics]
    for place, *values in zip(places.all(), *columns, strict=True):
        found = [(name, value) for name, value in zip(names, values, strict=True) if value is not None]
        if found:
            yield Record(place, found)


def joined(points: Iterable[tuple[str, Place, float]]) -> list[Record]:
    """Returns the points as records, by their places: those of one record together."""
    found: dict[Place, list[tuple[str, float]]] = {}
    for name, place, value in points:
        found.setdefault(place, []).append((name, value))
    return [Record(place, values) for place, values in sorted(found.items())]
