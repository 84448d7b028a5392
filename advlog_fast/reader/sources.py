"""The kinds of files that a stream's records lie in: sealed parts, unsealed spools, JSON lines."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..parquet.columns import columns_schema, core_columns, scan_spool, spool_batches
from ..parquet.part_reader import BATCH_ROWS, flattened, flattened_batches, opened_part, part_metrics
from ..records import CORE_METRICS, RESERVED_NAMES, TIMES
from ..store.files import open_file
from ..store.paths import PartKey

if TYPE_CHECKING:
    import pyarrow as pa

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


class Source(Protocol):
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

    def bounds(self, column: str) -> tuple[int, int] | None:
        """The least and the greatest value of an integer column; None where there is none."""

    def batches_within(
        self, schema: pa.Schema, rows: int, column: str, low: int, high: int
    ) -> Iterator[pa.RecordBatch]:
        """At least the records whose value in an integer column is not below `low` and not above `high`."""

    def has_unresolved(self) -> bool:
        """Whether there may be values that never came."""

    def moments(self) -> tuple[datetime, datetime] | None:
        """When its first and its last record were logged; None where there is none."""

    def identity(self) -> str | None:
        """What no other source of any run has, and this one only as long as its records stay the same; None where they
        may change."""


class Part:
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

    def bounds(self, column: str) -> tuple[int, int] | None:
        found = self._bounds(column)
        return (min(found), max(found)) if found else None

    def has_unresolved(self) -> bool:
        footer = self._footer
        paths = [footer.schema.column(at).path for at in range(footer.num_columns)]
        if "unresolved.key_value.key" not in paths:
            return True
        at = paths.index("unresolved.key_value.key")
        groups = [footer.row_group(group).column(at).statistics for group in range(footer.num_row_groups)]
        return any(found is None or found.has_min_max for found in groups)

    def moments(self) -> tuple[datetime, datetime] | None:
        found = self._bounds("timestamp")
        return (min(found), max(found)) if found else None

    def batches_within(
        self, schema: pa.Schema, rows: int, column: str, low: int, high: int
    ) -> Iterator[pa.RecordBatch]:
        footer, at = self._footer, self._columns.index(column)
        groups = []
        for group in range(footer.num_row_groups):
            found = footer.row_group(group).column(at).statistics
            if found is not None and found.has_min_max and found.min <= high and found.max >= low:
                groups.append(group)
        return flattened_batches(self._path, schema, rows, groups)

    def identity(self) -> str | None:
        status = os.stat(self._path)
        place = os.path.realpath(self._path)
        return f"{place}\0{status.st_dev}\0{status.st_ino}\0{status.st_size}\0{status.st_mtime_ns}"

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
            found = dict.fromkeys(names, False)
            for batch in flattened_batches(self._path, pa.schema([(name, pa.float64()) for name in names])):
                found |= {name: True for name in names if batch.column(name).null_count < batch.num_rows}
                if all(found.values()):
                    break
            self._found.update(found)  # only now: another thread may ask too
        return self._found[metric]

    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        return flattened_batches(self._path, schema, rows)

    def first_step(self) -> int | None:
        return min(self._bounds("step"), default=None)

    def extent(self) -> Extent:
        last_step = max(self._bounds("step"), default=None) if self._stream == "metrics" else None
        return Extent(self._footer.num_rows, last_step, max(self._bounds("timestamp"), default=None))


class OfTables(ABC):
    """A source that is read through its batches only."""

    @abstractmethod
    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]: ...

    def has_value(self, metric: str) -> bool:
        column = self._column(metric)
        return bool(column.null_count < len(column))

    def _column(self, name: str) -> pa.ChunkedArray:
        import pyarrow as pa

        kinds = {"step": pa.int64(), "seq": pa.int64(), "timestamp": pa.timestamp("us", "UTC")}
        type_ = kinds.get(name, pa.float64())
        schema = pa.schema([(name, type_)])
        return pa.chunked_array([batch.column(0) for batch in self.batches(schema, BATCH_ROWS)], type_)

    def first_step(self) -> int | None:
        import pyarrow.compute as pc

        found: int | None = pc.min(self._column("step")).as_py()
        return found

    def bounds(self, column: str) -> tuple[int, int] | None:
        import pyarrow.compute as pc

        found = pc.min_max(self._column(column)).as_py()
        return None if found["min"] is None else (found["min"], found["max"])

    def batches_within(
        self,
        schema: pa.Schema,
        rows: int,
        column: str,  # noqa: ARG002 - the interface
        low: int,  # noqa: ARG002
        high: int,  # noqa: ARG002
    ) -> Iterator[pa.RecordBatch]:
        return self.batches(schema, rows)

    def has_unresolved(self) -> bool:
        return True

    def moments(self) -> tuple[datetime, datetime] | None:
        import pyarrow.compute as pc

        found = pc.min_max(self._column("timestamp")).as_py()
        return None if found["min"] is None else (found["min"], found["max"])

    def identity(self) -> str | None:
        return None

    def extent(self) -> Extent:
        import pyarrow.compute as pc

        times = self._column("timestamp")
        return Extent(len(times), pc.max(self._column("step")).as_py(), pc.max(times).as_py())


class Spool(OfTables):
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
            yield from Part(self._stream, part).batches(schema, rows)
            return
        with file:
            for batch in spool_batches(file, self._info, self._info.metric_names(), rows):
                wide = flattened(batch, schema)
                # Serialized, and so copied: the next batch lies in the same memory.
                yield pa.ipc.read_record_batch(wide.serialize(), wide.schema)


class Lines(OfTables):
    """The records in the JSON lines of one attempt and rank."""

    def __init__(self, table: pa.Table, metrics: list[str]) -> None:
        self._table = table
        self._metrics = metrics

    def metrics(self) -> Iterable[str]:
        return self._metrics

    def batches(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        for batch in self._table.to_batches(max_chunksize=rows):
            yield flattened(batch, schema)


def line_sources(stream: str, rows: list[dict[str, Any]]) -> Iterator[tuple[PartKey, Source]]:
    metrics = _metrics_of_lines(stream, rows)
    by_key: dict[RankKey, list[dict[str, Any]]] = {}
    for row in rows:
        by_key.setdefault((row["attempt"], row["rank"]), []).append(row)
    for (attempt, rank), mine in by_key.items():
        yield (attempt, rank, 1), Lines(line_table(stream, mine, metrics), metrics)


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
