"""The buckets of any span at any width: from what is kept of whole parts, or from the rows where that is too coarse."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from .buckets import Buckets, Clock
from .cache import Cache, Kept

if TYPE_CHECKING:
    import pyarrow as pa

MOST_WIDTH = 8192
_KEPT_BUCKETS = 4096
"""A part's own buckets: so many, or one for each `_KEPT_ROWS` rows where that is more."""
_KEPT_ROWS = 256
_MOST_ROWS = 2_000_000
"""Rows of a span, over all ranks, that are read each time that it is asked for; above, its parts' own buckets do."""
_AT_ONCE = 16
"""Metrics that are counted in one pass over the rows of a part."""
CLOCK = "\0clock"
"""Under which name the clock of a part is kept: no metric can have it."""

_Block = TypeVar("_Block", Buckets, Clock)
Rows = Callable[[Sequence[str], "Span | None"], "Iterator[pa.RecordBatch]"]


class Span(NamedTuple):
    """From one step to another, both in it."""

    low: int
    high: int


@dataclass(frozen=True)
class Piece:
    """Records of one rank of one attempt that lie together, such as a sealed part.

    :param identity: what no other piece has, and this one only as long as its records stay the same; None where they
        may change.
    :param span: the least and the greatest of its steps.
    :param rows: how many records.
    :param read: yields the rows of some metrics, and at least those of a span: `step`, never null, then `timestamp`,
        `epoch` and `unresolved` where they are asked for, and the metrics.
    """

    attempt: int
    rank: int
    identity: str | None
    span: Span
    rows: int
    read: Rows


class Levels:
    """The buckets of some pieces.

    :param cache: where the buckets of pieces with an identity are kept.
    """

    def __init__(self, pieces: Iterable[Piece], cache: Cache) -> None:
        self.pieces = list(pieces)
        self._cache = cache

    @property
    def span(self) -> Span | None:
        """From the least to the greatest step; None where no record has one."""
        if not self.pieces:
            return None
        return Span(min(each.span.low for each in self.pieces), max(each.span.high for each in self.pieces))

    @property
    def rows(self) -> int:
        """The records."""
        return sum(each.rows for each in self.pieces)

    @property
    def ranks(self) -> list[int]:
        """Those with records."""
        return sorted({each.rank for each in self.pieces})

    def shift(self, span: Span, width: int) -> int:
        """Returns of how many steps, as a power of two, the buckets of a span are: the largest with which it has at
        least `width` of them, and so less than twice as many; larger where it has too many rows to read."""
        shift = 0
        # Two buckets may be left of any span: its ends may lie on both sides of an edge.
        while _count(span, shift) >= max(2 * width, 3):
            shift += 1
        mine = [each for each in self.pieces if _overlaps(each, span)]
        coarser = [each for each in mine if _own_shift(each) > shift]
        if sum(_rows_in(each, span) for each in coarser) > _MOST_ROWS:
            shift = max(map(_own_shift, coarser))
        return shift

    def buckets(self, metrics: Sequence[str], span: Span, shift: int) -> dict[str, dict[int, Buckets]]:
        """Returns the buckets of metrics over a span, by metric and rank, without the ranks that have no record in
        it."""
        span = _in_whole_buckets(span, shift)
        found: dict[str, dict[int, Buckets]] = {name: {} for name in metrics}
        for at in range(0, len(metrics), _AT_ONCE):
            for piece in self.pieces:
                if _overlaps(piece, span):
                    self._count(piece, metrics[at : at + _AT_ONCE], span, shift, found)
        return found

    def _count(
        self, piece: Piece, metrics: Sequence[str], span: Span, shift: int, found: dict[str, dict[int, Buckets]]
    ) -> None:
        into = {}
        for name in metrics:
            if piece.rank not in found[name]:
                found[name][piece.rank] = Buckets.over(span.low, span.high, shift)
            into[name] = found[name][piece.rank]
        if _own_shift(piece) > shift:
            _read(piece, into, span)
            return
        for name, own in self._own(piece, metrics).items():
            into[name].fold(own)

    def _own(self, piece: Piece, metrics: Sequence[str]) -> dict[str, Buckets]:
        """The buckets of a whole piece."""
        kept = self._cache.get(piece.identity, list(metrics)) if piece.identity is not None else {}
        found = {name: _restored(Buckets, each) for name, each in kept.items()}
        missing = [name for name in metrics if name not in found]
        if missing:
            shift = _own_shift(piece)
            made = {name: Buckets.over(*piece.span, shift) for name in missing}
            _read(piece, made, None)
            if piece.identity is not None:
                self._cache.put(piece.identity, {name: _kept(each) for name, each in made.items()})
            found.update(made)
        return found

    def clock(self, span: Span, shift: int, rank: int | None = None) -> Clock:
        """Returns the times and epochs of a span, of one rank or over all."""
        span = _in_whole_buckets(span, shift)
        found = Clock.over(span.low, span.high, shift)
        for piece in self.pieces:
            if not _overlaps(piece, span) or rank not in (None, piece.rank):
                continue
            own_shift = _own_shift(piece)
            if own_shift > shift:
                _read_clock(piece, found, span)
                continue
            kept = self._cache.get(piece.identity, [CLOCK]) if piece.identity is not None else {}
            if CLOCK in kept:
                own = _restored(Clock, kept[CLOCK])
            else:
                own = Clock.over(*piece.span, own_shift)
                _read_clock(piece, own, None)
                if piece.identity is not None:
                    self._cache.put(piece.identity, {CLOCK: _kept(own)})
            found.fold(own)
        return found


