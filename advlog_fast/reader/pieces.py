"""The records of a run as pieces of pictures: what is shown of each rank, by step."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..parquet.part_reader import BATCH_ROWS
from ..pictures import Piece, Span
from ..pictures.buckets import restarts
from ..store.paths import PartKey
from .lineage import Lineage
from .select import rank_batches
from .sources import RankKey, Source
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import pyarrow as pa

_LOOKED_AT_ROWS = 1_000_000


def pieces_of(reader: StreamReader, lineage: Lineage, by: str) -> list[Piece]:
    """Returns the records that are shown, of the ranks themselves and not of their child processes.

    :param by: "step", or "seq", which then stands in for the step.
    """
    found = []
    for rank_key, keys in reader.keys_of.items():
        if rank_key[0] not in lineage:
            continue
        cut = lineage.cuts[rank_key[0]]
        if cut is not None and rank_key[1] not in cut.seqs:
            found.append(_cut_by_step(reader, lineage, rank_key, by))
            continue
        last = None if cut is None else cut.seqs[rank_key[1]]
        found += [_of_source(reader, key, by, last) for key in keys]
    return [each for each in found if each is not None]


def _of_source(reader: StreamReader, key: PartKey, by: str, last: int | None) -> Piece | None:
    """
    :param last: the `seq` of the last record that is shown; None for all.
    """
    source = reader.source(key)
    bounds = source.bounds(by)
    if bounds is None:
        return None
    identity = source.identity()
    if last is not None:
        seqs = source.bounds("seq")
        if seqs is None or seqs[0] > last:
            return None
        last = None if seqs[1] <= last else last
        if last is not None and identity is not None:
            identity += f"\0to {last}"
    if identity is not None:
        identity += f"\0by {by}"

    def read(names: Sequence[str], span: Span | None) -> Iterator[pa.RecordBatch]:
        # A map is dear to read, and nearly always empty; so are the numbers of children.
        left_out = {"unresolved"} if "unresolved" in names and not source.has_unresolved() else set()
        wanted = [by, *names] if source.bounds("worker") == (0, 0) else [by, "worker", *names]
        if last is not None and by != "seq":
            wanted.append("seq")
        columns = reader.fields([name for name in wanted if name not in left_out])
        for batch in _rows(source, columns, by, span):
            yield from _own(batch, by, last, names)

    whole = Piece(key[0], key[1], identity, Span(*bounds), source.extent().records, read)
    return whole if last is None else _as_shown(whole)


def _as_shown(piece: Piece) -> Piece | None:
    """A piece of which not all records are shown, with the span and the number of those that are."""
    import pyarrow.compute as pc

    lows, highs, rows = [], [], 0
    for batch in piece.read([], None):
        ends = pc.min_max(batch.column("step")).as_py()
        lows.append(ends["min"])
        highs.append(ends["max"])
        rows += batch.num_rows
    return replace(piece, span=Span(min(lows), max(highs)), rows=rows) if rows else None


def _rows(source: Source, wanted: pa.Schema, by: str, span: Span | None) -> Iterator[pa.RecordBatch]:
    if span is None:
        return source.batches(wanted, BATCH_ROWS)
    return source.batches_within(wanted, BATCH_ROWS, by, *span)


def _own(batch: pa.RecordBatch, by: str, last: int | None, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yields the rows of the rank itself that have a step."""
    import pyarrow as pa
    import pyarrow.compute as pc

    there = batch.schema.names
    conditions = [pc.equal(batch.column("worker"), 0)] if "worker" in there else []
    if batch.column(by).null_count:
        conditions.append(pc.is_valid(batch.column(by)))
    if last is not None:
        conditions.append(pc.less_equal(batch.column("seq"), last))
    mine = batch
    if not all(pc.all(kept).as_py() for kept in conditions):
        mine = batch.filter(functools.reduce(pc.and_, conditions))
    if mine.num_rows:
        columns = [mine.column(name) if name in there else pa.nulls(mine.num_rows) for name in (by, *names)]
        yield pa.RecordBatch.from_arrays(columns, names=["step", *names])


