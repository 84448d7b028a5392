"""Reduces a metric over the ranks to a curve.

Each rank counts once at a step: several records of it there, as of accumulated gradients, of its child processes, or of
an evaluation beside the training, are averaged first.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .steps import scale_of

if TYPE_CHECKING:
    import pyarrow as pa

REDUCTIONS = {"mean": "mean", "min": "min", "max": "max", "sum": "sum", "std": "stddev"}

_CHUNK_ROWS = 1 << 20
"""Rows of the longest rank that are reduced at a time."""


@dataclass
class RankCurve:
    """The values of one rank along a key, each key once, in ascending order."""

    rank: int
    _parts: list[pa.Table] = field(default_factory=list)

    def add(self, keys: pa.Array, values: pa.Array, of: int) -> None:
        """Takes values that are not null, in the order of their records.

        :param of: how many ranks log the metric in their attempt.
        """
        import pyarrow as pa

        if not len(keys):
            return
        count = pa.repeat(pa.scalar(1, pa.int64()), len(keys))
        of_all = pa.repeat(pa.scalar(of, pa.int32()), len(keys))
        part = pa.table([keys, values, count, of_all], names=["key", "value", "count", "of"])
        self._parts.append(_each_key_once(part))

    def table(self) -> pa.Table:
        """The columns: `key`, `value` (the mean), `count` (of the values), `of`."""
        import pyarrow as pa

        table = _each_key_once(pa.concat_tables(self._parts).combine_chunks())
        self._parts = [table]
        return table


def _each_key_once(table: pa.Table) -> pa.Table:
    import pyarrow.compute as pc

    keys = table["key"].combine_chunks()
    if len(keys) < 2 or pc.all(pc.greater(keys.slice(1), keys.slice(0, len(keys) - 1))).as_py():
        return table
    scale = scale_of(table["value"])
    weighted = pc.multiply(pc.multiply(table["value"], scale), table["count"].cast("float64"))
    table = table.set_column(1, "value", weighted)
    found = table.group_by("key").aggregate([("value", "sum"), ("count", "sum"), ("of", "max")]).sort_by("key")
    mean = pc.multiply(pc.divide(found["value_sum"], found["count_sum"].cast("float64")), 1 / scale)
    return (
        found.select(["key", "count_sum", "of_max"]).rename_columns(["key", "count", "of"]).add_column(1, "value", mean)
    )


def reduced(curves: Iterable[RankCurve], reduce: str | None) -> Iterator[pa.Table]:
    """The ranks' curves as one, a chunk at a time, in order of the keys: `key`, `value`, `count`, `ranks`, `of`; where
    it is not reduced `key`, `rank`, `value`."""
    import pyarrow as pa

    tables = {curve.rank: curve.table() for curve in curves}
    if not tables:
        return
    longest = max(tables.values(), key=lambda table: table.num_rows)["key"]
    bounds = [longest[at].as_py() for at in range(_CHUNK_ROWS, len(longest), _CHUNK_ROWS)]
    starts = dict.fromkeys(tables, 0)
    for bound in [*bounds, None]:
        pieces = []
        for rank, table in tables.items():
            start, keys = starts[rank], table["key"]
            end = len(keys) if bound is None else bisect_left(keys, bound, lo=start, key=lambda scalar: scalar.as_py())
            starts[rank] = end
            if end > start:
                piece = table.slice(start, end - start)
                pieces.append(piece.append_column("rank", pa.repeat(pa.scalar(rank, pa.int32()), end - start)))
        if pieces:
            yield _reduced(pieces, reduce)


def _reduced(pieces: list[pa.Table], reduce: str | None) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    if reduce is None:
        table = pa.concat_tables(pieces).select(["key", "rank", "value"])
        return table.sort_by([("key", "ascending"), ("rank", "ascending")]) if len(pieces) > 1 else table
    if len(pieces) == 1:
        (one,) = pieces
        rows = one.num_rows
        ranks = pa.repeat(pa.scalar(1, pa.int64()), rows)
        value = one["value"] if reduce != "std" else _deviation_of_one(one["value"])
        return pa.table([one["key"], value, one["count"], ranks, one["of"]], names=_NAMES)
    table = pa.concat_tables(pieces)
    # Arrow's min and max pass over a NaN.
    table = table.append_column("nan", pc.is_nan(table["value"]))
    how, scale = REDUCTIONS[reduce], 1.0
    if reduce == "mean":
        scale = scale_of(table["value"])
        table = table.set_column(table.schema.get_field_index("value"), "value", pc.multiply(table["value"], scale))
    wanted = [("value", how), ("count", "sum"), ("rank", "count"), ("of", "max"), ("nan", "any")]
    found = table.group_by("key").aggregate(wanted).sort_by("key")
    value = pc.if_else(found["nan_any"], math.nan, pc.multiply(found[f"value_{how}"], 1 / scale))
    return pa.table([found["key"], value, found["count_sum"], found["rank_count"], found["of_max"]], names=_NAMES)


_NAMES = ["key", "value", "count", "ranks", "of"]


def _deviation_of_one(values: pa.ChunkedArray) -> Any:
    import pyarrow.compute as pc

    return pc.if_else(pc.is_finite(values), 0.0, math.nan)


def series_table(
    shown: Callable[[pa.Schema], Iterator[pa.RecordBatch]],
    fields: Callable[[Iterable[str]], pa.Schema],
    metric: str,
    reduce: str | None,
    of: Callable[[int], int],
    *,
    by_attempt: bool,
) -> pa.Table:
    """The series of a metric of the records.

    :param shown: yields the records that are shown, in the columns of a schema.
    :param fields: the schema of some columns.
    :param of: how many ranks log the metric in an attempt.
    :param by_attempt: whether each attempt has a series of its own.
    """
    curves: dict[int, dict[int, RankCurve]] = {}
    for key in ("step", "seq"):
        # Where an attempt's seqs begin in the one series: behind those of the attempts before.
        begun, latest = {0: 0}, 0
        for batch in shown(fields(["attempt", "rank", key, metric])):
            if not batch.num_rows:
                continue
            attempt = batch.column("attempt")[0].as_py()
            if attempt not in begun:
                begun[attempt] = 0 if by_attempt or key == "step" else latest
            if key == "seq":
                latest = max(latest, begun[attempt] + batch.column("seq")[-1].as_py())
            _add(curves, batch, (key, begun[attempt]), metric, of, by_attempt=by_attempt)
        if curves:
            return _as_table(curves, key, metric, reduce, by_attempt=by_attempt)
    return _as_table(curves, "step", metric, reduce, by_attempt=by_attempt)


def validation_series(validations: pa.Table, metric: str, reduce: str | None, *, by_attempt: bool) -> pa.Table:
    """The series of a metric of validations."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = validations.filter(pc.is_valid(validations[metric]))
    unnamed = table.filter(pc.is_null(table["name"]))
    table = unnamed if unnamed.num_rows else table  # those of other data have names
    # An epoch stands in for a step that there is not; the records before it number those that have neither.
    key = next((name for name in ("step", "epoch") if table[name].null_count < table.num_rows), "seq")
    table = table.filter(pc.is_valid(table[key])).sort_by([("timestamp", "ascending")])
    pairs = set(zip(table["attempt"].to_pylist(), table["rank"].to_pylist(), strict=True))
    curves: dict[int, dict[int, RankCurve]] = {}
    for attempt, rank in sorted(pairs):
        mine = table.filter(pc.and_(pc.equal(table["attempt"], attempt), pc.equal(table["rank"], rank)))
        of = sum(1 for other, _ in pairs if other == attempt)
        of_curves = curves.setdefault(attempt if by_attempt else 0, {})
        keys, values = (mine[name].combine_chunks() for name in (key, metric))
        of_curves.setdefault(rank, RankCurve(rank)).add(keys.cast(pa.int64()), values, of)
    return _as_table(curves, key, metric, reduce, by_attempt=by_attempt)


