"""The seqs of files and batches, by which a follower knows what it has given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..parquet.part_reader import flattened_batches, opened_part
from ..parquet.spool_tail import SpoolTail

if TYPE_CHECKING:
    import pyarrow as pa


def without_gaps(rows: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows in pieces whose seqs follow each other."""
    import pyarrow.compute as pc

    seqs = rows.column("seq")
    jumps = pc.indices_nonzero(pc.greater(pc.subtract(seqs.slice(1), seqs.slice(0, len(seqs) - 1)), 1)).to_pylist()
    start = 0
    for end in [*(jump + 1 for jump in jumps), len(seqs)]:
        yield rows.slice(start, end - start)
        start = end


def has_between(seqs: pa.Array, low: int, high: int) -> bool:
    """Returns whether there is one from `low` on below `high`."""
    import pyarrow.compute as pc

    return bool(pc.any(pc.and_(pc.greater_equal(seqs, low), pc.less(seqs, high))).as_py())


def seqs_of(path: Path) -> Iterator[pa.Array]:
    """Those of a spool or a part, in batches."""
    import pyarrow as pa

    if path.suffix == ".spool":
        tail = SpoolTail(path)
        try:
            for batch in tail.new():
                yield batch.column("seq")
        finally:
            tail.close()
    else:
        for batch in flattened_batches(path, pa.schema([("seq", pa.int64())])):
            yield batch.column("seq")


def last_seq(path: Path) -> int:
    """That of the last row of a spool or a part; 0 without any."""
    if path.suffix == ".spool":
        return max((seqs[-1].as_py() for seqs in seqs_of(path)), default=0)
    with opened_part(path) as file:
        at = file.schema_arrow.names.index("seq")
        groups = [file.metadata.row_group(group).column(at).statistics for group in range(file.metadata.num_row_groups)]
        return max((group.max for group in groups if group is not None and group.has_min_max), default=0)
