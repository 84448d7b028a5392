"""Orders the rows of a table as they were logged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def ordered(table: pa.Table) -> pa.Table:
    """Returns the table ordered by (attempt, rank, seq), without duplicates. Files come in that order, so it rarely
    sorts."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if table.num_rows < 2 or pc.all(_comes_after(table, pc.greater)).as_py():
        return table
    table = table.sort_by([("attempt", "ascending"), ("rank", "ascending"), ("seq", "ascending")])
    return table.filter(pa.concat_arrays([pa.array([True]), _comes_after(table, pc.not_equal)]))


def _comes_after(table: pa.Table, compare_seq: Any) -> pa.Array:
    """Returns, for each row but the first, whether it comes after the row before it: by attempt, then rank, then
    `compare_seq` of the seqs."""
    import pyarrow.compute as pc

    ends = []
    for name in ("attempt", "rank", "seq"):
        column = table.column(name).combine_chunks()
        ends.append((column.slice(1), column.slice(0, len(column) - 1)))
    (attempt, attempt0), (rank, rank0), (seq, seq0) = ends
    same_rank = pc.and_(pc.equal(rank, rank0), compare_seq(seq, seq0))
    same_attempt = pc.and_(pc.equal(attempt, attempt0), pc.or_(pc.greater(rank, rank0), same_rank))
    return pc.or_(pc.greater(attempt, attempt0), same_attempt)