def band(of_ranks: Mapping[int, Buckets], span: Span, shift: int) -> Buckets:
    """Returns the buckets over all ranks."""
    found = Buckets.over(span.low, span.high, shift)
    for rank in sorted(of_ranks):
        found.fold(of_ranks[rank])
    return found


def _restored(kind: type[_Block], kept: Kept) -> _Block:
    return kind(kept.first, len(kept.data) // kind.BYTES, kept.shift, kept.data)


def _kept(block: Buckets | Clock) -> Kept:
    return Kept(block.first, block.shift, bytes(block.data))


def _count(span: Span, shift: int) -> int:
    return (span.high >> shift) - (span.low >> shift) + 1


def _in_whole_buckets(span: Span, shift: int) -> Span:
    """To whole buckets."""
    return Span(span.low >> shift << shift, ((span.high >> shift) + 1 << shift) - 1)


def _own_shift(piece: Piece) -> int:
    most = max(_KEPT_BUCKETS, piece.rows // _KEPT_ROWS)
    shift = 0
    while _count(piece.span, shift) > most:
        shift += 1
    return shift


def _overlaps(piece: Piece, span: Span) -> bool:
    return piece.span.low <= span.high and piece.span.high >= span.low


def _rows_in(piece: Piece, span: Span) -> float:
    """About how many rows of a piece lie in a span."""
    low, high = max(piece.span.low, span.low), min(piece.span.high, span.high)
    return piece.rows * (high - low + 1) / (piece.span.high - piece.span.low + 1)


def _read(piece: Piece, into: Mapping[str, Buckets], span: Span | None) -> None:
    for batch in piece.read(["unresolved", *into], span):
        steps = batch.column("step")
        for name, buckets in into.items():
            buckets.add(piece.rank, steps, batch.column(name))
        for name, lost in _unresolved(batch):
            if name in into:
                into[name].add_unresolved(lost)


def _unresolved(batch: pa.RecordBatch) -> Iterator[tuple[str, pa.Array]]:
    """Yields the metrics whose values never came, each with the steps."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = batch.select(["step", "unresolved"]).filter(pc.is_valid(batch.column("unresolved")))
    of: dict[str, list[int]] = {}
    for step, entries in zip(rows.column("step").to_pylist(), rows.column("unresolved").to_pylist(), strict=True):
        for name, _ in entries:
            of.setdefault(name, []).append(step)
    for name, lost in of.items():
        yield name, pa.array(lost, pa.int64())


def _read_clock(piece: Piece, into: Clock, span: Span | None) -> None:
    for batch in piece.read(["timestamp", "epoch"], span):
        into.add(batch.column("step"), batch.column("timestamp"), batch.column("epoch"))
