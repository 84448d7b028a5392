"""Decodes spools to Arrow record batches, both for sealing and for reading a run while it is being written."""

from __future__ import annotations

import io
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from .._native import ffi, lib
from ..records import CORE_METRICS, INTEGER_COLUMNS, RESERVED_NAMES, UNRESOLVED

if TYPE_CHECKING:
    import pyarrow as pa

STREAMS = ("metrics", "system")
"""The streams that have spools, in the order of their numbers in the C API."""

SLOT_BYTES = int(lib.ADVLOG_SLOT_BYTES)
_READ_BYTES = 1 << 20
GROUP_BYTES = 64 << 20
"""The most memory for the columns of a batch: runs with many metrics get fewer rows a batch, not more memory."""

_SYSTEM_CORE = ("batch_time", "data_time")
_KINDS = ("", "", "", "memory", "performance")
"""The kinds of the system stream, by `enum advlog_kind`."""


@dataclass(frozen=True)
class SpoolInfo:
    """The result of the first pass over a spool."""

    stream: str
    attempt: int
    rank: int
    run_id: str
    first_seq: int
    records: int
    names: tuple[str | None, ...]
    """The metric names by id, up to the last with values here. None for an id without a value in a whole record of this
    spool (a spool begins with every name in the ring, including the other stream's), or with a damaged name."""
    whole_bytes: int
    """The length of the whole records at the start; the bytes after them are torn or damaged."""
    total_bytes: int
    damaged: bool
    """No drain writes what follows the whole records."""

    def metric_names(self) -> tuple[str, ...]:
        """Returns the metrics with values here, without the built-in ones, in the order of the run's first use."""
        taken = RESERVED_NAMES.union(CORE_METRICS)
        return tuple(dict.fromkeys(name for name in self.names if name is not None and name not in taken))


def core_columns(stream: str) -> tuple[str, ...]:
    """Returns the built-in metrics that are columns of every part of the stream."""
    return _SYSTEM_CORE if stream == "system" else CORE_METRICS


def is_metric(field: pa.Field) -> bool:
    """Returns whether a column holds a metric: metrics are the only float64 columns of a stream."""
    import pyarrow as pa

    return bool(field.type == pa.float64())


