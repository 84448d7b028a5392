"""Parts read as batches with a column for each metric: those in the map `extra` too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..records import CORE_METRICS, RESERVED_NAMES
from ..store.files import check_regular

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

BATCH_ROWS = 65_536


def flattened_batches(path: Path, schema: pa.Schema, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    """The rows of a part, in order, in batches that have exactly the columns of `schema`.

    A metric has the value of its column, or else its entry in the row's `extra`, or else null. `extra`, where it is
    asked for, has the entries that are no columns of `schema`. Only what is asked for is read.

    :param schema: columns of the stream's own, and any float64 metrics; see :func:`columns_schema`.
    :param batch_rows: rows of a batch at most.
    :raises OSError: the file cannot be read, is no Parquet file, or its checksums do not hold; the message names it.
    """
    with opened_part(path) as file:
        there = set(file.schema_arrow.names)
        asked = [name for name in schema.names if name in there]
        if "extra" not in asked and _metrics_of(schema):
            asked.append("extra")
        for batch in _batches(file, asked, batch_rows):
            yield flattened(batch, schema)


def part_metrics(path: Path) -> tuple[str, ...]:
    """The metrics beside the guide's that a part has, by column or by an entry in `extra`, in order.

    :raises OSError: as :func:`flattened_batches` does.
    """
    with opened_part(path) as file:
        names = dict.fromkeys(_metrics_of(file.schema_arrow))
        for batch in _batches(file, ["extra"], BATCH_ROWS):
            names.update(dict.fromkeys(_Entries(batch.column(0)).names))
    return tuple(name for name in names if name not in RESERVED_NAMES and name not in CORE_METRICS)


@contextlib.contextmanager
def opened_part(path: Path) -> Iterator[pq.ParquetFile]:
    """A part, to be read in the body, and nothing else to be done there.

    :raises OSError: it cannot be read, there or then; the message names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_regular(os.stat(path), path)
    try:
        # The few different keys are decoded once each, not once an entry.
        with pq.ParquetFile(path, page_checksum_verification=True, read_dictionary=["extra.key_value.key"]) as file:
            yield file
    except (pa.ArrowException, OSError, KeyError) as error:  # KeyError: it has no `extra`
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system, and not of what is in the file
        raise OSError(f"{path}: expected a whole Parquet part, got {error}") from error


def _batches(file: pq.ParquetFile, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    # A row group has one dictionary of keys; of a batch with two of them, pyarrow makes no map.
    for group in range(file.num_row_groups):
        yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=columns)


def _metrics_of(schema: pa.Schema) -> list[str]:
    import pyarrow as pa

    return [field.name for field in schema if field.type == pa.float64()]


def flattened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    entries = _Entries(columns["extra"]) if "extra" in columns else None
    arrays = []
    for field in schema:
        array = columns.get(field.name)
        if entries is not None and field.name == "extra":
            array = entries.without(_metrics_of(schema), field.type)
        elif entries is not None and field.type == pa.float64() and field.name in entries.names:
            late = entries.column(field.name)
            array = late if array is None else pc.coalesce(array, late)
        arrays.append(pa.nulls(batch.num_rows, field.type) if array is None else array)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


class _Entries:
    """What a batch's `extra` holds, entry by entry: its work grows with them, not with their number times names."""

    def __init__(self, extra: pa.MapArray) -> None:
        import pyarrow as pa

        self._rows = len(extra)
        self._offsets = extra.offsets
        # As lists: keys and values of a map are those of the array that it may be a slice of.
        self._lists = pa.ListArray.from_arrays(extra.offsets, extra.keys)
        self._keys = self._lists.flatten().dictionary_encode()
        self._values = pa.ListArray.from_arrays(extra.offsets, extra.items).flatten()

    @cached_property
    def names(self) -> dict[str, int]:
        """The code of each name that an entry has, in the order of the first entries."""
        codes = self._keys.indices.unique().to_pylist()
        words = self._keys.dictionary.to_pylist()
        return {words[code]: code for code in codes}

    @cached_property
    def _spans(self) -> dict[int, slice]:
        """Where each code's entries lie among all, ordered by code."""
        spans = {}
        start = 0
        for found in sorted(self._keys.indices.value_counts().to_pylist(), key=lambda found: found["values"]):
            spans[found["values"]] = slice(start, start + found["counts"])
            start += found["counts"]
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
        """The value of that name in each row; null where the row has none."""
        import pyarrow.compute as pc

        mine = self._order[self._spans[self.names[name]]]
        at = pc.index_in(self._all_rows, value_set=self._row_of.take(mine))
        return self._values.take(mine).take(at)

    def without(self, names: list[str], type_: pa.MapType) -> pa.Array:
        """`extra` without the entries of those names; a row that has no others is null."""
        import pyarrow as pa
        import pyarrow.compute as pc

        gone = [self.names[name] for name in names if name in self.names]
        if len(gone) == len(self.names):
            return pa.nulls(self._rows, type_)
        kept = pc.invert(pc.is_in(self._keys.indices, value_set=pa.array(gone, self._keys.indices.type)))
        before = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(kept.cast(pa.int32()))])
        ends = before.take(pc.subtract(self._offsets, self._offsets[0]))
        has_any = pc.not_equal(ends.slice(1), ends.slice(0, self._rows))
        # A row is null where its offset is.
        ends = pc.if_else(pa.concat_arrays([has_any, pa.array([True])]), ends, None)
        keys = self._keys.filter(kept).dictionary_decode()
        return pa.MapArray.from_arrays(ends, keys, self._values.filter(kept)).cast(type_)
