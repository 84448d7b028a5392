"""Reads a stream of a run as it is on disk at one moment: sealed parts, unsealed spools, or JSON lines.

It reads batches of one schema, with a column for each metric, from any kind of file.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..parquet.columns import columns_schema, core_columns, scan_spool, spool_batches
from ..parquet.part_reader import BATCH_ROWS, flattened, flattened_batches, opened_part, part_metrics
from ..records import CORE_METRICS, RESERVED_NAMES, TIMES
from ..store.files import open_file
from ..store.paths import PartKey, RunPaths
from .lines import rows_of_attempts

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST_COLUMNS = ("timestamp", "attempt", "rank", "worker", "seq", "kind")

RankKey = tuple[int, int]
"""An attempt, and a rank in it."""


@dataclass(frozen=True)
class Extent:
    """The progress of a rank in an attempt, from its files."""

    records: int = 0
    last_step: int | None = None
    last_record: datetime | None = None

    def __add__(self, other: Extent) -> Extent:
        steps = [extent.last_step for extent in (self, other) if extent.last_step is not None]
        times = [extent.last_record for extent in (self, other) if extent.last_record is not None]
        return Extent(self.records + other.records, max(steps, default=None), max(times, default=None))


class _Source(Protocol):
    """Records of one attempt of one rank that lie together, in order."""

    def metrics(self) -> Iterable[str]:
        """The metrics with a value here, beside the built-in ones."""

    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        """The records, in the columns of `schema`, of which `attempt` is none, so many at a time at most."""

    def has_value(self, metric: str) -> bool:
        """Whether a record here has a value of the metric."""

    def first_step(self) -> int | None:
        """The least step here; None where there is none."""

    def extent(self) -> Extent: ...


class StreamReader:
    """A stream as of the moment this is made.

    :param stream: "metrics" or "system".
    :param only: an attempt and a rank; None for all.
    :raises OSError: a file cannot be read, or its checksums do not hold; so does every method.
    """

    def __init__(self, paths: RunPaths, stream: str, only: RankKey | None = None) -> None:
        self._stream = stream
        self._only = only
        self._sources: dict[PartKey, _Source] = {}
        # Spools first: one that is sealed meanwhile is then found twice, and not missed.
        for key, path in paths.spools_of_all_ranks(stream).items():
            if only not in (None, key[:2]):
                continue
            parts = replace(paths, rank=key[1]).part_either_way(stream, key[0], key[2])
            with contextlib.suppress(FileNotFoundError):
                self._sources[key] = _Spool(path, stream, parts)
        for key, path in paths.parts_of_all_ranks(stream).items():
            if only not in (None, key[:2]):
                continue
            self._sources[key] = _Part(stream, path)
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
        self._sources.update(_line_sources(self._stream, rows))

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


class _Part:
    """A sealed part, which says in its footer what it holds."""

    def __init__(self, stream: str, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._found: dict[str, bool] = {}
        """Whether there is a value, of the metrics that were asked for: a column may be all null."""

    @cached_property
    def _footer(self) -> Any:
        with opened_part(self._path) as file:
            return file.metadata

    @cached_property
    def _columns(self) -> list[str]:
        """Their names, in the order of the footer up to the first that is nested."""
        names: list[str] = self._footer.schema.to_arrow_schema().names
        return names

    def _bounds(self, column: str) -> list[Any]:
        """The least and the greatest value of each row group; an integer or a time."""
        footer = self._footer
        at = self._columns.index(column)
        groups = [footer.row_group(group).column(at).statistics for group in range(footer.num_row_groups)]
        return [
            bound for found in groups if found is not None and found.has_min_max for bound in (found.min, found.max)
        ]

    def metrics(self) -> Iterable[str]:
        return self._metrics

    @cached_property
    def _metrics(self) -> tuple[str, ...]:
        return part_metrics(self._path)

    def has_value(self, metric: str) -> bool:
        import pyarrow as pa

        if metric not in CORE_METRICS and metric not in self._metrics:
            return False
        if metric not in self._found:
            # Who asks for one of the times asks for the other too, and a column without a value is read to its end.
            names = TIMES if metric in TIMES else (metric,)
            self._found.update(dict.fromkeys(names, False))
            for batch in flattened_batches(self._path, pa.schema([(name, pa.float64()) for name in names])):
                found = {name for name in names if batch.column(name).null_count < batch.num_rows}
                self._found.update(dict.fromkeys(found, True))
                if all(self._found[name] for name in names):
                    break
        return self._found[metric]

    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        return flattened_batches(self._path, schema, rows)

    def first_step(self) -> int | None:
        return min(self._bounds("step"), default=None)

    def extent(self) -> Extent:
        last_step = max(self._bounds("step"), default=None) if self._stream == "metrics" else None
        return Extent(self._footer.num_rows, last_step, max(self._bounds("timestamp"), default=None))


class _OfTables(ABC):
    """A source that is read through its batches only."""

    @abstractmethod
    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]: ...

    def has_value(self, metric: str) -> bool:
        column = self._column(metric)
        return bool(column.null_count < len(column))

    def _column(self, name: str) -> pa.ChunkedArray:
        import pyarrow as pa

        kinds = {"step": pa.int64(), "timestamp": pa.timestamp("us", "UTC")}
        type_ = kinds.get(name, pa.float64())
        schema = pa.schema([(name, type_)])
        return pa.chunked_array([batch.column(0) for batch in self.batches(schema, BATCH_ROWS)], type_)

    def first_step(self) -> int | None:
        import pyarrow.compute as pc

        found: int | None = pc.min(self._column("step")).as_py()
        return found

    def extent(self) -> Extent:
        import pyarrow.compute as pc

        times = self._column("timestamp")
        return Extent(len(times), pc.max(self._column("step")).as_py(), pc.max(times).as_py())


class _Spool(_OfTables):
    """Records that are not sealed yet.

    :param parts: the part that may replace the spool at any time, as one of these files.
    :raises FileNotFoundError: it is gone already.
    """

    def __init__(self, path: Path, stream: str, parts: tuple[Path, Path]) -> None:
        self._path, self._stream, self._parts = path, stream, parts
        with open_file(path) as file:
            self._info = scan_spool(file)

    def metrics(self) -> Iterable[str]:
        return self._info.metric_names()

    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        if not self._info.records:
            return
        try:
            file = open_file(self._path)
        except FileNotFoundError:
            part = next((path for path in self._parts if path.exists()), self._parts[0])
            yield from _Part(self._stream, part).batches(schema, rows)
            return
        with file:
            for batch in spool_batches(file, self._info, self._info.metric_names(), rows):
                wide = flattened(batch, schema)
                # Serialized, and so copied: the next batch lies in the same memory.
                yield pa.ipc.read_record_batch(wide.serialize(), wide.schema)


class _Lines(_OfTables):
    """The records in the JSON lines of one attempt and rank."""

    def __init__(self, table: pa.Table, metrics: list[str]) -> None:
        self._table = table
        self._metrics = metrics

    def metrics(self) -> Iterable[str]:
        return self._metrics

    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        for batch in self._table.to_batches(max_chunksize=rows):
            yield flattened(batch, schema)


def _line_sources(stream: str, rows: list[dict[str, Any]]) -> Iterator[tuple[PartKey, _Source]]:
    metrics = _metrics_of_lines(stream, rows)
    by_key: dict[RankKey, list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault((row["attempt"], row["rank"]), []).append(row)
    for (attempt, rank), mine in by_key.items():
        yield (attempt, rank, 1), _Lines(line_table(stream, mine, metrics), metrics)


def line_table(stream: str, rows: list[dict[str, Any]], metrics: list[str] | None = None) -> pa.Table:
    """The rows of JSON lines as a table.

    :param metrics: the metrics that get a column; None for those of the rows.
    """
    import pyarrow as pa

    for row in rows:
        row.setdefault("worker", 0)
        if isinstance(row.get("unresolved"), dict):
            row["unresolved"] = list(row["unresolved"].items())
    schema = columns_schema(stream, _metrics_of_lines(stream, rows) if metrics is None else metrics)
    try:
        return pa.Table.from_pylist(rows, schema)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):  # somebody has written into the file
        return pa.Table.from_pylist([row for row in rows if _fits(row, schema)], schema)


def _fits(row: dict[str, Any], schema: pa.Schema) -> bool:
    import pyarrow as pa

    try:
        pa.Table.from_pylist([row], schema)
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return False
    return True


def _metrics_of_lines(stream: str, rows: list[dict[str, Any]]) -> list[str]:
    known = {*columns_schema(stream, ()).names, *RESERVED_NAMES, *core_columns(stream)}
    return [name for name in dict.fromkeys(key for row in rows for key in row) if name not in known]
