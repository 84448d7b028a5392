"""Compares the ranks step by step: the time of each, the slow ranks, the loss.

It reads windows of steps, of all ranks at a time, so memory does not depend on the length of the run. For each rank one
file is open, with one decoded page a column.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

STEP_INTERVAL = "step_interval"
"""Seconds from one record of a rank to its next: the time of a step if none was logged."""

INTERVAL_COLUMN = "step interval\0"
"""The column with it: no metric can have that name."""

_LARGE = 1e290
SMALL = 2.0**-60
"""The mean of values that have diverged is a float, although their sum may be none: they are summed so many times
smaller, which as a power of two rounds nothing."""

_WINDOW_ROWS = 1 << 22
"""The rows in a window, of all ranks together."""
_LEAST_ROWS = 1 << 12


class RankSteps:
    """The records of one rank, in the order of their steps as far as they were logged so.

    :param batches: `step`, never null, and columns of float64.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._held: list[pa.RecordBatch] = []
        self._exhausted = False

    def fill(self, rows: int) -> None:
        """Holds so many records, or all that are left."""
        held = sum(batch.num_rows for batch in self._held)
        while held < rows and not self._exhausted:
            batch = next(self._batches, None)
            if batch is None:
                self._exhausted = True
            elif batch.num_rows:
                self._held.append(batch)
                held += batch.num_rows

    def last(self) -> int | None:
        """The last step whose records are all held, as far as is known; None if no records are held."""
        import pyarrow.compute as pc

        greatest = max((pc.max(batch.column("step")).as_py() for batch in self._held), default=None)
        # The next batch may go on with the step that this one ends with.
        return greatest if greatest is None or self._exhausted else greatest - 1

    def take(self, up_to: int) -> pa.Table | None:
        """Those held whose step is not above `up_to`, a row a step; None if there is none."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self._held:
            return None
        table = pa.Table.from_batches(self._held).combine_chunks()
        taken = pc.less_equal(table["step"], up_to)
        self._held = table.filter(pc.invert(taken)).to_batches()
        table = table.filter(taken)
        return _row_a_step(table) if table.num_rows else None


def _row_a_step(table: pa.Table) -> pa.Table:
    """Merges records of the same step, such as the batches of an accumulated gradient: the sum of the times, the mean
    of everything else."""
    import pyarrow as pa
    import pyarrow.compute as pc

    steps = table["step"].combine_chunks()
    if pc.all(pc.greater(steps.slice(1), steps.slice(0, max(len(steps) - 1, 0)))).as_py() is not False:
        return table
    columns = [name for name in table.column_names if name != "step"]
    how = ["sum" if name == INTERVAL_COLUMN or name.endswith("_time") else "mean" for name in columns]
    scales = [scale_of(table[name]) if each == "mean" else 1.0 for name, each in zip(columns, how, strict=True)]
    for name, scale in zip(columns, scales, strict=True):
        scaled = pc.multiply(table[name], scale)
        table = table.set_column(table.schema.get_field_index(name), name, scaled)
    grouped = table.group_by("step").aggregate(list(zip(columns, how, strict=True))).sort_by("step")
    reduced = [
        pc.multiply(grouped[f"{name}_{each}"], 1 / scale)
        for name, each, scale in zip(columns, how, scales, strict=True)
    ]
    return pa.table([grouped["step"], *reduced], names=["step", *columns])


def rows_a_rank(ranks: int) -> int:
    """How many records of each rank a window holds."""
    return max(_WINDOW_ROWS // max(ranks, 1), _LEAST_ROWS)


def windows(ranks: Mapping[int, RankSteps]) -> Iterator[dict[int, pa.Table]]:
    """The records of all ranks, a window of steps at a time: by rank, where it has any in the window. From where one
    ends, the others go on without it."""
    rows = rows_a_rank(len(ranks))
    while True:
        for steps in ranks.values():
            steps.fill(rows)
        lasts = {rank: last for rank, steps in ranks.items() if (last := steps.last()) is not None}
        if not lasts:
            return
        # As far as all of them reach: from where one ends, the others are compared without it.
        up_to = min(lasts.values())
        taken = {rank: ranks[rank].take(up_to) for rank in lasts}
        window = {rank: table for rank, table in taken.items() if table is not None}
        if window:
            yield window
        else:
            rows *= 2  # one step has more of them


def aligned(
    window: Mapping[int, pa.Table], column: str, *, finite: bool = True
) -> tuple[pa.Array, dict[int, pa.Array]]:
    """Returns the steps at which every rank that has the column in this window has a value, and these values, by rank.

    :param finite: whether NaN and the infinities count as missing.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    given: dict[int, tuple[pa.Array, pa.Array]] = {}
    for rank, table in window.items():
        steps, values = table["step"].combine_chunks(), table[column].combine_chunks()
        is_one = pc.fill_null(pc.is_finite(values), False) if finite else pc.is_valid(values)
        if not pc.all(is_one).as_py():
            steps, values = steps.filter(is_one), values.filter(is_one)
        if len(steps):
            given[rank] = (steps, values)
    common: pa.Array = next(iter(given.values()))[0] if given else pa.array([], pa.int64())
    for steps, _ in given.values():
        if not steps.equals(common):
            common = common.filter(pc.is_in(common, value_set=steps))
    return common, {
        rank: values if steps.equals(common) else values.filter(pc.is_in(steps, value_set=common))
        for rank, (steps, values) in given.items()
    }


