"""What a run is made of: its files, its events, and which of its attempts are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import expected
from ..parquet.columns import STREAMS, is_metric
from ..store.files import read_file
from ..store.paths import RunPaths
from .events import error_table, event_lines
from .lineage import Attempts, Lineage, chosen, origins_of, run_id_of
from .lines import json_object
from .ordering import ordered
from .overview import Shown, account, clock_jumps
from .processes import process_table, read_processes, told_processes
from .select import chosen_batches
from .story import story
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import pyarrow as pa

    from ..store.attempts import Origins


class RunFiles:
    """A run as it lies in its folder. Each part is read once, when it is first asked for."""

    def __init__(self, log_dir: Path, name: str, attempts: Attempts = "chain", view: object = None) -> None:
        self.log_dir = log_dir
        self.name = name
        self._shown = attempts
        self._view = view  # of a URL: its folder goes with it
        self._paths = RunPaths(log_dir, name)
        self._streams: dict[str, StreamReader] = {}

    def __repr__(self) -> str:
        return f"Run({str(self.log_dir)!r}, {self.name!r}, attempts={self._shown!r})"

    @property
    def run_id(self) -> str | None:
        """The run's id: 32 hexadecimal digits, the same for every attempt and rank; None if neither its file nor its
        events are there.

        >>> len(run.run_id)
        32
        """
        return run_id_of(self._paths, lambda: self._event_lines)

    @cached_property
    def attempts(self) -> list[int]:
        """The numbers of all attempts that left any file or record, shown or not.

        >>> run.attempts
        [1]
        """
        found = {line["attempt"] for line in self._event_lines}
        found |= {attempt for attempt, _ in self._paths.claims_of_all_ranks()}
        return sorted(found.union(*(self._reader(stream).attempts for stream in STREAMS)))

    def told(self) -> dict[str, Any]:
        """What :meth:`Run.overview` tells without a pass over the steps: all but `loss`, `step_times` and `stragglers`.

        >>> run.told()["status"]
        'completed'
        """
        found = account(self._paths, self.run_id, self._steps, self._processes, self._errors_of_attempts)
        return {**found, **story(self._event_lines)}

    @cached_property
    def _processes(self) -> pa.Table:
        found = read_processes(self._paths, told_processes(self._event_lines))
        return process_table(self.run_id, found, self._reader("metrics"), self._origins)

    @cached_property
    def _errors(self) -> pa.Table:
        return error_table(self._event_lines)

    @property
    def _errors_of_attempts(self) -> dict[int, int]:
        found = self._errors.group_by("attempt").aggregate([("attempt", "count")]).to_pylist()
        return {row["attempt"]: row["attempt_count"] for row in found}

    @cached_property
    def _summary(self) -> dict[str, Any]:
        try:
            text = read_file(self._paths.summary)
        except FileNotFoundError:
            return {}
        return json_object(text, str(self._paths.summary))

    def event_lines(self) -> list[dict[str, Any]]:
        """The lines of :attr:`Run.events`, each as :func:`read_jsonl` gives it.

        >>> [line["event"] for line in run.event_lines()]
        ['attempt_start', 'attempt_end']
        """
        return self._event_lines

    @cached_property
    def _event_lines(self) -> list[dict[str, Any]]:
        return event_lines(self._paths)

    @cached_property
    def _lineage(self) -> Lineage:
        begun = self._reader("metrics").attempts
        return chosen(self._shown, self.attempts, begun, self._origins, self.run_id)

    @cached_property
    def _origins(self) -> Origins:
        return origins_of(self._paths, lambda: self._event_lines)

    @cached_property
    def _steps(self) -> Shown:
        return Shown(self._reader("metrics"), self._lineage, clock_jumps(self._event_lines))

    def _reader(self, stream: str) -> StreamReader:
        if stream not in self._streams:
            self._streams[stream] = StreamReader(self._paths, stream)
        return self._streams[stream]

    def _shown_batches(self, stream: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        # A generator, which keeps the run, and so the view.
        yield from chosen_batches(self._reader(stream), self._lineage if stream == "metrics" else None, schema)

    def _table(self, stream: str) -> pa.Table:
        import pyarrow as pa

        schema = self._reader(stream).schema
        return ordered(pa.Table.from_batches(self._shown_batches(stream, schema), schema))

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
