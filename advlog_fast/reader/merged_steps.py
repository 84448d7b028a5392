"""Merges the records of a step into one row."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = ("attempt", "rank", "worker", "pass", "step")
ROW_KEYS = ("attempt", "rank", "worker", "step")
_NUMBER = "pass\0"
"""While they are merged, the column with the pass: no metric can have that name."""
LEFT_OUT = b"rows_without_step"
"""The key of the schema's metadata that counts them."""


@dataclass
class _Place:
    """How far a process has come."""

    rows: pa.Table
    """The rows of its last step, which may go on in the next batch."""
    number: int
    """Of its pass."""


class MergedSteps:
    """Merges batches, which come in the order of the records, one rank after the other. It holds one row a process.

    :param columns: the schema of the columns beside the keys.
    """

    def __init__(self, columns: pa.Schema) -> None:
        import pyarrow as pa

        self.columns = columns
        kinds = {"step": pa.int64()}
        keys = [pa.field(name, kinds.get(name, pa.int32()), nullable=False) for name in KEYS]
        own = {*KEYS, "records"}
        fields = [field.with_name(f"metrics/{field.name}") if field.name in own else field for field in columns]
        self.schema = pa.schema([*keys, pa.field("records", pa.int64(), nullable=False), *fields])
        self.without_step = 0
        self.has_children = False

    def merged(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
        """Yields the merged rows."""
        import pyarrow as pa
        import pyarrow.compute as pc

        places: dict[tuple[int, int, int], _Place] = {}
        for batch in batches:
            table = pa.Table.from_batches([batch])
            stepped = table.filter(pc.is_valid(table["step"]))
            self.without_step += table.num_rows - stepped.num_rows
            if not stepped.num_rows:
                continue
            attempt, rank = stepped["attempt"][0].as_py(), stepped["rank"][0].as_py()
            # The places of a rank before are complete.
            for key in [key for key in places if key[:2] != (attempt, rank)]:
                yield self._merge(places.pop(key).rows)
            workers = pc.unique(stepped["worker"]).to_pylist()
            self.has_children |= workers != [0]
            for worker in workers:
                mine = stepped.filter(pc.equal(stepped["worker"], worker))
                place = places.get((attempt, rank, worker))
                places[attempt, rank, worker] = yield from self._of_process(mine, place)
        for place in places.values():
            yield self._merge(place.rows)

    def _of_process(self, mine: pa.Table, before: _Place | None) -> Generator[pa.Table, None, _Place]:
        """Yields the steps of a process that are complete, and returns its last one."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if before is not None:
            mine = pa.concat_tables([before.rows.drop_columns([_NUMBER]), mine]).combine_chunks()
        steps = mine["step"].combine_chunks()
        back = pc.less(steps.slice(1), steps.slice(0, len(steps) - 1)).cast(pa.int32())
        first = pa.array([1 if before is None else before.number], pa.int32())
        numbers = pc.cumulative_sum(pa.concat_arrays([first, back]))
        mine = mine.append_column(_NUMBER, numbers)
        last = pc.and_(pc.equal(steps, steps[-1]), pc.equal(numbers, numbers[-1]))
        whole = mine.filter(pc.invert(last))
        if whole.num_rows:
            yield self._merge(whole)
        return _Place(mine.filter(last), numbers[-1].as_py())

    def _merge(self, rows: pa.Table) -> pa.Table:
        import pyarrow as pa

        names = self.columns.names
        keys = [_NUMBER if name == "pass" else name for name in KEYS]
        grouped = pa.TableGroupBy(rows, keys, use_threads=False)  # the order of the rows says which value is the last
        found = grouped.aggregate([("step", "count"), *((name, "last") for name in names)])
        # The groups come in any order; the steps of a process rise within a pass.
        found = found.sort_by([(_NUMBER, "ascending"), ("step", "ascending")])
        columns = [*keys, "step_count", *(f"{name}_last" for name in names)]
        return found.select(columns).rename_columns(self.schema.names).cast(self.schema)