def columns_schema(stream: str, metrics: Iterable[str]) -> pa.Schema:
    """Returns the Arrow schema of a stream with columns for the built-in metrics and for `metrics`.

    In `extra` and `unresolved`, a row without entries is null and not an empty map: `IS NOT NULL`, `dropna()` and
    `drop_nulls()` find the rows with entries, and looking up a key in a null gives null.
    """
    import pyarrow as pa

    fields = [
        pa.field("timestamp", pa.timestamp("us", "UTC"), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("worker", pa.int32(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
    ]
    if stream == "system":
        fields.append(pa.field("kind", pa.string(), nullable=False))
    else:
        fields += [pa.field(name, pa.int64() if name == "step" else pa.int32()) for name in INTEGER_COLUMNS]
    fields += [pa.field(name, pa.float64()) for name in (*core_columns(stream), *metrics)]
    fields.append(pa.field("extra", pa.map_(pa.string(), pa.float64())))
    fields.append(pa.field("unresolved", pa.map_(pa.string(), pa.string())))
    return pa.schema(fields)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of a part, which says in each row of which attempt it is. Parts of earlier versions leave that to
    their folders."""
    import pyarrow as pa

    at = schema.get_field_index("timestamp") + 1
    return schema.insert(at, pa.field("attempt", pa.int32(), nullable=False))


def of_attempt(batch: pa.RecordBatch, attempt: int, schema: pa.Schema) -> pa.RecordBatch:
    """The rows of a batch in the columns of a schema that has the attempt, or not."""
    import pyarrow as pa

    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    if "attempt" in schema.names:
        columns["attempt"] = _constant(attempt, batch.num_rows)
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def scan_spool(file: io.FileIO) -> SpoolInfo:
    """Makes the first pass: returns what the spool holds and how far it is whole.

    Reads and does not map the file: mapped pages would count as resident memory, and a cut of the file meanwhile would
    kill the process.

    :raises OSError: the file cannot be read.
    """
    scan = lib.advlog_scan_new()
    if scan == ffi.NULL:
        raise MemoryError("no memory to scan a spool")
    try:
        buffer = bytearray(_READ_BYTES)
        slots = ffi.from_buffer(buffer)
        total = 0
        file.seek(0)
        info = ffi.new("advlog_spool_info *")
        # Reading stops at the damage: a sparse file can be arbitrarily long.
        while not info.damaged and (got := _fill(file, memoryview(buffer))):
            lib.advlog_scan_feed(scan, slots, got // SLOT_BYTES)
            total += got
            lib.advlog_scan_info(scan, info)
        if info.damaged:
            total = max(total, os.fstat(file.fileno()).st_size)
        return SpoolInfo(
            stream=STREAMS[info.stream] if info.stream in range(len(STREAMS)) else "",
            attempt=info.attempt,
            rank=info.rank,
            run_id=bytes(info.run_id).hex(),
            first_seq=info.first_seq,
            records=info.records,
            names=tuple(name_of(scan, metric_id) for metric_id in range(info.ids)),
            whole_bytes=info.slots * SLOT_BYTES,
            total_bytes=total,
            damaged=bool(info.damaged),
        )
    finally:
        lib.advlog_scan_free(scan)


def spool_batches(
    file: io.FileIO, info: SpoolInfo, metrics: tuple[str, ...], max_rows: int
) -> Iterator[pa.RecordBatch]:
    """Makes the second pass: yields the whole records that `info` counted, in batches of at most `max_rows` rows.

    The next batch reuses the memory of this one: use or copy a batch, and drop it before you ask for the next.

    :raises OSError: the file cannot be read, or changed since the first pass.
    :raises MemoryError: the columns do not fit into memory.
    """
    decoder = Decoder(info, metrics, max_rows)
    try:
        buffer = bytearray(_READ_BYTES)
        view = memoryview(buffer)
        remaining = info.whole_bytes
        kept = 0
        file.seek(0)
        while remaining > 0:
            got = _fill(file, view[kept : kept + min(remaining, len(buffer) - kept)])
            if got == 0:
                raise OSError(f"{file.name!s}: {remaining} bytes shorter than it was")
            remaining -= got
            end = kept + got
            start = 0
            while True:
                start += decoder.feed(view[start:end])
                if not decoder.full:
                    break
                yield decoder.batch()
                decoder.reset()
            # The rest is the beginning of a record whose other slots come with the next read.
            kept = end - start
            view[:kept] = view[start:end]
        if decoder.rows:
            yield decoder.batch()
    finally:
        decoder.free()


def _fill(file: io.FileIO, into: memoryview) -> int:
    """Reads until `into` is full or the file ends, and returns the number of bytes read."""
    got = 0
    while got < len(into):
        more = file.readinto(into[got:])
        if not more:
            break
        got += more
    return got


def name_of(scan: Any, metric_id: int) -> str | None:
    if not lib.advlog_scan_uses(scan, metric_id):
        return None
    text = ffi.new("char[]", lib.ADVLOG_MAX_NAME_BYTES)
    size = lib.advlog_scan_name(scan, metric_id, text)
    return None if size < 0 else ffi.buffer(text, size)[:].decode(errors="replace")


def rows_of_a_group(metrics: int, entries: int = 0) -> int:
    """Returns how many rows of that many metrics fit into GROUP_BYTES.

    :param entries: bytes of a row beside its columns.
    """
    return max(1, GROUP_BYTES // (160 + 8 * metrics + entries))


class Decoder:
    """Owns the C columns and makes Arrow arrays over them."""

    def __init__(self, info: SpoolInfo, metrics: tuple[str, ...], max_rows: int) -> None:
        self._info = info
        self._metrics = metrics
        self._schema = columns_schema(info.stream, metrics)
        names = [f"metric_{metric_id}" if name is None else name for metric_id, name in enumerate(info.names)]
        column = {name: index for index, name in enumerate(metrics)}
        self._names = _strings(names)
        # Metric id m has index m + 6, built-in metric i (in C: -1 - i) has index 5 - i.
        self._all_names = _strings([*reversed(CORE_METRICS), *names])
        slots = info.whole_bytes // SLOT_BYTES
        entries = SLOT_BYTES * -(-slots // max(info.records, 1))
        capacity = max(1, min(max_rows, info.records, rows_of_a_group(len(metrics), entries)))
        column_of = [column.get(name, -1) for name in names]
        self._columns = lib.advlog_columns_new(
            capacity, ffi.new("int32_t[]", column_of), len(names), len(metrics), info.first_seq
        )
        if self._columns == ffi.NULL:
            raise MemoryError(f"no memory for {capacity} rows of {len(metrics)} metrics")
        self._held = ffi.new("advlog_column_buffers *")
        self._refresh()

    def _refresh(self) -> None:
        lib.advlog_columns_buffers(self._columns, self._held)

    @property
    def rows(self) -> int:
        return int(self._held.rows)

    @property
    def full(self) -> bool:
        return bool(self._held.stop == lib.ADVLOG_COLUMNS_FULL)

    def feed(self, slots: memoryview) -> int:
        """Decodes slots and returns the bytes consumed: all but the beginning of a last record, or fewer once full."""
        used = lib.advlog_columns_feed(self._columns, ffi.from_buffer(slots), len(slots) // SLOT_BYTES)
        self._refresh()
        if self._held.stop == lib.ADVLOG_COLUMNS_NO_MEMORY:
            raise MemoryError("no memory for the metrics of a record")
        if self._held.stop == lib.ADVLOG_COLUMNS_DAMAGED:
            raise OSError("a spool changed while it was read")
        return int(used) * SLOT_BYTES

    def reset(self) -> None:
        lib.advlog_columns_reset(self._columns)
        self._refresh()

    def free(self) -> None:
        lib.advlog_columns_free(self._columns)
        self._columns = ffi.NULL

    def batch(self) -> pa.RecordBatch:
        import pyarrow as pa

        held = self._held
        int32, int64 = pa.int32(), pa.int64()
        arrays = [
            self._array(pa.timestamp("us", "UTC"), held.time_us),
            _constant(self._info.rank, self.rows),
            self._array(int32, held.worker),
            self._array(int64, held.seq),
        ]
        if self._info.stream == "system":
            arrays.append(_strings(_KINDS).take(self._array(int32, held.kind)))
        else:
            arrays += [
                self._array(int32, held.epoch, held.epoch_valid, held.epoch_nulls),
                self._array(int32, held.batch, held.batch_valid, held.batch_nulls),
                self._array(int32, held.total_batches, held.total_valid, held.total_nulls),
                self._array(int64, held.step, held.step_valid, held.step_nulls),
            ]
        arrays += [self._metric(-1 - CORE_METRICS.index(name)) for name in core_columns(self._info.stream)]
        arrays += [self._metric(index) for index in range(len(self._metrics))]
        arrays += [self._extra(), self._unresolved()]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _metric(self, column: int) -> pa.Array:
        import pyarrow as pa

        values = ffi.new("double **")
        valid = ffi.new("uint8_t **")
        nulls = lib.advlog_columns_metric(self._columns, column, values, valid)
        return self._array(pa.float64(), values[0], valid[0], nulls)

    def _array(self, type_: pa.DataType, values: Any, valid: Any = ffi.NULL, nulls: int = 0) -> pa.Array:
        return _over(type_, self.rows, values, valid, nulls)

    def _extra(self) -> pa.Array:
        import pyarrow as pa

        held = self._held
        type_ = self._schema.field("extra").type
        entries = held.extra_offsets[self.rows]
        if entries == 0:
            return pa.nulls(self.rows, type_)
        keys = self._names.take(_over(pa.int32(), entries, held.extra_ids))
        values = _over(pa.float64(), entries, held.extra_values, held.extra_valid, held.extra_nulls)
        return self._map(type_, held.extra_offsets, keys, values)

    def _unresolved(self) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        held = self._held
        type_ = self._schema.field("unresolved").type
        entries = held.unresolved_offsets[self.rows]
        if entries == 0:
            return pa.nulls(self.rows, type_)
        ids = _over(pa.int32(), entries, held.unresolved_ids)
        index = pc.add(ids, _constant(len(CORE_METRICS), entries))
        reasons = _strings(UNRESOLVED).take(_over(pa.int32(), entries, held.unresolved_reasons))
        return self._map(type_, held.unresolved_offsets, self._all_names.take(index), reasons)

    def _map(self, type_: pa.MapType, offsets: Any, keys: pa.Array, values: pa.Array) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        ends = _over(pa.int32(), self.rows + 1, offsets)
        has_any = pc.not_equal(ends.slice(1), ends.slice(0, self.rows))
        entries = pa.StructArray.from_arrays([keys, values], fields=[type_.key_field, type_.item_field])
        buffers = [has_any.buffers()[1], ends.buffers()[1]]
        return pa.Array.from_buffers(type_, self.rows, buffers, children=[entries])


# These functions avoid `pa.array` and `pa.scalar`, which import an installed pandas into the user's process: that holds
# the GIL for half a second, and fails at the exit of the interpreter.


def _constant(value: int, length: int) -> pa.Array:
    """Returns an int32 array of one value, repeated."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int32(), length, [None, pa.py_buffer(array("i", (value,)) * length)])


def _strings(words: Sequence[str]) -> pa.Array:
    """Returns the words as Arrow strings."""
    import pyarrow as pa

    encoded = [word.encode() for word in words]
    offsets = array("i", accumulate(map(len, encoded), initial=0))
    return pa.Array.from_buffers(
        pa.string(), len(encoded), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    )


def _over(type_: pa.DataType, length: int, values: Any, valid: Any = ffi.NULL, nulls: int = 0) -> pa.Array:
    """Returns an Arrow array over memory that C still owns."""
    import pyarrow as pa

    bitmap = None if valid == ffi.NULL else pa.py_buffer(ffi.buffer(valid, (length + 7) // 8))
    data = pa.py_buffer(ffi.buffer(values, length * (type_.bit_width // 8)))
    return pa.Array.from_buffers(type_, length, [bitmap, data], nulls)
