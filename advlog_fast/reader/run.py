"""Reads one run with all its ranks, finished or live."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, get_args

from ..exceptions import expected
from ..parquet.columns import STREAMS, is_metric
from ..records import INTEGER_COLUMNS
from .events import event_table, validated
from .lineage import Attempts
from .looks import Looks
from .merged_steps import KEYS, LEFT_OUT, ROW_KEYS, MergedSteps
from .overview import check_ratio, overview, walk
from .places import located
from .series import REDUCTIONS, series_table, validation_series
from .steps import INTERVAL_COLUMN, STEP_INTERVAL, step_schema, step_table
from .story import story

if TYPE_CHECKING:
    import os

    import pyarrow as pa


def read_run(log_dir: str | os.PathLike[str], name: str = "experiment", *, attempts: Attempts = "chain") -> Run:
    """Open the run `name` in `log_dir` for reading: its metrics, samples, events and summary.

    It only looks for the run; each table is read when you first ask for it. The run may be live.

    :param log_dir: a folder, or the URL of an `advlog mirror`: then it downloads the run as it is there now, but for
        what is in your cache, and raises OSError if it cannot.
    :param attempts: which attempts' metrics and validations to show. "chain": the newest attempt and, if it was resumed
        (`load_state_dict`), the attempts before it, each up to the record at which the state was taken.
        "latest": the newest attempt. "all": every attempt.
    :raises RunNotFoundError: there is no such directory, or no such run in it; the message lists the runs in it.
    :raises ValueError: no run can have that name, or `attempts` is none of these.

    >>> log.flush()
    True
    >>> read_run("logs", "run").metrics["loss"].to_pylist()
    [0.5]
    """
    directory, view = located(log_dir, name)
    if attempts not in get_args(Attempts):
        raise ValueError(expected("attempts", " or ".join(map(repr, get_args(Attempts))), attempts))
    return Run(directory, name, attempts, view)


class Run(Looks):
    """One run with all its ranks. Each table is read once, when you first ask for it; to see more of a live run, call
    :func:`read_run` again.

    You can read a live run: records that are not sealed into Parquet yet come from the spools. A table takes the memory
    of its columns; :meth:`scan` reads in batches what does not fit. Every property raises OSError if a file cannot be
    read, or its checksums do not match.

    >>> run = read_run("logs", "run")
    >>> run.metrics.select(["step", "loss"]).to_pylist()
    [{'step': 1, 'loss': 0.5}]
    """

    @cached_property
    def metrics(self) -> pa.Table:
        """One row for each call that logged metrics, ordered by (attempt, rank, seq); metrics are float64.

        `timestamp` is UTC with microseconds. A value that was not logged is null; NaN means that NaN was logged. The
        map `unresolved` says why a value never arrived. `worker` is 0, except in records of the rank's child processes.

        >>> run.metrics.select(["attempt", "rank", "epoch", "batch", "loss"]).to_pylist()
        [{'attempt': 1, 'rank': 0, 'epoch': 1, 'batch': 1, 'loss': 0.5}]
        """
        return self._table("metrics")

    @cached_property
    def system(self) -> pa.Table:
        """One row for each memory or performance sample (`kind`) of every attempt, ordered and typed like
        :attr:`metrics`.

        >>> run.system.num_rows  # with memory_interval_s=0 nothing is sampled by itself
        0
        """
        return self._table("system")

    @cached_property
    def validation(self) -> pa.Table:
        """One row for each validation, by attempt and time: `epoch` and `step` (int64), `name`, `is_best` (the program
        said so), `best_so_far` (the logger does), and each metric, float64.

        >>> run.validation.column_names
        ['timestamp', 'attempt', 'rank', 'seq', 'epoch', 'step', 'name', 'is_best', 'best_so_far']
        """
        return self._validations

    @cached_property
    def events(self) -> pa.Table:
        """Every event of every attempt that rotation has not removed, by attempt and time (so are errors):
        `event` is its name, `user_event` says whether it is one of `log_event`, `fields` holds its own fields, as JSON.

        >>> run.events["event"].to_pylist()
        ['attempt_start', 'attempt_end']
        """
        return event_table(self._event_lines)

    @cached_property
    def errors(self) -> pa.Table:
        """The errors of every attempt, in order of time: `id`, `severity`, `type`, `message`, `operation`, `category`,
        how often it was `repeated`, and `context` as JSON.

        >>> import pyarrow.compute as pc
        >>> run.errors.filter(pc.field("severity") == "CRITICAL").num_rows
        0
        """
        return self._errors

    @cached_property
    def processes(self) -> pa.Table:
        """One row for each process that logged, by (attempt, rank), the key that joins it with the other tables:
        `run_id`, `host`, `pid`, `local_rank`, `world_size`, `started`; `status`; its progress (`records`, `last_step`,
        `last_record`); and where its attempt was resumed from (`resumed_from_run_id`, `resumed_from_attempt`,
        `resumed_from_step`).

        >>> run.processes.select(["rank", "status", "records", "last_step"]).to_pylist()
        [{'rank': 0, 'status': 'completed', 'records': 1, 'last_step': 1}]
        """
        return self._processes

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The latest summary of rank 0, of its newest attempt; empty if rank 0 wrote none.

        :raises ValueError: the file is not a JSON object.

        >>> run.summary["status"], run.summary["total_metrics"]
        ('completed', 1)
        """
        return self._summary

    def scan(self, columns: Sequence[str] | None = None, stream: str = "metrics") -> Iterator[pa.RecordBatch]:
        """Iterate over the rows of :attr:`metrics` or :attr:`system` in batches, for a run that does not fit into
        memory.

        Unlike the tables, it does not remove duplicates that a fault left in two files.

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
        """Reduce a metric over the ranks to a curve over the steps, in order of the steps.

        The columns are `step`, the reduced value under the metric's name (float64; `metrics/` and the name, where that
        is the name of another column), `count` (the values), `ranks` (that have one at this step), and `of` (the ranks
        that log the metric in the attempt at all). Several records of a rank at a step are averaged first, so that each
        rank counts once. Rows without a step are left out; where no row of the metric has one, `seq` stands in for
        `step`. If a value is NaN, so is the result. A metric that only validations have has the series of these, over
        `epoch` where they have no step, and without those that have a `name`, where others have none. With
        `attempts="all"` each attempt has a series of its own, and the column `attempt` names it. It reads these columns
        alone, and takes about 40 bytes of memory a row.

        :param reduce: "mean", "min", "max", "sum", "std" (of the population), each of the ranks' values; None for one
            row for each step and rank: `step`, `rank`, the metric.
        :raises ValueError: there is no such reduction or metric.

        >>> run.series("loss").to_pylist()
        [{'step': 1, 'loss': 0.5, 'count': 1, 'ranks': 1, 'of': 1}]
        """
        if reduce is not None and reduce not in REDUCTIONS:
            raise ValueError(expected("reduce", " or ".join([*map(repr, REDUCTIONS), "None"]), reduce))
        by_attempt = self._shown == "all"
        if metric in validated(self.validation) and not self._reader("metrics").has_values(metric):
            return validation_series(self.validation, metric, reduce, by_attempt=by_attempt)
        self._check_metric(metric)
        of = cache(lambda attempt: len(self._steps.ranks_with(attempt, metric)))
        shown = lambda schema: self._shown_batches("metrics", schema)  # noqa: E731
        return series_table(shown, self._reader("metrics").fields, metric, reduce, of, by_attempt=by_attempt)

    def by_step(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Merge the records of a step into one row: what several calls logged at it, such as the losses of two models,
        or an evaluation beside the training.

        The columns are `attempt`, `rank`, `worker`, `pass`, `step`, the number of `records`, and each metric: its last
        value at the step that is not null. A process whose steps go back begins a new `pass`, from 1. Rows without a
        step are left out; the schema's metadata count them as `rows_without_step`. It takes the memory of the rows that
        it returns.

        :param columns: which metrics and integer columns; None for all metrics, `epoch` and `batch`.
        :raises ValueError: there is no such column.

        >>> run.by_step(["loss"]).to_pylist()
        [{'attempt': 1, 'rank': 0, 'worker': 0, 'pass': 1, 'step': 1, 'records': 1, 'loss': 0.5}]
        """
        import pyarrow as pa

        reader = self._reader("metrics")
        if columns is None:
            metrics = [field.name for field in reader.schema if is_metric(field)]
            columns = ["epoch", "batch", *metrics]
        columns = list(dict.fromkeys(columns))
        self._check_columns(columns, "metrics")
        wanted = [field.name for field in reader.schema if is_metric(field) or field.name in INTEGER_COLUMNS]
        for name in columns:
            if name not in wanted and name not in ROW_KEYS:
                raise ValueError(expected("columns", f"some of {', '.join(wanted)}", name))
        merging = MergedSteps(reader.fields([name for name in columns if name not in ROW_KEYS]))
        read = reader.fields([*ROW_KEYS, *merging.columns.names])
        rows = list(merging.merged(self._shown_batches("metrics", read)))
        table = pa.concat_tables(rows) if rows else merging.schema.empty_table()
        if merging.has_children:  # their rows lie among those of their parent
            table = table.sort_by([(name, "ascending") for name in KEYS])
        return table.replace_schema_metadata({LEFT_OUT: str(merging.without_step)})

    def step_times(self, metric: str | None = None) -> pa.Table:
        """Compare the ranks' times step by step, with one row for each step that all ranks of an `attempt` have; from
        where one ends, for each that all others have.

        The columns: `min`, `mean` and `max` of the step's time over the ranks, in seconds; `skew` (`max` over `mean`,
        1.0 if the ranks are even); the `slowest` rank; the number of `ranks`; and `of`, the ranks that log the time in
        the attempt. Several records of a rank at a step count together: their times are added, other metrics averaged.

        :param metric: the time to compare; None for `batch_time` or, if no rank logged that, the interval from one
            record of a rank to its next (`step_interval`, unless the run has a metric of that name), but for those in
            which the wall clock was set. Ranks that wait for each other in every step have the same interval: to tell
            them apart, log a time without that wait.
        :raises ValueError: there is no such metric.

        >>> run.step_times().column_names
        ['attempt', 'step', 'min', 'mean', 'max', 'skew', 'slowest', 'ranks', 'of']
        """
        import pyarrow as pa

        shown = self._steps
        if metric is None:
            metric = "batch_time" if "batch_time" in shown.times() else INTERVAL_COLUMN
        elif metric == STEP_INTERVAL and not self._reader("metrics").has(metric):
            metric = INTERVAL_COLUMN
        else:
            self._check_metric(metric)
        found = [step_schema().insert(0, pa.field("attempt", pa.int32())).empty_table()]
        of = cache(lambda attempt: shown.ranks_with(attempt, metric))
        for attempt, window in shown.windows([metric]):
            per_step = step_table(window, metric, len(of(attempt)) or len(self._reader("metrics").ranks(attempt)))
            if per_step is not None:
                column = pa.repeat(pa.scalar(attempt, pa.int32()), per_step[0].num_rows)
                found.append(per_step[0].add_column(0, "attempt", column))
        return pa.concat_tables(found)

    def stragglers(self, ratio: float = 1.1) -> pa.Table:
        """Find the ranks that slow the others down, the worst first.

        The columns: `rank`; the `metric` compared (`batch_time`, `data_time`, or `step_interval` if neither was
        logged); `ratio`, its mean time over that of the others; `excess_s`, the extra seconds a step; `slowest_share`,
        the share of steps at which it was the slowest. A rank is listed if it is the slowest at a share of the steps of
        at least 1.5 / ranks (0.5 for two ranks), and loses at least 5 % of a step by it.

        :param ratio: list ranks that take at least this many times as long as the others; above 1.
        :raises ValueError: `ratio` is not above 1.

        >>> run.stragglers()["rank"].to_pylist()  # one rank has no others to hold up
        []
        """
        import pyarrow as pa

        check_ratio(ratio)
        found = walk(self._steps).stragglers(ratio)
        names = [("rank", pa.int32()), ("metric", pa.string())]
        names += [(name, pa.float64()) for name in ("ratio", "excess_s", "slowest_share")]
        return pa.Table.from_pylist([dataclasses.asdict(each) for each in found], pa.schema(names))

    def overview(self, ratio: float = 1.1) -> dict[str, Any]:
        """Gather what `advlog show` shows, and the best validation, in one pass over the steps; times are in seconds.

        Of the run: whether its `private_folder` is there, `status`, the number of `records`, `attempts`, the
        `shown_attempts` among them, and the number of `errors`. Of the newest attempt: its `ranks` with their progress,
        and those that are `missing`, `stopped_early`, `silent`, or killed and `not_recovered` yet. Of the shown
        attempts: the `loss` over the steps, as mean of the ranks, `step_times` and `stragglers`. From the summaries of
        the newest attempt's ranks, which a live rank replaces every 10 s: the merged `metrics` (`last` is the mean of
        the ranks' last values), the `unresolved` values and the `lost` records by reason, the `hook_faults` of an
        integration by hook, rank 0's `rates`, and its `best` validation, those of the attempts before among them. From
        the events: the `last_errors`, the last `validation`, `notes` of what makes numbers look odd, the `config`, and
        its `config_changes` between attempts.

        :param ratio: as in :meth:`stragglers`.
        :raises ValueError: `ratio` is not above 1.

        >>> overview = run.overview()
        >>> overview["status"], overview["loss"]["lowest"]
        ('completed', {'step': 1, 'mean': 0.5})
        """
        check_ratio(ratio)
        found = overview(self._paths, self.run_id, self._steps, self._processes, self._errors_of_attempts, ratio)
        return {**found, **story(self._event_lines)}