def _add(
    curves: dict[int, dict[int, RankCurve]],
    batch: pa.RecordBatch,
    numbered: tuple[str, int],
    metric: str,
    of: Callable[[int], int],
    *,
    by_attempt: bool,
) -> None:
    import pyarrow.compute as pc

    key, from_ = numbered
    valid = pc.and_(pc.is_valid(batch.column(key)), pc.is_valid(batch.column(metric)))
    mine = batch if pc.all(valid).as_py() else batch.filter(valid)
    if not mine.num_rows:
        return
    # A batch is of one rank of one attempt.
    attempt, rank = mine.column("attempt")[0].as_py(), mine.column("rank")[0].as_py()
    of_curves = curves.setdefault(attempt if by_attempt else 0, {})
    of_curves.setdefault(rank, RankCurve(rank)).add(
        pc.add(mine.column(key), from_) if from_ else mine.column(key), mine.column(metric), of(attempt)
    )


def _as_table(
    curves: dict[int, dict[int, RankCurve]], key: str, metric: str, reduce: str | None, *, by_attempt: bool
) -> pa.Table:
    import pyarrow as pa

    first = [("attempt", pa.int32())] if by_attempt else []
    rank = [("rank", pa.int32())] if reduce is None else []
    columns = [*first, (key, pa.int64()), *rank]
    counts = [] if reduce is None else [("count", pa.int64()), ("ranks", pa.int32()), ("of", pa.int32())]
    others = {name for name, _ in (*columns, *counts)}
    shown = f"metrics/{metric}" if metric in others else metric
    schema = pa.schema([*columns, (shown, pa.float64()), *counts])
    tables = []
    for attempt in sorted(curves):
        for table in reduced(curves.pop(attempt).values(), reduce):
            found = {"attempt": pa.repeat(pa.scalar(attempt, pa.int32()), table.num_rows), key: table["key"]}
            found |= {name: table[name] for name in table.column_names if name not in ("key", "value")}
            found[shown] = table["value"]
            tables.append(pa.table([found[name].cast(schema.field(name).type) for name in schema.names], schema=schema))
    return pa.concat_tables(tables) if tables else schema.empty_table()