def _cut_by_step(reader: StreamReader, lineage: Lineage, rank_key: RankKey, by: str) -> Piece | None:
    """A rank whose own state was not loaded: what stays of it depends on what the later attempts logged again."""
    sources = [reader.source(key) for key in reader.keys_of[rank_key]]
    later = [
        reader.source(key)
        for attempt in lineage.later(rank_key[0])
        for key in reader.keys_of.get((attempt, rank_key[1]), ())
    ]
    identities = [source.identity() for source in (*sources, *later)]
    identity = None
    if None not in identities:
        told = "\0\0".join(map(str, identities)) + repr(lineage.cuts[rank_key[0]])
        identity = f"cut {hashlib.sha256(told.encode('utf-8', 'surrogateescape')).hexdigest()} by {by}"
    bounds = [found for found in (source.bounds(by) for source in sources) if found is not None]
    if not bounds:
        return None

    def read(names: Sequence[str], span: Span | None) -> Iterator[pa.RecordBatch]:  # noqa: ARG001 - the interface
        wanted = reader.fields([by, "worker", *names])
        for batch in rank_batches(reader, lineage, rank_key, wanted):
            yield from _own(batch, by, None, names)

    span = Span(min(low for low, _ in bounds), max(high for _, high in bounds))
    return _as_shown(Piece(*rank_key, identity, span, sum(source.extent().records for source in sources), read))


def validation_piece(validations: pa.Table, metric: str, *, by_epoch: bool) -> tuple[Piece, str]:
    """The validations that have a metric, those without a name where there are any, and what they lie by: their "step",
    or "epoch" where none has one.

    :param by_epoch: by their epoch, where any has one: the steps are no axis.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = validations.filter(pc.is_valid(validations[metric]))
    unnamed = rows.filter(pc.is_null(rows["name"]))
    rows = unnamed if unnamed.num_rows else rows
    has_epoch, has_step = (rows[name].null_count < rows.num_rows for name in ("epoch", "step"))
    by = "epoch" if (by_epoch and has_epoch) or not has_step else "step"
    rows = rows.filter(pc.is_valid(rows[by]))
    steps = rows[by].combine_chunks().cast(pa.int64())
    bounds = pc.min_max(steps).as_py()

    def read(names: Sequence[str], span: Span | None) -> Iterator[pa.RecordBatch]:  # noqa: ARG001 - the interface
        columns = {"step": steps, metric: rows[metric].combine_chunks(), "unresolved": pa.nulls(len(steps))}
        columns |= {
            "timestamp": rows["timestamp"].combine_chunks(),
            "epoch": rows["epoch"].combine_chunks().cast(pa.int32()),
        }
        yield pa.RecordBatch.from_arrays([columns[name] for name in ("step", *names)], names=["step", *names])

    span = Span(bounds["min"] or 0, bounds["max"] or 0)
    return Piece(0, 0, None, span, rows.num_rows, read), by


def begins_again(pieces: Sequence[Piece]) -> bool:
    """Returns whether the steps of a rank begin again and again, as those of programs that count them in each epoch."""
    import pyarrow as pa

    of_ranks: dict[RankKey, list[Piece]] = {}
    for piece in pieces:
        of_ranks.setdefault((piece.attempt, piece.rank), []).append(piece)
    for mine in of_ranks.values():
        low, high = min(each.span.low for each in mine), max(each.span.high for each in mine)
        if sum(each.rows for each in mine) < 2 * (high - low + 1):
            continue  # hardly a step is there twice
        steps, rows = [], 0
        for batch in (batch for piece in mine for batch in piece.read([], None)):
            steps.append(batch.column("step"))
            rows += batch.num_rows
            if rows > _LOOKED_AT_ROWS:
                break
        if restarts(pa.concat_arrays(steps)) > 1:
            return True
    return False
