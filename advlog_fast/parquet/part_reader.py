"""Reads parts as batches with a column for each metric, including those in the map `extra`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..records import CORE_METRICS, RESERVED_NAMES
from ..store.files import check_regular
from .columns import is_metric

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 65_536


def flattened_batches(
    path: Path, schema: pa.Schema, batch_rows: int = BATCH_ROWS, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yields the rows of a part, in order, in batches with exactly the columns of `schema`.

    A metric's value comes from its column, else from the row's `extra`, else it is null. `extra`, if it is in `schema`,
    holds the entries that are no columns of `schema`. Only the columns that `schema` needs are read.

    :param schema: columns of the stream, and any float64 metrics; see :func:`columns_schema`.
    :param batch_rows: the most rows in a batch.
    :param groups: these row groups only.
    :raises OSError: the file cannot be read, is no Parquet file, or its checksums do not hold; the message names it.
    """
    with opened_part(path) as file:
        stored = set(file.schema_arrow.names)
        columns = [name for name in schema.names if name in stored]
        # A built-in metric is a column of every part, and so in no map.
        others = [name for name in _metrics_of(schema) if name not in CORE_METRICS or name not in stored]
        if "extra" not in columns and others:
            columns.append("extra")
        for batch in _batches(file, columns, batch_rows, groups):
            yield flattened(batch, schema)


def part_metrics(path: Path) -> tuple[str, ...]:
    """Returns the metrics of a part without the built-in ones: its columns, then those with entries in `extra`.

    :raises OSError: as :func:`flattened_batches` does.
    """
    with opened_part(path) as file:
        names = dict.fromkeys(_metrics_of(file.schema_arrow))
        for batch in _batches(file, ["extra"], BATCH_ROWS):
            names.update(dict.fromkeys(_Entries(batch.column(0)).names))
    return tuple(name for name in names if name not in RESERVED_NAMES and name not in CORE_METRICS)


@contextlib.contextmanager
def opened_part(path: Path) -> Iterator[pq.ParquetFile]:
    """Context manager: opens a part. The body must only read: its read errors become an OSError that names the part.

    :raises OSError: the part cannot be opened, or the body cannot read it; the message names the part.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_regular(os.stat(path), path)
    try:
        # With a dictionary, each of the few distinct keys is decoded once, not once an entry.
        with pq.ParquetFile(
            os.path.abspath(path), page_checksum_verification=True, read_dictionary=["extra.key_value.key"]
        ) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError) as error:  # KeyError: the file has no `extra`
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system failed; the content may be fine
        raise OSError(f"{path}: expected a whole Parquet part, got {error}") from error


def _batches(
    file: pq.ParquetFile, columns: list[str], rows: int, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    # Each row group has one dictionary of keys, and pyarrow cannot make a map for a batch with two.
    for group in range(file.num_row_groups) if groups is None else groups:
        yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)


def _metrics_of(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if is_metric(field)]


def flattened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Returns a batch with the columns of `schema`, filled from the columns and the `extra` of `batch`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    entries = _Entries(columns["extra"]) if "extra" in columns else None
    arrays = []
    for field in schema:
        array = columns.get(field.name)
        if entries is not None and field.name == "extra":
            array = entries.without(_metrics_of(schema), field.type)
        elif entries is not None and is_metric(field) and field.name in entries.names:
            values = entries.column(field.name)
            array = values if array is None else pc.coalesce(array, values)
        arrays.append(pa.nulls(batch.num_rows, field.type) if array is None else array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Entries:
    """The entries of a batch's `extra`. The work grows with the number of entries, not with entries times names."""

    def __init__(self, extra: pa.MapArray) -> None:
        import pyarrow as pa

        self._rows = len(extra)
        self._offsets = extra.offsets
        # Lists, since `keys` and `items` of a sliced map are those of the whole array.
        self._lists = pa.ListArray.from_arrays(extra.offsets, extra.keys)
        self._keys = self._lists.flatten().dictionary_encode()
        self._values = pa.ListArray.from_arrays(extra.offsets, extra.items).flatten()

    @cached_property
    def names(self) -> dict[str, int]:
        """The dictionary code of each name with an entry, in the order of the first entries."""
        codes = self._keys.indices.unique().to_pylist()
        words = self._keys.dictionary.to_pylist()
        return {words[code]: code for code in codes}

    @cached_property
    def _spans(self) -> dict[int, slice]:
        """The range of each code's entries in :attr:`_order`."""
        spans = {}
        start = 0
        for row in sorted(self._keys.indices.value_counts().to_pylist(), key=lambda row: row["values"]):
            spans[row["values"]] = slice(start, start + row["counts"])
            start += row["counts"]
        return spans

    @cached_property
    def _order(self) -> pa.Array:
        import pyarrow.compute as pc

        return pc.sort_indices(self._keys.indices)

    @cached_property
    def _row_of(self) -> pa.Array:
        import pyarrow.compute as pc

        return pc.list_parent_indices(self._lists)

    @cached_property
    def _all_rows(self) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        return pc.indices_nonzero(pa.repeat(True, self._rows)).cast(self._row_of.type)

    def column(self, name: str) -> pa.Array:
        """Returns the value of that name in each row; null if the row has none."""
        import pyarrow.compute as pc

        entries = self._order[self._spans[self.names[name]]]
        at = pc.index_in(self._all_rows, value_set=self._row_of.take(entries))
        return self._values.take(entries).take(at)

    def without(self, names: list[str], type_: pa.MapType) -> pa.Array:
        """Returns `extra` without the entries of those names; a row without other entries is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        removed = [self.names[name] for name in names if name in self.names]
        if len(removed) == len(self.names):
            return pa.nulls(self._rows, type_)
        kept = pc.invert(pc.is_in(self._keys.indices, value_set=pa.array(removed, self._keys.indices.type)))
        before = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(kept.cast(pa.int32()))])
        ends = before.take(pc.subtract(self._offsets, self._offsets[0]))
        has_any = pc.not_equal(ends.slice(1), ends.slice(0, self._rows))
        # A null offset makes the row null.
        ends = pc.if_else(pa.concat_arrays([has_any, pa.array([True])]), ends, None)
        keys = self._keys.filter(kept).dictionary_decode()
        return pa.MapArray.from_arrays(ends, keys, self._values.filter(kept)).cast(type_)
