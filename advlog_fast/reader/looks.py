"""What a run looks like: pictures of its metrics, its times by rank, and what deserves a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Union, get_args

from ..exceptions import expected
from ..parquet.columns import is_metric
from ..pictures import Cache, Heat, Levels, Picture, Piece, Span
from ..pictures.buckets import Buckets
from ..pictures.levels import MOST_WIDTH, band
from .axes import AXES, Axes
from .bucket_tables import bucket_table, has_values, heat_table, intervals, smoothed
from .events import validated, validation_table
from .findings import Finding, findings_of
from .pieces import begins_again, pieces_of, validation_piece
from .processes import rank_summaries
from .run_files import RunFiles
from .statistics import of_ranks
from .steps import STEP_INTERVAL

if TYPE_CHECKING:
    import pyarrow as pa

    from ..pictures.buckets import Clock

X = Literal["step", "record", "time", "epoch", "active"]
Ranks = Union[Literal["band", "each"], Sequence[int]]  # noqa: UP007 - evaluated, on Python 3.10 too

_BEGINS_AGAIN = "the steps begin again and again, so the axis shows the number of the record in its rank"
_NO_STEP = "no record has a step, so the axis shows the number of the record in its rank"
_FURTHEST = 2**62
_HISTORY = 12
"""Half-lives before a span that its smoothed curve still knows of."""


class Looks(RunFiles):
    """The pictures of a run."""

    def picture(
        self,
        metric: str = "loss",
        *,
        x: X | None = None,
        span: tuple[Any, Any] | None = None,
        width: int = 1500,
        ranks: Ranks = "band",
        smooth: float | None = None,
    ) -> Picture:
        """Look at every value of a metric: the least, the greatest, the mean and the counts in each of some 1,500
        buckets of steps, with the step and the rank of each extreme. A single bad batch is in it at every zoom.

        The first look at a metric reads it once (about 1 s of CPU for 30 million values). What was counted of sealed
        parts stays in your cache (`XDG_CACHE_HOME`, 2 GB at most), so later looks take milliseconds, or some more where
        a zoom reads rows. A resumed run is one series. A metric that only validations have is shown by their steps, or
        their epochs.

        :param x: what the axis shows: see :class:`Picture`; None is "step", or "record" where the records have no step,
            or steps that begin again in each epoch.
        :param span: the first and the last step to show; with `x="time"` datetimes or seconds since 1970, with "epoch"
            epochs, with "active" seconds, with "record" numbers of records. None for all. It is
            extended to whole buckets.
        :param width: at least so many buckets, and less than twice as many, as long as the span has so many steps; from
            1 to 8,192.
        :param ranks: "band" merges the ranks, "each" shows each of them alone; or some ranks, each alone.
        :param smooth: adds a column `smooth`: the mean of the values so far, where the weight of a step halves with so
            many steps; it hardly depends on the zoom.
        :raises ValueError: there is no such metric, or an argument is out of its range.
        :raises OSError: a file cannot be read.

        >>> run.picture("loss").table.select(["x0", "mean", "argmax", "rank_max"]).to_pylist()
        [{'x0': 1, 'mean': 0.5, 'argmax': 1, 'rank_max': 0}]
        """
        return self.pictures([metric], x=x, span=span, width=width, ranks=ranks, smooth=smooth)[0]

    def pictures(
        self,
        metrics: Sequence[str],
        *,
        x: X | None = None,
        span: tuple[Any, Any] | None = None,
        width: int = 1500,
        ranks: Ranks = "band",
        smooth: float | None = None,
    ) -> list[Picture]:
        """Look at several metrics, in one pass over their records; otherwise as :meth:`picture`.

        >>> [picture.metric for picture in run.pictures(["loss"])]
        ['loss']
        """
        if x is not None and x not in get_args(X):
            raise ValueError(expected("x", " or ".join(map(repr, get_args(X))), x))
        if not 1 <= width <= MOST_WIDTH:
            raise ValueError(expected("width", f"a number from 1 to {MOST_WIDTH}", width))
        if isinstance(ranks, str) and ranks not in ("band", "each"):
            raise ValueError(expected("ranks", "'band', 'each' or numbers of ranks", ranks))
        if smooth is not None and not smooth > 0:
            raise ValueError(expected("smooth", "a number of steps above 0", smooth))
        for name in metrics:
            if not is_metric(self._reader("metrics").fields([name]).field(0)):
                self._check_metric(name)  # a column of another kind
        levels, notes = self._levels, []
        if x == "record" or (x is None and self._needs_records):
            levels = self._record_levels
            if x is None:
                notes.append(_NO_STEP if self._levels.span is None else _BEGINS_AGAIN)
            x = "record"
        drawing = _Drawing(self, x or "step", span, width, ranks, smooth, notes)
        alone = [name for name in metrics if self.is_of_validations(name)]
        found = drawing.of(levels, [name for name in metrics if name not in alone])
        for name in alone:
            piece, by = validation_piece(self._validations, name, by_epoch=x == "record")
            mine = _Drawing(self, "step", span if by == "step" else None, width, "band", smooth, ())
            drawn = mine.of(Levels([piece], Cache(None)), [name])[name]
            found[name] = replace(drawn, x=by)
        return [found[name] for name in metrics]

    def heat(self, metric: str | None = None, *, span: tuple[int, int] | None = None, width: int = 300) -> Heat:
        """Look at a time of each rank against the others, at every step: which rank was slow, when, and by how much.

        :param metric: the time; None for `batch_time`, or `data_time` where no rank logged that; where none logged
            either, `step_interval`, the time from one record to the next.
        :param span: the first and the last step; None for all.
        :param width: at least so many buckets, as in :meth:`picture`.
        :raises ValueError: there is no such metric, or an argument is out of its range.
        :raises OSError: a file cannot be read.

        >>> run.heat().table.column_names
        ['rank', 'x0', 'x1', 'mean', 'count', 'ratio']
        """
        if not 1 <= width <= MOST_WIDTH:
            raise ValueError(expected("width", f"a number from 1 to {MOST_WIDTH}", width))
        levels = self._record_levels if self._needs_records else self._levels
        if metric is None:
            metric = next(iter(self._steps.times()), STEP_INTERVAL)
        elif metric != STEP_INTERVAL:
            self._check_metric(metric)
        whole = levels.span
        if whole is None:
            return Heat(metric, (0, 0), 0, heat_table({}, {}, 0, 0))
        at = whole if span is None else _span_of(*span)
        shift = levels.shift(at, width)
        means: dict[int, list[float | None]] = {}
        counts: dict[int, list[int]] = {}
        if metric == STEP_INTERVAL and not self._reader("metrics").has(metric):
            for rank in levels.ranks:
                means[rank] = intervals(levels.clock(at, shift, rank), shift)
                counts[rank] = [1 << shift] * len(means[rank])
        else:
            of_ranks = levels.buckets([metric], at, shift)[metric]
            means = {rank: of_ranks[rank].column("mean").to_pylist() for rank in sorted(of_ranks)}
            counts = {rank: of_ranks[rank].column("count").to_pylist() for rank in means}
        return Heat(metric, (at.low, at.high), shift, heat_table(means, counts, at.low >> shift, shift))

    def plot(self, metric: str = "loss", ax: Any = None, *, label: str | None = None, **options: Any) -> Any:
        """Draw a metric: without `ax` a :class:`Picture`, which a notebook shows as SVG; with matplotlib's axes it
        draws into them and returns them.

        :param label: of the curve in a legend.
        :param options: as of :meth:`picture`.
        :raises ModuleNotFoundError: there is an `ax`, and no matplotlib.

        >>> run.plot("loss").metric
        'loss'
        """
        picture = self.picture(metric, **options)
        return picture if ax is None else picture.plot(ax, label=label)

    def findings(self) -> list[Finding]:
        """What deserves a look, worst first: values that are not finite, single batches far off the others, ranks that
        were slow for a while, how attempts ended, what is missing. Each with the steps to look at.

        It looks at the built-in metrics and the first others, 24 at most, as :meth:`pictures` does.

        >>> run.findings()
        []
        """
        return findings_of(self)

    def metric_names(self) -> list[str]:
        """The metrics with a value, of records and validations: the built-in ones, then the others as they came up.

        >>> run.metric_names()
        ['loss']
        """
        reader = self._reader("metrics")
        newest = max(self.attempts, default=0)
        told: list[str] = []
        if set(self._lineage.cuts) == {newest}:
            merged = of_ranks(rank_summaries(self._paths, newest, reader.ranks(newest)))
            told = [name for name, each in merged.items() if each["count"] or each["first_nonfinite"]]
        if not told:  # younger than its first summary with records, or of several attempts
            told = [each.name for each in reader.schema if is_metric(each) and reader.has_values(each.name)]
        return list(dict.fromkeys([*told, *validated(self._validations)]))

    def attempt_spans(self) -> dict[int, list[int]]:
        """The first and the last step that is shown of each attempt.

        >>> run.attempt_spans()
        {1: [1, 1]}
        """
        found: dict[int, list[int]] = {}
        for piece in (self._record_levels if self._needs_records else self._levels).pieces:
            low, high = found.get(piece.attempt, piece.span)
            found[piece.attempt] = [min(low, piece.span.low), max(high, piece.span.high)]
        return found

    def check_values(self, metric: str) -> None:
        """Check that a metric has values somewhere.

        :raises ValueError: it has none; the message names those that have.

        >>> run.check_values("loss")
        """
        if not (metric in validated(self._validations) or self._reader("metrics").has_values(metric)):
            raise ValueError(expected("metric", f"one of {', '.join(self.metric_names())}", metric))

    # -- what these are made of ----------------------------------------------------------------------------------

    @cached_property
    def _cache(self) -> Cache:
        return Cache(None) if self._view is not None else Cache.of_user()

    @cached_property
    def _levels(self) -> Levels:
        return Levels(self._pieces("step"), self._cache)

    @cached_property
    def _record_levels(self) -> Levels:
        return Levels(self._pieces("seq"), self._cache)

    def _pieces(self, by: str) -> list[Piece]:
        return pieces_of(self._reader("metrics"), self._lineage, by)

    @cached_property
    def _needs_records(self) -> bool:
        """Whether the steps are no axis."""
        return self._levels.span is None or begins_again(self._levels.pieces)

    @cached_property
    def _axes(self) -> Axes:
        return Axes(self._reader("metrics"), self._lineage)

    @cached_property
    def _validations(self) -> pa.Table:
        return validation_table([line for line in self._event_lines if self._lineage.has_event(line)])

    def is_of_validations(self, metric: str) -> bool:
        """Whether only validations have a metric.

        >>> run.is_of_validations("loss")
        False
        """
        return metric in validated(self._validations) and not self._reader("metrics").has_values(metric)


def _span_of(low: Any, high: Any) -> Span:
    """:raises ValueError: these are no first and last step."""
    if not low <= high:
        raise ValueError(expected("span", "the first step and the last", (low, high)))
    # What lies beyond has no step, and the edges of buckets must be numbers of 64 bits.
    return Span(*(int(min(max(end, -_FURTHEST), _FURTHEST)) for end in (low, high)))


class _Drawing:
    """Pictures that are alike but for their metrics."""

    def __init__(
        self,
        run: Looks,
        x: str,
        span: tuple[Any, Any] | None,
        width: int,
        ranks: Ranks,
        smooth: float | None,
        notes: Sequence[str],
    ) -> None:
        self._run, self._x, self._asked, self._width = run, x, span, width
        self._ranks, self._smooth, self._notes = ranks, smooth, tuple(notes)

    def of(self, levels: Levels, metrics: Sequence[str]) -> dict[str, Picture]:
        """Returns the pictures, by metric.

        :raises ValueError: there is no such metric.
        """
        whole = levels.span
        if not metrics or whole is None:
            for name in metrics:
                self._run._check_metric(name)
            return {name: self._empty(name, levels) for name in metrics}
        at = self._steps(levels, whole)
        shift = levels.shift(at, self._width)
        before = 0 if self._smooth is None else int(min(_HISTORY * self._smooth, max(at.low - whole.low, 0)))
        from_ = Span(at.low - before, at.high)
        clock = levels.clock(from_, shift) if self._x in AXES else None
        of_ranks = levels.buckets(metrics, from_, shift)
        found = {}
        for name in metrics:
            if not any(has_values(each) for each in of_ranks[name].values()):
                self._run.check_values(name)
            found[name] = self._picture(name, at, from_, shift, of_ranks[name], clock, levels.rows)
        return found

    def _steps(self, levels: Levels, whole: Span) -> Span:
        """The span that was asked for, in steps."""
        if self._asked is None:
            return whole
        low, high = self._asked
        if self._x in AXES:
            return self._run._axes.steps(levels, self._x, low, high)
        return _span_of(low, high)

    def _picture(
        self,
        metric: str,
        at: Span,
        from_: Span,
        shift: int,
        of_ranks: dict[int, Buckets],
        clock: Clock | None,
        rows: int,
    ) -> Picture:
        import pyarrow as pa

        shown: dict[int | None, Buckets]
        if self._ranks == "band":
            shown = {None: band(of_ranks, from_, shift)}
        else:
            wanted = sorted(of_ranks) if self._ranks == "each" else [int(rank) for rank in self._ranks]
            shown = {rank: of_ranks[rank] for rank in wanted if rank in of_ranks}
        left_out = (at.low >> shift) - (from_.low >> shift)
        tables = []
        for rank, buckets in shown.items():
            table = bucket_table(rank, buckets)
            if self._smooth is not None:
                table = table.append_column("smooth", smoothed(table, self._smooth))
            if clock is not None:
                table = self._run._axes.with_clock(table, clock)
            tables.append(table.slice(left_out))
        table = pa.concat_tables(tables or [bucket_table(None, Buckets(0, 0, 0))])
        records = sum(table["records"].to_pylist())
        return Picture(
            metric, self._x, (at.low, at.high), shift, table, {"records": records, "rows": rows}, self._notes
        )

    def _empty(self, metric: str, levels: Levels) -> Picture:
        table = bucket_table(None, Buckets(0, 0, 0))
        return Picture(metric, self._x, (0, 0), 0, table, {"records": 0, "rows": levels.rows}, self._notes)
