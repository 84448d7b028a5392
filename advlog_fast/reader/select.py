"""The records of a stream that are shown: those of a chain of attempts, without what was superseded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .._paths import PartKey
from .chain import Chain, Cut
from .stored import Stored

if TYPE_CHECKING:
    import pyarrow as pa


def chosen_batches(stored: Stored, chain: Chain | None, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The records that are shown, in order; of every attempt where there is no chain."""
    for key in stored.keys:
        if chain is None:
            yield from stored.batches(key, schema)
        elif key[0] in chain:
            yield from cut_batches(stored, chain, key, schema)


def cut_batches(stored: Stored, chain: Chain, key: PartKey, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """One source's records, without those that a later attempt has superseded."""
    import pyarrow as pa

    cut = chain.cuts[key[0]]
    if cut is None:
        yield from stored.batches(key, schema)
        return
    superseded = [stored.steps_up_to(later, key[1], cut.step) for later in chain.later(key[0]) if cut.step is not None]
    more = [name for name in ("step", "timestamp") if name not in schema.names]
    wanted = pa.schema([*schema, *stored.fields(more)])
    for batch in stored.batches(key, wanted):
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