@dataclass
class RankTime:
    """How long a rank took, and how long the others took at the steps that it has together with them. In seconds."""

    rank: int
    steps: int = 0
    own_s: float = 0.0
    """Its own time over all of its steps together."""
    compared: int = 0
    """The steps that it has together with others."""
    compared_s: float = 0.0
    """Its own time over these steps together."""
    others_s: float = 0.0
    """The mean time of the others, over these steps together."""
    slowest: int = 0
    """At how many of them no rank took longer."""

    @property
    def mean_s(self) -> float:
        return self.own_s / self.steps if self.steps else math.nan

    @property
    def ratio(self) -> float:
        """Its time over that of the others, in the mean; NaN where there are no others."""
        return self.compared_s / self.others_s if self.others_s > 0 else math.nan

    @property
    def excess_s(self) -> float:
        """What it takes longer than the others, in the mean."""
        return (self.compared_s - self.others_s) / self.compared if self.compared else math.nan

    @property
    def slowest_share(self) -> float:
        return self.slowest / self.compared if self.compared else 0.0


@dataclass
class StepTimes:
    """The time of a step over the ranks, over all steps that were seen. In seconds."""

    metric: str
    column: str = ""
    """The column that has it, if it is another."""
    steps: int = 0
    min_s: float = math.inf
    max_s: float = 0.0
    mean_sum_s: float = 0.0
    skew_sum: float = 0.0
    ranks: dict[int, RankTime] = field(default_factory=dict)

    @property
    def mean_s(self) -> float:
        """The mean over ranks and steps."""
        return self.mean_sum_s / self.steps if self.steps else math.nan

    @property
    def skew(self) -> float:
        """The slowest rank's time over the mean of all, 1.0 for even ranks; the mean over the steps."""
        return self.skew_sum / self.steps if self.steps else math.nan

    def add(self, window: Mapping[int, pa.Table]) -> None:
        """Counts a window."""
        import pyarrow.compute as pc

        per_step = step_table(window, self.column or self.metric)
        if per_step is None:
            return
        table, values = per_step
        self.steps += table.num_rows
        self.min_s = min(self.min_s, pc.min(table["min"]).as_py())
        self.max_s = max(self.max_s, pc.max(table["max"]).as_py())
        self.mean_sum_s += pc.sum(table["mean"]).as_py()
        self.skew_sum += pc.sum(table["skew"]).as_py() or 0.0
        others = len(values) - 1
        all_s = pc.sum(table["mean"]).as_py() * len(values)
        for rank, own in values.items():
            told = self.ranks.setdefault(rank, RankTime(rank))
            own_s = pc.sum(own).as_py()
            told.steps += len(own)
            told.own_s += own_s
            if others:
                told.compared += len(own)
                told.compared_s += own_s
                told.others_s += (all_s - own_s) / others
                told.slowest += pc.sum(pc.equal(own, table["max"].combine_chunks())).as_py()


def step_schema() -> pa.Schema:
    """Returns the schema of the tables that :func:`step_table` makes."""
    import pyarrow as pa

    times = [(name, pa.float64()) for name in ("min", "mean", "max", "skew")]
    return pa.schema([("step", pa.int64()), *times, *((name, pa.int32()) for name in ("slowest", "ranks", "of"))])


