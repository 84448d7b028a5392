"""Reads a stream of a run as it is on disk at one moment: sealed parts, unsealed spools, or JSON lines.

It reads batches of one schema, with a column for each metric, from any kind of file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..parquet.columns import columns_schema
from ..parquet.part_reader import BATCH_ROWS
from ..store.paths import PartKey, RunPaths
from .lines import rows_of_attempts
from .sources import Extent, Part, RankKey, Source, Spool, line_sources

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST_COLUMNS = ("timestamp", "attempt", "rank", "worker", "seq", "kind")


class StreamReader:
    """A stream as of the moment this is made.

    :param stream: "metrics" or "system".
    :param only: an attempt and a rank; None for all.
    :raises OSError: a file cannot be read, or its checksums do not hold; so does every method.
    """

    def __init__(self, paths: RunPaths, stream: str, only: RankKey | None = None) -> None:
        self._stream = stream
        self._only = only
        self._sources: dict[PartKey, Source] = {}
        # Spools first: one that is sealed meanwhile is then found twice, and not missed.
        for key, path in paths.spools_of_all_ranks(stream).items():
            if only not in (None, key[:2]):
                continue
            parts = replace(paths, rank=key[1]).part_either_way(stream, key[0], key[2])
            with contextlib.suppress(FileNotFoundError):
                self._sources[key] = Spool(path, stream, parts)
        for key, path in paths.parts_of_all_ranks(stream).items():
            if only not in (None, key[:2]):
                continue
            self._sources[key] = Part(stream, path)
        self._add_lines(paths)
        self.keys = sorted(self._sources)
        """Attempt, rank and part of each source, in the order of the records."""
        self.keys_of: dict[RankKey, list[PartKey]] = {}
        """The keys of each rank of each attempt, in that order too."""
        for key in self.keys:
            self.keys_of.setdefault(key[:2], []).append(key)

    def _add_lines(self, paths: RunPaths) -> None:
        """The JSON lines stand in for a rank of an attempt that has no Parquet."""
        there = {key[:2] for key in self._sources}
        rows: list[dict[str, Any]] = []
        only = self._only
        for file in paths.lines_of_all_ranks(self._stream):
            rank = paths.rank_of(file)
            if only is None:
                others = {attempt for attempt, of in there if of == rank}
                rows += rows_of_attempts(file, lambda attempt: attempt not in others)  # noqa: B023
            elif rank == only[1] and only not in there:
                rows += rows_of_attempts(file, only[0].__eq__)
        self._sources.update(line_sources(self._stream, rows))

    @property
    def attempts(self) -> set[int]:
        """Those with records."""
        return {attempt for attempt, _ in self.keys_of}

    def ranks(self, attempt: int) -> list[int]:
        """The ranks with records in an attempt."""
        return [rank for of, rank in self.keys_of if of == attempt]

    @cached_property
    def schema(self) -> pa.Schema:
        """Every column that there is: the fixed ones, the built-in metrics, then the others as they came up."""
        import pyarrow as pa

        names = dict.fromkeys(name for key in self.keys for name in self._sources[key].metrics())
        schema = columns_schema(self._stream, names)
        schema = schema.remove(schema.get_field_index("extra"))
        fields = {field.name: field for field in [*schema, pa.field("attempt", pa.int32(), nullable=False)]}
        first = [name for name in _FIRST_COLUMNS if name in fields]
        rest = [name for name in fields if name not in first and name != "unresolved"]
        return pa.schema([fields[name] for name in (*first, *rest, "unresolved")])

    def has(self, column: str) -> bool:
        """Returns whether there is such a column; for fixed columns it does not read the files."""
        always = column == "attempt" or (column != "extra" and column in columns_schema(self._stream, ()).names)
        return always or any(column in self._sources[key].metrics() for key in self.keys)

    def fields(self, columns: Iterable[str]) -> pa.Schema:
        """The schema of some columns. A column of the metrics' kind need not exist: it is null then."""
        import pyarrow as pa

        fixed = columns_schema(self._stream, ()).append(pa.field("attempt", pa.int32(), nullable=False))
        return pa.schema(
            [fixed.field(name) if name in fixed.names else pa.field(name, pa.float64()) for name in columns]
        )

    def batches(self, key: PartKey, schema: pa.Schema, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """One source's records, in the columns of `schema`, so many at a time at most."""
        import pyarrow as pa

        at = schema.get_field_index("attempt")
        wanted = schema if at < 0 else schema.remove(at)
        for batch in self._sources[key].batches(wanted, rows):
            columns = batch.columns
            if at >= 0:
                columns.insert(at, pa.repeat(pa.scalar(key[0], pa.int32()), batch.num_rows))
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    def source(self, key: PartKey) -> Source:
        """Returns the records of a key."""
        return self._sources[key]

    def has_values(self, metric: str) -> bool:
        """Returns whether any record has a value of the metric."""
        return any(source.has_value(metric) for source in self._sources.values())

    def has_value(self, key: PartKey, metric: str) -> bool:
        """Returns whether a record of a source has a value of the metric."""
        return self._sources[key].has_value(metric)

    def steps_between(self, attempt: int, rank: int, above: int | None, most: int | None) -> pa.Array:
        """Returns the steps that a rank logged in an attempt above the one and up to the other; None is no bound."""
        import pyarrow as pa
        import pyarrow.compute as pc

        found = []
        schema = self.fields(["step"])
        for key in self.keys_of.get((attempt, rank), ()):
            first = self._sources[key].first_step()
            if first is None or (most is not None and first > most):
                continue
            for batch in self.batches(key, schema):
                steps = batch.column("step")
                if above is not None:
                    steps = steps.filter(pc.greater(steps, above))
                if most is not None:
                    steps = steps.filter(pc.less_equal(steps, most))
                found.append(steps)
        return pa.chunked_array(found, pa.int64()).combine_chunks()

    def extent(self, attempt: int, rank: int) -> Extent:
        """Returns the rank's progress in the attempt."""
        return sum((self._sources[key].extent() for key in self.keys_of.get((attempt, rank), ())), Extent())
