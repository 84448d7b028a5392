"""One run, read back: of all its ranks, finished or still being written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ..exceptions import expected
from ..parquet.columns import STREAMS, is_metric
from ..store.attempts import read_origins, read_run_id
from ..store.paths import RunPaths, check_run
from .events import error_table, event_lines, event_table, validation_table
from .lineage import Attempts, Lineage, chosen
from .lines import json_object
from .overview import overview, step_windows, times_of, walk
from .processes import process_table, read_processes
from .select import chosen_batches
from .steps import STEP_INTERVAL, step_schema, step_table
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import os

    import pyarrow as pa

_REDUCTIONS = {"mean": "mean", "min": "min", "max": "max", "sum": "sum", "std": "stddev"}


def read_run(log_dir: str | os.PathLike[str], name: str = "experiment", *, attempts: Attempts = "chain") -> Run:
    """Open the run `name` in `log_dir` for reading: its metrics, samples, events and summary.

    It looks for the run and opens no file of it: each table is read when it is asked for. The run may be a live one.

    :param attempts: whose metrics and validations are shown. "chain": the newest attempt's and, where it was resumed
        (`load_state_dict`), those of the attempts that it goes on from, each up to that point; where two logged one
        step, the later attempt's. "latest": the newest attempt's alone. "all": every attempt's.
    :raises RunNotFoundError: there is no such directory, or no such run in it; the message names those that there are.
    :raises ValueError: no run can have that name, or `attempts` is none of these.

    >>> log.flush()
    True
    >>> read_run("logs", "run").metrics["loss"].to_pylist()
    [0.5]
    """
    directory = Path(log_dir)
    check_run(directory, name)
    if attempts not in get_args(Attempts):
        raise ValueError(expected("attempts", " or ".join(map(repr, get_args(Attempts))), attempts))
    return Run(directory, name, attempts)


class Run:
    """One run, of all its ranks, as it was when each of its streams was first asked for; a live one is read again to
    see more. Each table is read once.

    A run may be read while it is written: records that are not sealed into Parquet yet come from the spools.
    A table takes the memory of its columns; :meth:`scan` reads in batches what does not fit. Every property raises
    OSError where a file cannot be read, or its checksums do not hold.

    >>> run = read_run("logs", "run")
    >>> run.metrics.select(["step", "loss"]).to_pylist()
    [{'step': 1, 'loss': 0.5}]
    """

    def __init__(self, log_dir: Path, name: str, attempts: Attempts = "chain") -> None:
        self.log_dir = log_dir
        self.name = name
        self._shown = attempts
        self._paths = RunPaths(log_dir, name)
        self._streams: dict[str, StreamReader] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.log_dir)!r}, {self.name!r}, attempts={self._shown!r})"

    @cached_property
    def metrics(self) -> pa.Table:
        """A row for each call that logged metrics, in order of (attempt, rank, seq); float64 metrics.

        `timestamp` is UTC with microseconds. What was not given is null; a NaN was logged as NaN. The map
        `unresolved` says why a value never came. `worker` is 0 but for what a child of the rank logged.

        >>> run.metrics.select(["attempt", "rank", "epoch", "batch", "loss"]).to_pylist()
        [{'attempt': 1, 'rank': 0, 'epoch': 1, 'batch': 1, 'loss': 0.5}]
        """
        return self._table("metrics")

    @cached_property
    def system(self) -> pa.Table:
        """A row for each memory and performance sample (`kind`) of every attempt, ordered and typed as :attr:`metrics`.

        >>> run.system.num_rows  # with memory_interval_s=0 nothing is sampled by itself
        0
        """
        return self._table("system")

    @cached_property
    def validation(self) -> pa.Table:
        """A row for each validation, in the order of time: `epoch` (int64), `is_best`, `best_so_far`, and each metric,
        float64.

        >>> run.validation.column_names
        ['timestamp', 'attempt', 'rank', 'seq', 'epoch', 'is_best', 'best_so_far']
        """
        lines = [line for line in self._event_lines if self._lineage.has_event(line)]
        return validation_table(lines)

    @cached_property
    def events(self) -> pa.Table:
        """Every event of every attempt, in the order of time; `fields` holds what the event says, as JSON.

        >>> run.events["event"].to_pylist()
        ['attempt_start', 'attempt_end']
        """
        return event_table(self._event_lines)

    @cached_property
    def errors(self) -> pa.Table:
        """The errors of every attempt, in the order of time: `id`, `severity`, `type`, `message`, `operation`,
        `category`, how often it was `repeated`, and `context` as JSON.

        >>> import pyarrow.compute as pc
        >>> run.errors.filter(pc.field("severity") == "CRITICAL").num_rows
        0
        """
        return error_table(self._event_lines)

    @cached_property
    def processes(self) -> pa.Table:
        """A row for each process that took part, by (attempt, rank), which joins it with every other table: `run_id`,
        `host`, `pid`, `local_rank`, `world_size`, `started`; `status`; how far it came (`records`, `last_step`,
        `last_record`); and from where its attempt goes on (`resumed_from_run_id`, `resumed_from_attempt`,
        `resumed_from_step`).

        >>> run.processes.select(["rank", "status", "records", "last_step"]).to_pylist()
        [{'rank': 0, 'status': 'completed', 'records': 1, 'last_step': 1}]
        """
        return process_table(self._paths, self.run_id, read_processes(self._paths), self._reader("metrics"))

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What rank 0 wrote last about its latest attempt; empty where it wrote nothing.

        :raises ValueError: the file is no JSON object.

        >>> run.summary["status"], run.summary["total_metrics"]
        ('completed', 1)
        """
        try:
            text = self._paths.summary.read_bytes()
        except FileNotFoundError:
            return {}
        return json_object(text, str(self._paths.summary))

    @property
    def run_id(self) -> str | None:
        """32 hexadecimal digits, the same for every attempt and rank; None where they are lost.

        >>> len(run.run_id)
        32
        """
        return read_run_id(self._paths)

    @cached_property
    def attempts(self) -> list[int]:
        """The numbers of the attempts that left anything behind, whether shown or not.

        >>> run.attempts
        [1]
        """
        found = {line["attempt"] for line in self._event_lines}
        found |= {attempt for attempt, _ in self._paths.claims_of_all_ranks()}
        return sorted(found.union(*(self._reader(stream).attempts for stream in STREAMS)))

    def scan(self, columns: Sequence[str] | None = None, stream: str = "metrics") -> Iterator[pa.RecordBatch]:
        """Iterate over the rows of :attr:`metrics` or :attr:`system` in batches that need not fit into memory together.

        Rows that a fault left in two files, which the tables have once, are not looked for.

        :param columns: which columns, in their order; None for all.
        :param stream: "metrics" or "system".
        :raises ValueError: there is no such stream or column; the message names those that there are.

        >>> [batch.num_rows for batch in run.scan(["step", "loss"])]
        [1]
        """
        if stream not in STREAMS:
            raise ValueError(expected("stream", " or ".join(map(repr, STREAMS)), stream))
        self._check_columns(columns or (), stream)
        reader = self._reader(stream)
        return self._shown_batches(stream, reader.schema if columns is None else reader.fields(columns))

    def series(self, metric: str, reduce: str | None = "mean") -> pa.Table:
        """Reduce a metric over the ranks to a curve over the steps, in their order.

        The columns are `step`, the value over all ranks under the metric's name, float64, and `count`, of how many.
        Rows without a step are left out; a NaN shows as NaN. Where every attempt is shown (`attempts="all"`), each has
        a series of its own, named by the column `attempt`. Only these columns are read.

        :param reduce: "mean", "min", "max", "sum", "std"; None for a row a rank: `step`, `rank`, the metric.
        :raises ValueError: there is no such reduction or metric.

        >>> run.series("loss").to_pylist()
        [{'step': 1, 'loss': 0.5, 'count': 1}]
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if reduce is not None and reduce not in _REDUCTIONS:
            raise ValueError(expected("reduce", " or ".join([*map(repr, _REDUCTIONS), "None"]), reduce))
        keys = ["attempt", "step"] if self._shown == "all" else ["step"]
        self._check_metric(metric)
        schema = self._reader("metrics").fields([*keys, "rank", metric])
        table = pa.Table.from_batches(self._shown_batches("metrics", schema), schema)
        table = table.filter(pc.and_(pc.is_valid(table["step"]), pc.is_valid(table[metric])))
        if reduce is None:
            return table.sort_by([(name, "ascending") for name in (*keys, "rank")])
        values, how = table[metric], _REDUCTIONS[reduce]
        # Arrow's min and max pass over a NaN.
        table = table.select(keys).append_column("value", values).append_column("nan", pc.is_nan(values))
        reduced = table.group_by(keys).aggregate([("value", how), ("value", "count"), ("nan", "any")])
        shown = pc.if_else(reduced["nan_any"], math.nan, reduced[f"value_{how}"])
        reduced = reduced.select(keys).append_column(metric, shown).append_column("count", reduced["value_count"])
        return reduced.sort_by([(name, "ascending") for name in keys])

    def step_times(self, metric: str | None = None) -> pa.Table:
        """Compare the ranks' times step by step: a row for each step that all ranks of an `attempt` have.

        `min`, `mean` and `max` of its time over the ranks, in seconds, `skew` (`max` over `mean`, 1.0 for even ranks),
        the `slowest` rank and the number of `ranks`.

        :param metric: which time; None for `batch_time`, or, where none was logged, the interval from one record of a
            rank to its next (`step_interval`). Ranks that wait for each other in every step have the same interval:
            what tells them apart is a time without that wait.
        :raises ValueError: there is no such metric.

        >>> run.step_times().column_names
        ['attempt', 'step', 'min', 'mean', 'max', 'skew', 'slowest', 'ranks']
        """
        import pyarrow as pa

        if metric is not None and metric != STEP_INTERVAL:
            self._check_metric(metric)
        found = [step_schema().insert(0, pa.field("attempt", pa.int32())).empty_table()]
        reader = self._reader("metrics")
        if metric is None:
            metric = "batch_time" if "batch_time" in times_of(reader, self._lineage) else STEP_INTERVAL
        for attempt, window in step_windows(reader, self._lineage, [metric]):
            per_step = step_table(window, metric)
            if per_step is not None:
                column = pa.repeat(pa.scalar(attempt, pa.int32()), per_step[0].num_rows)
                found.append(per_step[0].add_column(0, "attempt", column))
        return pa.concat_tables(found)

    def stragglers(self, ratio: float = 1.1) -> pa.Table:
        """Find the ranks that hold the others up, the worst first.

        The columns: `rank`, by which `metric` (`batch_time`, `data_time`, or `step_interval` where neither was logged),
        `ratio` of its mean time to that of the others, `excess_s` a step, and the share of steps at which it was the
        slowest. A rank is named that is slowest half as often again as chance would have it, and loses a twentieth of a
        step by it.

        :param ratio: how many times as long as the others it has to take, above 1.
        :raises ValueError: `ratio` is not above 1.

        >>> run.stragglers()["rank"].to_pylist()  # one rank has no others to hold up
        []
        """
        import pyarrow as pa

        _check_ratio(ratio)
        reader = self._reader("metrics")
        found = walk(reader, self._lineage, times_of(reader, self._lineage)).stragglers(ratio)
        names = [("rank", pa.int32()), ("metric", pa.string())]
        names += [(name, pa.float64()) for name in ("ratio", "excess_s", "slowest_share")]
        return pa.Table.from_pylist([dataclasses.asdict(each) for each in found], pa.schema(names))

    def overview(self, ratio: float = 1.1) -> dict[str, Any]:
        """Gather what `advlog show` shows, times in seconds, in one walk over the steps.

        The run's `status`, how many `records` it has, its `attempts` and the `shown_attempts` among them; the newest
        attempt's `ranks` with how far each came, those that are `missing`, `stopped_early` or fell `silent`; of the
        shown ones the `loss` over the steps in the mean of the ranks, `step_times` and `stragglers`; the number of
        `errors` of all attempts; from the summaries of the newest attempt's ranks, which a live one renews each 10 s,
        the `metrics` merged, the values `unresolved` by reason, and rank 0's `best` validation.

        :param ratio: as in :meth:`stragglers`.
        :raises ValueError: `ratio` is not above 1.

        >>> overview = run.overview()
        >>> overview["status"], overview["loss"]["lowest"]
        ('completed', {'step': 1, 'mean': 0.5})
        """
        _check_ratio(ratio)
        errors = self.errors.group_by("attempt").aggregate([("attempt", "count")]).to_pylist()
        by_attempt = {row["attempt"]: row["attempt_count"] for row in errors}
        return overview(self._paths, self._reader("metrics"), self._lineage, self.processes, by_attempt, ratio)

    # -- what these are made of ----------------------------------------------------------------------------------

    @cached_property
    def _event_lines(self) -> list[dict[str, Any]]:
        return event_lines(self._paths)

    @cached_property
    def _lineage(self) -> Lineage:
        return chosen(self._shown, self.attempts, read_origins(self._paths), self.run_id)

    def _reader(self, stream: str) -> StreamReader:
        if stream not in self._streams:
            self._streams[stream] = StreamReader(self._paths, stream)
        return self._streams[stream]

    def _shown_batches(self, stream: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        return chosen_batches(self._reader(stream), self._lineage if stream == "metrics" else None, schema)

    def _table(self, stream: str) -> pa.Table:
        import pyarrow as pa

        schema = self._reader(stream).schema
        return _ordered(pa.Table.from_batches(self._shown_batches(stream, schema), schema))

    def _check_columns(self, columns: Sequence[str], stream: str) -> None:
        """:raises ValueError: one is nowhere in the stream, which has others."""
        reader = self._reader(stream)
        for name in columns:
            if reader.keys and not reader.has(name):
                raise ValueError(expected("columns", f"some of {', '.join(reader.schema.names)}", name))

    def _check_metric(self, metric: str) -> None:
        """:raises ValueError: it is no metric of the run, which has others."""
        reader = self._reader("metrics")
        may_be_metric = is_metric(reader.fields([metric]).field(0))
        if not may_be_metric or (reader.keys and not reader.has(metric)):
            metrics = [field.name for field in reader.schema if is_metric(field)]
            raise ValueError(expected("metric", f"one of {', '.join(metrics)}", metric))


def _check_ratio(ratio: float) -> None:
    if not ratio > 1:
        raise ValueError(expected("ratio", "a number above 1", ratio))


def _ordered(table: pa.Table) -> pa.Table:
    """The table by (attempt, rank, seq), each once. Files come in that order, so it is rarely moved."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if table.num_rows < 2 or pc.all(_steps(table, pc.greater)).as_py():
        return table
    table = table.sort_by([("attempt", "ascending"), ("rank", "ascending"), ("seq", "ascending")])
    return table.filter(pa.concat_arrays([pa.array([True]), _steps(table, pc.not_equal)]))


def _steps(table: pa.Table, seq_test: Any) -> pa.Array:
    """Whether each row but the first comes after the one before it: by attempt, rank, then `seq_test`."""
    import pyarrow.compute as pc

    ends = []
    for name in ("attempt", "rank", "seq"):
        column = table.column(name).combine_chunks()
        ends.append((column.slice(1), column.slice(0, len(column) - 1)))
    (attempt, attempt0), (rank, rank0), (seq, seq0) = ends
    same_rank = pc.and_(pc.equal(rank, rank0), seq_test(seq, seq0))
    same_attempt = pc.and_(pc.equal(attempt, attempt0), pc.or_(pc.greater(rank, rank0), same_rank))
    return pc.or_(pc.greater(attempt, attempt0), same_attempt)