def step_table(
    window: Mapping[int, pa.Table], metric: str, of: int | None = None
) -> tuple[pa.Table, dict[int, pa.Array]] | None:
    """A row a step: `step`, `min`, `mean` and `max` over the ranks, `skew` (`max` over `mean`), the `slowest` rank, the
    number of `ranks`, and how many log the metric in the attempt (`of`); and each rank's own values. None where the
    window has none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    steps, values = aligned(window, metric)
    if not len(steps):
        return None
    columns = list(values.values())
    mean = _mean(columns)
    greatest = pc.max_element_wise(*columns)
    slowest = pa.repeat(pa.scalar(-1, pa.int32()), len(steps))
    for rank, column in values.items():
        slowest = pc.if_else(pc.equal(column, greatest), pa.scalar(rank, pa.int32()), slowest)
    skew = pc.if_else(pc.greater(mean, 0.0), pc.divide(greatest, mean), 1.0)
    count = pa.repeat(pa.scalar(len(columns), pa.int32()), len(steps))
    all_of = count if of is None else pa.repeat(pa.scalar(of, pa.int32()), len(steps))
    made = [steps, pc.min_element_wise(*columns), mean, greatest, skew, slowest, count, all_of]
    return pa.Table.from_arrays(made, schema=step_schema()), values


def _mean(columns: list[pa.Array]) -> pa.Array:
    """The mean over the ranks, step by step."""
    import pyarrow.compute as pc

    if len(columns) == 1:
        return columns[0]
    scale = min(map(scale_of, columns))
    scaled = columns if scale == 1.0 else [pc.multiply(column, scale) for column in columns]
    mean = pc.divide(reduce(pc.add, scaled), float(len(columns)))
    return mean if scale == 1.0 else pc.multiply(mean, 1 / scale)


def scale_of(values: pa.Array | pa.ChunkedArray) -> float:
    """Returns how many times smaller values are summed: see `SMALL`. Only where they are so large: small ones would be
    rounded."""
    import pyarrow.compute as pc

    ends = [end for end in pc.min_max(values).as_py().values() if end is not None]
    return 1.0 if all(abs(end) < _LARGE for end in ends) else SMALL


@dataclass(frozen=True)
class Straggler:
    """A rank that is slower than the others."""

    rank: int
    metric: str
    """The time compared: `batch_time`, `data_time` or `step_interval`."""
    ratio: float
    """Its mean time over the mean of the others."""
    excess_s: float
    """The extra time, in seconds a step."""
    slowest_share: float
    """The share of the steps that it had together with others at which it was the slowest."""


def find_stragglers(times: Iterable[StepTimes], ratio: float, step_s: float) -> list[Straggler]:
    """Returns the ranks whose mean time is at least `ratio` times that of the others, that are the slowest at a share
    of the steps of at least 1.5 / ranks (at most 0.5), and that lose at least a twentieth of a step by it. Less is
    noise, or costs nothing."""
    found: list[Straggler] = []
    for each in times:
        least_share = min(0.5, 1.5 / max(len(each.ranks), 1))
        found += [
            Straggler(told.rank, each.metric, told.ratio, told.excess_s, told.slowest_share)
            for told in each.ranks.values()
            if told.ratio >= ratio and told.slowest_share >= least_share and told.excess_s >= step_s / 20
        ]
    return sorted(found, key=lambda straggler: -straggler.excess_s)


@dataclass
class Course:
    """A metric's mean over the ranks along the steps: its first, last and lowest value, of the steps at which every
    rank that logs it in the attempt has a value. If one rank has NaN, so has the mean."""

    metric: str
    first: tuple[int, float] | None = None
    """Step and value."""
    last: tuple[int, float] | None = None
    lowest: tuple[int, float] | None = None

    def add(self, window: Mapping[int, pa.Table], of: Collection[int]) -> None:
        """Counts a window.

        :param of: the ranks that log the metric in the attempt.
        """
        import pyarrow.compute as pc

        if not of or not set(window).issuperset(of):
            return
        steps, values = aligned({rank: window[rank] for rank in of}, self.metric, finite=False)
        if not len(steps) or len(values) < len(of):
            return
        means = _mean(list(values.values()))
        self.first = self.first or (steps[0].as_py(), means[0].as_py())
        self.last = (steps[-1].as_py(), means[-1].as_py())
        lowest = pc.min(means).as_py()
        if lowest is not None and not math.isfinite(lowest):
            lowest = pc.min(means.filter(pc.is_finite(means))).as_py()
        if lowest is not None and (self.lowest is None or lowest < self.lowest[1]):
            self.lowest = (steps[pc.index(means, lowest).as_py()].as_py(), lowest)


@dataclass(frozen=True)
class Moment:
    """When a record was logged."""

    micros: int
    """Since 1970."""
    seq: int


def with_intervals(
    batch: pa.RecordBatch, before: Moment | None, jumps: Sequence[tuple[int, int]] = ()
) -> tuple[pa.RecordBatch, Moment]:
    """The batch with the intervals between its records in place of its `timestamp` and `seq`, and the moment of its
    last one. An interval is null where the wall clock was set meanwhile, or goes back.

    :param batch: not empty.
    :param before: the moment of the record before the first; None for none.
    :param jumps: the first and the last record before which a jump of the clock may lie.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    times, seqs = batch.column("timestamp").cast(pa.int64()), batch.column("seq")

    def one_earlier(values: pa.Array, first: int | None) -> pa.Array:
        return pa.concat_arrays([pa.array([first], pa.int64()), values.slice(0, len(values) - 1)])

    earlier = one_earlier(times, None if before is None else before.micros)
    # Unsafe: times of different centuries are further apart than float64 has whole microseconds.
    seconds = pc.divide(pc.subtract(times, earlier).cast(pa.float64(), safe=False), 1e6)
    kept = pc.greater_equal(seconds, 0.0)
    for first, last in jumps:
        previous = one_earlier(seqs, None if before is None else before.seq)
        kept = pc.and_(kept, pc.invert(pc.and_(pc.less(previous, last), pc.greater_equal(seqs, first))))
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    del columns["timestamp"], columns["seq"]
    columns[INTERVAL_COLUMN] = pc.if_else(kept, seconds, None)
    moment = Moment(times[-1].as_py(), seqs[-1].as_py())
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns)), moment
