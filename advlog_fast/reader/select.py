"""The records of a stream that are shown: those of a chain of attempts, without what was superseded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..parquet.wide import BATCH_ROWS
from .chain import Chain, Cut
from .stored import Place, Stored

if TYPE_CHECKING:
    import pyarrow as pa


def chosen_batches(stored: Stored, chain: Chain | None, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The records that are shown, in order; of every attempt where there is no chain."""
    for place in stored.places:
        if chain is None:
            for key in stored.places[place]:
                yield from stored.batches(key, schema)
        elif place[0] in chain:
            yield from place_batches(stored, chain, place, schema)


def place_batches(
    stored: Stored, chain: Chain, place: Place, schema: pa.Schema, rows: int = BATCH_ROWS
) -> Iterator[pa.RecordBatch]:
    """The records of a rank of an attempt, without those that a later attempt has superseded."""
    import pyarrow as pa

    cut = chain.cuts[place[0]]
    if cut is None:
        for key in stored.places[place]:
            yield from stored.batches(key, schema, rows)
        return
    superseded = []
    if cut.step is not None:
        superseded = [stored.steps_up_to(later, place[1], cut.step) for later in chain.later(place[0])]
    more = [name for name in ("step", "timestamp") if name not in schema.names]
    wanted = pa.schema([*schema, *stored.fields(more)])
    for key in stored.places[place]:
        for batch in stored.batches(key, wanted, rows):
            yield batch.filter(_is_kept(batch, cut, superseded)).select(schema.names)


def _is_kept(batch: pa.RecordBatch, cut: Cut, superseded: list[pa.Array]) -> pa.Array:
    """Whether each record came before the cut, and its step was not logged again."""
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
