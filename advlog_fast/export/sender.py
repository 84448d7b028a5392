"""Sends rows to a target: those that count, thinned or all, each series to its own run there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ..store.paths import RunPaths
from .progress import Progress
from .records import Places, Record, Series, all_records, joined, metric_columns, shown_name
from .targets import Notice, Target

if TYPE_CHECKING:
    import pyarrow as pa


class Sender:
    """What stands between the rows that are read and a target.

    :param merged: all ranks are one series.
    """

    def __init__(self, paths: RunPaths, target: Target, progress: Progress, *, merged: bool) -> None:
        self.values = 0
        """How many were sent."""
        self._paths = paths
        self._target = target
        self._progress = progress
        self._merged = merged
        self._say = Notice()

    def cut(self, attempt: int, rank: int, seq: int) -> None:
        """Note that rows are superseded, and whether some of them were sent."""
        series = self.series_of(attempt, rank)
        if min(self._progress.last(attempt, rank), self._progress.cuts.get((attempt, rank), 1 << 62)) > seq:
            self._progress.stale.add(series)
        self._progress.cuts[attempt, rank] = seq
        for thinning in self._progress.thinnings_of(series, rank):
            thinning.forget_after(attempt, seq)

    def rows(self, batch: pa.RecordBatch) -> None:
        """Send what is to be sent of some rows of one rank."""
        attempt, rank = batch.column("attempt")[0].as_py(), batch.column("rank")[0].as_py()
        series = self.series_of(attempt, rank)
        if self._target.takes_columns:
            self._target.add(batch)
            return
        kept = self._kept(batch, attempt, rank)
        if not kept.num_rows:
            return
        self._supersede(series, attempt, Places.of(kept))
        records = self._thinned(series, kept) if self._progress.points is not None else self._all(kept)
        self._target.send(series, self._counted(records))

    def _kept(self, batch: pa.RecordBatch, attempt: int, rank: int) -> pa.RecordBatch:
        """The rows that no later attempt supersedes, as far as that is known."""
        import pyarrow.compute as pc

        seq = None if self._target.superseded == "told" else self._progress.cuts.get((attempt, rank))
        return batch if seq is None else batch.filter(pc.less_equal(batch.column("seq"), seq))

    def _supersede(self, series: Series, attempt: int, places: Places) -> None:
        """Have the target hide what it got of rows that an attempt now logs again."""
        if series not in self._progress.stale or not self._progress.is_resumed(attempt):
            return
        self._progress.stale.discard(series)
        if (series, attempt) in self._progress.hidden:
            return  # to hide again would hide what this attempt has sent since
        self._progress.hidden.add((series, attempt))
        step = self._progress.step_after(attempt, places.at(0).step)
        if self._target.superseded == "hidden":
            self._target.hide_from(series, step)
        elif self._target.superseded == "kept":
            self._say(
                f"superseded {attempt}",
                f"attempt {attempt} goes on from step {step}: the target keeps what the attempt before it sent beyond",
            )

    def _all(self, batch: pa.RecordBatch) -> Iterator[Record]:
        return all_records(batch, merged=self._merged)

    def _thinned(self, series: Series, batch: pa.RecordBatch) -> list[Record]:
        import pyarrow.compute as pc

        places = Places.of(batch)
        found = []
        for metric in metric_columns(batch):
            values, place_of = batch.column(metric), places.at
            if values.null_count == len(values):
                continue
            if values.null_count:
                indices = pc.indices_nonzero(pc.is_valid(values))
                values = values.drop_null()
                place_of = lambda index, indices=indices: places.at(indices[index].as_py())  # type: ignore[misc]  # noqa: E731
            thinning = self._progress.thinning(series, places.rank, metric)
            name = shown_name(metric, places.rank, merged=self._merged)
            opened = thinning.kept.get("first")
            if opened is not None and opened.place.attempt != places.attempt:
                found += [(name, *point) for point in thinning.close()]
            found += [(name, *point) for point in thinning.add(values, place_of)]
        return joined(found)

    def close_buckets(self) -> bool:
        """Send what open buckets hold, and return whether that was something."""
        before = self.values
        for (series, rank, metric), thinning in self._progress.thinnings():
            name = shown_name(metric, rank, merged=self._merged)
            records = joined((name, *point) for point in thinning.close())
            if records:
                self._target.send(series, self._counted(records))
        return self.values > before

    def _counted(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            self.values += len(record.values)
            yield record

    def series_of(self, attempt: int, rank: int) -> Series:
        """Return the series that the rows of an attempt's rank belong to."""
        return Series(self._progress.first_of(attempt, self._paths), None if self._merged else rank)

    def validation(self, record: Record) -> None:
        """Send a validation, unless a later attempt supersedes it."""
        attempt, rank, seq, *_ = record.place
        cut = None if self._target.superseded == "told" else self._progress.cuts.get((attempt, rank))
        if cut is None or seq <= cut:
            self._target.send(self.series_of(attempt, rank), self._counted([record]))
