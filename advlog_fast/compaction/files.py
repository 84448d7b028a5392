"""Reads parts, and merges several of them into one file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..parquet.columns import of_attempt, rows_of_a_group
from ..parquet.part_reader import flattened_batches, opened_part
from ..parquet.parts import METADATA, ROW_GROUP_ROWS, new_part, sync_path, writer_options
from ..store.files import check_own
from ..store.paths import PartKey

if TYPE_CHECKING:
    import pyarrow as pa

FILE_ROWS = 1 << 24
"""The most rows in a merged file."""

_HOLDS = METADATA + b"parts"
_RECORDS = METADATA + b"records"


@dataclass(frozen=True)
class Part:
    """A file of a dataset, by its name and its footer."""

    key: PartKey
    path: Path
    rows: int
    metadata: dict[bytes, bytes]
    """Our own entries of the footer."""

    @classmethod
    def read(cls, key: PartKey, path: Path) -> Part:
        """Reads the footer of a part.

        :raises OSError: the file cannot be read, or is no part; the message names it.
        :raises NotOursError: the file is a link, or not this user's.
        """
        check_own(path.lstat(), path)
        with opened_part(path) as file:
            metadata = file.metadata.metadata or {}
            own = {name: value for name, value in metadata.items() if name.startswith(METADATA)}
            return cls(key, path, file.metadata.num_rows, own)

    @property
    def holds(self) -> list[PartKey]:
        """The parts that the file holds. A merged file has the number of its first part."""
        attempt, rank, number = self.key
        numbers = json.loads(self.metadata[_HOLDS]) if _HOLDS in self.metadata else [number]
        return [(attempt, rank, part) for part in numbers]


def grouped(parts: Iterable[Part], apart: set[tuple[int, int]]) -> Iterator[list[Part]]:
    """Yields the parts of each new file, in order, each from one attempt and rank.

    :param apart: attempts and ranks whose parts are not merged.
    """
    group: list[Part] = []
    rows = 0
    for part in parts:
        fits = group and part.key[:2] == group[0].key[:2] and rows + part.rows <= FILE_ROWS
        if group and (not fits or part.key[:2] in apart):
            yield group
            group, rows = [], 0
        group.append(part)
        rows += part.rows
    if group:
        yield group


def write_merged(parts: list[Part], path: Path, schema: pa.Schema) -> None:
    """Writes the rows of the parts, in order, into one file with the columns of `schema`, and fsyncs it.

    :raises OSError: a part is damaged, the file does not hold the rows of the parts, or the disk failed.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = schema.with_metadata(_metadata(parts))
    # As in the sealer, runs with many metrics get fewer rows a group, not more memory.
    group_rows = min(ROW_GROUP_ROWS, rows_of_a_group(len(schema)))
    read = _Rows()
    # Entries of `extra` take several times the memory of the columns that they become, so a batch is part of a group.
    batch_rows = max(1, group_rows // 8)
    wanted = schema.remove(schema.get_field_index("attempt")) if "attempt" in schema.names else schema
    batches = (
        of_attempt(batch, part.key[0], schema)
        for part in parts
        for batch in read.watch(flattened_batches(part.path, wanted, batch_rows))
    )
    with new_part(path) as sink, pq.ParquetWriter(sink, schema, **writer_options(schema)) as writer:
        for table in _regrouped(batches, group_rows):
            writer.write_table(table, row_group_size=group_rows)
    sync_path(path)
    written = _Rows()
    for _ in written.watch(flattened_batches(path, pa.schema([schema.field("seq")]))):
        pass
    rows = sum(part.rows for part in parts)
    if not rows == read.count == written.count or read.digest() != written.digest():
        names = f"{parts[0].path} to {parts[-1].path.name}"
        counts = f"expected {rows} rows, read {read.count}, got {written.count} rows or different ones in {path}"
        raise OSError(f"{names}: {counts}")


class _Rows:
    """Counts the rows of batches, and hashes their seqs."""

    def __init__(self) -> None:
        self.count = 0
        self._seqs = hashlib.blake2b()

    def watch(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            self.count += batch.num_rows
            seqs = batch.column("seq")
            if len(seqs):
                self._seqs.update(memoryview(seqs.buffers()[1])[8 * seqs.offset : 8 * (seqs.offset + len(seqs))])
            yield batch

    def digest(self) -> bytes:
        return self._seqs.digest()


def _metadata(parts: list[Part]) -> dict[bytes, bytes]:
    """Returns the metadata of a merged file. A single part keeps its own, by which a recovery recognizes it."""
    if len(parts) == 1:
        return parts[0].metadata
    values: dict[bytes, Any] = {
        _RECORDS: sum(part.rows for part in parts),
        _HOLDS: [number for part in parts for _, _, number in part.holds],
    }
    return {**parts[0].metadata, **{name: json.dumps(value).encode() for name, value in values.items()}}


def _regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """Yields the rows of the batches as tables of `rows` rows; the last table has the rest."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        held.append(batch)
        count += batch.num_rows
        while count >= rows:
            table = pa.Table.from_batches(held)
            yield table.slice(0, rows)
            held = table.slice(rows).to_batches()
            count -= rows
    if count:
        yield pa.Table.from_batches(held)
