"""Reads a spool as it grows: each time the records that are new, without a second look at the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .._native import ffi, lib
from ..store.files import open_file
from .columns import SLOT_BYTES, STREAMS, Decoder, SpoolInfo, name_of

if TYPE_CHECKING:
    import pyarrow as pa

_READ_BYTES = 1 << 22


class SpoolTail:
    """An open spool. It stays readable after its file was removed.

    :raises OSError: the file cannot be opened.
    :raises MemoryError: there is no memory to scan it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_file(path)
        self._scan = lib.advlog_scan_new()
        if self._scan == ffi.NULL:
            self._file.close()
            raise MemoryError("no memory to scan a spool")
        self._info = ffi.new("advlog_spool_info *")
        self._rest = b""
        """What was read behind the last whole record."""
        self._given = 0
        self._read = 0
        self._names: tuple[str | None, ...] = ()

    @property
    def is_spoilt(self) -> bool:
        """Whether it holds what no drain writes, or less than was read: it was cut, and may be written anew."""
        return bool(self._info.damaged) or self.size < self._read

    @property
    def size(self) -> int:
        """The bytes of the file."""
        return self._file.seek(0, 2)

    def new(self) -> Iterator[pa.RecordBatch]:
        """Yields the records that are new, in order, with the columns of their stream."""
        self._file.seek(self._read)
        while data := self._file.read(_READ_BYTES):
            self._read += len(data)
            lib.advlog_scan_feed(self._scan, ffi.from_buffer(data), len(data) // SLOT_BYTES)
            # A slot that is written only in part is read again.
            torn = len(data) % SLOT_BYTES
            self._read -= torn
            held = self._rest + (data[:-torn] if torn else data)
            lib.advlog_scan_info(self._scan, self._info)
            whole = int(self._info.slots) * SLOT_BYTES - (self._read - len(held))
            yield from self._decoded(held[:whole])
            self._rest = held[whole:]
            if torn or self._info.damaged:
                break
            self._file.seek(self._read)

    def _decoded(self, data: bytes) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        info = self._info
        records = int(info.records) - self._given
        if records <= 0:
            return
        if info.ids != len(self._names) or None in self._names:
            self._names = tuple(name_of(self._scan, number) for number in range(info.ids))
        told = SpoolInfo(
            stream=STREAMS[info.stream],
            attempt=info.attempt,
            rank=info.rank,
            run_id=bytes(info.run_id).hex(),
            first_seq=info.first_seq + self._given,
            records=records,
            names=self._names,
            whole_bytes=len(data),
            total_bytes=len(data),
            damaged=False,
        )
        self._given += records
        decoder = Decoder(told, told.metric_names(), records)
        try:
            view = memoryview(bytearray(data))
            start = 0
            while start < len(data):
                start += decoder.feed(view[start:])
                if decoder.rows:
                    batch = decoder.batch()
                    # Serialized, and so copied: the next batch lies in the same memory.
                    yield pa.ipc.read_record_batch(batch.serialize(), batch.schema)
                if not decoder.full:
                    break
                decoder.reset()
        finally:
            decoder.free()

    def close(self) -> None:
        """Frees what it holds; a second call does nothing."""
        if self._scan != ffi.NULL:
            lib.advlog_scan_free(self._scan)
            self._scan = ffi.NULL
            self._file.close()
