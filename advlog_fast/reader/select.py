"""Selects the records of a stream to show: those of a lineage of attempts, without superseded ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..parquet.part_reader import BATCH_ROWS
from .lineage import Cut, Lineage
from .stream_reader import RankKey, StreamReader

if TYPE_CHECKING:
    import pyarrow as pa


def chosen_batches(reader: StreamReader, lineage: Lineage | None, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The records that are shown, in order; of every attempt where there is no lineage."""
    for rank_key in reader.keys_of:
        if lineage is None:
            for key in reader.keys_of[rank_key]:
                yield from reader.batches(key, schema)
        elif rank_key[0] in lineage:
            yield from rank_batches(reader, lineage, rank_key, schema)


def rank_batches(
    reader: StreamReader, lineage: Lineage, rank_key: RankKey, schema: pa.Schema, rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The records of a rank of an attempt, without those that a later attempt has superseded."""
    import pyarrow as pa

    cut = lineage.cuts[rank_key[0]]
    if cut is None:
        for key in reader.keys_of[rank_key]:
            yield from reader.batches(key, schema, rows)
        return
    superseded = []
    if cut.step is not None:
        superseded = [reader.steps_up_to(later, rank_key[1], cut.step) for later in lineage.later(rank_key[0])]
    more = [name for name in ("step", "timestamp") if name not in schema.names]
    wanted = pa.schema([*schema, *reader.fields(more)])
    for key in reader.keys_of[rank_key]:
        for batch in reader.batches(key, wanted, rows):
            yield batch.filter(_is_kept(batch, cut, superseded)).select(schema.names)


def _is_kept(batch: pa.RecordBatch, cut: Cut, superseded: list[pa.Array]) -> pa.Array:
    """Returns, for each record, whether it came before the cut and its step was not logged again."""
    import pyarrow as pa
    import pyarrow.compute as pc

    step = batch.column("step")
    in_time = pc.less_equal(batch.column("timestamp"), pa.scalar(cut.time, pa.timestamp("us", "UTC")))
    if cut.step is None:
        return in_time
    kept = pc.if_else(pc.is_valid(step), pc.less_equal(step, cut.step), in_time)
    for steps in superseded:
        if len(steps):
            kept = pc.and_(kept, pc.invert(pc.is_in(step, value_set=steps)))
    return kept
