"""Selects the records of a stream to show: those of a lineage of attempts, without superseded ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..parquet.part_reader import BATCH_ROWS
from .lineage import Cut, Lineage
from .sources import RankKey
from .stream_reader import StreamReader

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
    import pyarrow.compute as pc

    cut = lineage.cuts[rank_key[0]]
    if cut is None:
        for key in reader.keys_of[rank_key]:
            yield from reader.batches(key, schema, rows)
        return
    seq = cut.seqs.get(rank_key[1])
    more = [name for name in ("seq", "step", "timestamp") if name not in schema.names]
    wanted = pa.schema([*schema, *reader.fields(more)])
    again = _Again(reader, lineage.later(rank_key[0]), rank_key[1], cut)
    for key in reader.keys_of[rank_key]:
        for batch in reader.batches(key, wanted, rows):
            kept = _is_kept(batch, cut, again) if seq is None else pc.less_equal(batch.column("seq"), seq)
            yield batch.filter(kept).select(schema.names)


class _Again:
    """Finds the steps that later attempts of a rank logged again. It reads nothing until it is asked: usually, they go
    on after the step of the state."""

    def __init__(self, reader: StreamReader, later: list[int], rank: int, cut: Cut) -> None:
        self._reader, self._later, self._rank, self._cut = reader, later, rank, cut
        self._steps: pa.Array | None = None

    def has(self, steps: pa.Array) -> pa.Array:
        """Returns, for each step, whether it is one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._steps is None:
            cut = self._cut
            found = [self._reader.steps_between(at, self._rank, cut.step, cut.max_step) for at in self._later]
            self._steps = pa.concat_arrays([pa.array([], pa.int64()), *found])
        return pc.is_in(steps, value_set=self._steps, skip_nulls=True)


def _is_kept(batch: pa.RecordBatch, cut: Cut, again: _Again) -> pa.Array:
    """Returns, for each record of a rank whose own state was not loaded, whether it stays; see :class:`Cut`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    step = batch.column("step")
    in_time = pc.less_equal(batch.column("timestamp"), pa.scalar(cut.time, pa.timestamp("us", "UTC")))
    if cut.goes_by_time:
        return in_time
    no_step = pc.is_null(step)
    before = pc.fill_null(pc.less_equal(step, cut.step), False) if cut.step is not None else pc.and_(no_step, in_time)
    beyond = pc.and_(pc.invert(no_step), pc.invert(before))
    if cut.max_step is None:
        beyond = pc.and_(beyond, in_time)
    else:
        beyond = pc.and_(beyond, pc.less_equal(pc.fill_null(step, 0), cut.max_step))
    if pc.any(beyond).as_py():
        is_again = again.has(step)
        if cut.max_step is not None:
            is_again = pc.and_(is_again, pc.invert(in_time))
        beyond = pc.and_(beyond, pc.invert(is_again))
    return pc.or_(pc.or_(before, beyond), pc.and_(no_step, in_time))
