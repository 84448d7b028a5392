"""Follows a run: its new rows, as they come, each once, whatever happens to the files that hold them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import expected
from ..parquet.columns import STREAMS, columns_schema, core_columns
from ..parquet.part_reader import flattened, flattened_batches, part_metrics
from ..parquet.spool_tail import SpoolTail
from ..store.attempts import origin_of, read_run_id
from ..store.paths import RunPaths, check_run, local_path
from .events import event_lines
from .line_tail import LineTail
from .lineage import Cut, cut_of, origins_of, run_id_of
from .seqs import has_between, last_seq, seqs_of, without_gaps
from .sources import RankKey, line_table
from .stream_reader import StreamReader

if TYPE_CHECKING:
    import pyarrow as pa

_POLL_S = 0.2
_TRIES = 20
_AGAIN_S = 0.05
"""How long a missing row is given to turn up: files are renamed and exchanged."""


@dataclass(frozen=True)
class Followed:
    """Something new of a run: rows, or a cut, or a gap.

    >>> log.flush()
    True
    >>> first = next(follow("logs", "run"))
    >>> first.rows["loss"].to_pylist(), first.cut, first.gap
    ([0.5], None, None)
    """

    cursor: dict[str, Any]
    """Where to go on after it: numbers and strings, for `since`."""
    rows: pa.RecordBatch | None = None
    """New rows of one rank of one attempt, in order, with the columns of :attr:`Run.metrics` that it has."""
    cut: tuple[int, int, int] | None = None
    """Attempt, rank, seq: a later attempt resumed from here. The rows of that rank of that attempt beyond it, given
    before or to come, are superseded."""
    gap: tuple[int, int, int, int] | None = None
    """Attempt, rank, and the first and the last seq of rows that are no longer there: they expired, or were lost."""


def follow(
    log_dir: str | os.PathLike[str],
    name: str = "experiment",
    since: Mapping[str, Any] | None = None,
    *,
    stream: str = "metrics",
    wait_s: float = 0.0,
) -> Iterator[Followed]:
    """Iterate over the new rows of a run, live or finished: of every attempt and rank, each row once.

    Use it to pass rows on, to another tool or to a picture, while the run goes on. It ends when nothing has come for
    `wait_s`, and when another run has taken the name. Keep the `cursor` of the last item, and go on from it later, in
    another process too: across rotation, sealing, a kill and its recovery, compaction, and attempts and ranks that come
    later. Rows are there some milliseconds after their call returned. It reads what is new, and looks for it five times
    a second. Without a wait it gives what is there now.

    :param since: the `cursor` of an item; None for every row.
    :param stream: "metrics" or "system".
    :param wait_s: how long to wait for something new, in seconds; `math.inf` follows for ever.
    :raises RunNotFoundError: there is no such directory, or no such run in it.
    :raises TypeError: `since` is no cursor.
    :raises ValueError: `since` is the cursor of another run or stream, or there is no such stream.

    >>> log.flush()
    True
    >>> [item.rows.num_rows for item in follow("logs", "run")]
    [1]
    """
    directory = local_path("log_dir", log_dir)
    check_run(directory, name)
    if stream not in STREAMS:
        raise ValueError(expected("stream", " or ".join(map(repr, STREAMS)), stream))
    seconds: object = wait_s
    if not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise ValueError(expected("wait_s", "seconds, from 0 on", wait_s))
    paths = RunPaths(directory, name)
    run_id = run_id_of(paths, lambda: event_lines(paths))
    return _items(_Follower(paths, stream, _checked(since, run_id, stream)), wait_s)


def _checked(since: object, run_id: str | None, stream: str) -> dict[str, Any]:
    if since is None:
        return {"run_id": run_id, "stream": stream, "seqs": {}, "cuts": {}}
    seqs, cuts = (since.get(name) if isinstance(since, Mapping) else None for name in ("seqs", "cuts"))
    if not isinstance(since, Mapping) or not _are_seqs(seqs) or not _are_seqs(cuts):
        raise TypeError(expected("since", "the cursor of an item of follow()", since))
    for key, mine in (("run_id", run_id), ("stream", stream)):
        if since.get(key) != mine:
            raise ValueError(expected(f"since[{key!r}]", repr(mine), since.get(key)))
    return {**since, "seqs": dict(since["seqs"]), "cuts": dict(since["cuts"])}


def _are_seqs(value: object) -> bool:
    """Returns whether it is a mapping of a rank of an attempt to a seq."""
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}", key) and type(seq) is int and seq >= 0
        for key, seq in value.items()
    )


def _items(follower: _Follower, wait_s: float) -> Iterator[Followed]:
    deadline = time.monotonic() + wait_s
    tries = _TRIES
    try:
        while True:
            if follower.is_another_run():
                return
            began, found = time.monotonic(), False
            for item in follower.new():
                found = True
                yield item
            now = time.monotonic()
            if found:
                deadline, tries = now + wait_s, _TRIES
            # What moved while it was read is there at another look, waited for or not.
            if follower.must_look_again and tries:
                tries -= 1
                time.sleep(_AGAIN_S)
            elif now >= deadline:
                return
            else:
                time.sleep(max(min(began + _POLL_S, deadline) - now, 0.0))
    finally:
        follower.close()


class _MovedError(Exception):
    """The files changed while they were read: look again."""


class _Follower:
    """Where a reader is in each rank of each attempt.

    :param cursor: from where it goes on.
    """

    def __init__(self, paths: RunPaths, stream: str, cursor: dict[str, Any]) -> None:
        self.must_look_again = False
        """Whether files changed while the last pass read them."""
        self._paths = paths
        self._stream = stream
        self._cursor = cursor
        self._seqs: dict[RankKey, int] = {}
        for key, seq in cursor["seqs"].items():
            attempt, rank = map(int, key.split("/"))
            self._seqs[attempt, rank] = int(seq)
        self._spoilt: dict[RankKey, tuple[Path, int]] = {}
        """The spools that hold what no drain writes, and how long they were."""
        self._told: dict[str, int] = cursor["cuts"]
        """The last cut of each rank of each attempt."""
        self._tails: dict[RankKey, tuple[int, SpoolTail]] = {}
        self._lines = LineTail(paths, stream)
        self._looked: dict[int, str] = {}
        """The states of each attempt that were looked at."""

    @cached_property
    def _event_lines(self) -> list[dict[str, Any]]:
        """Of a copy without its private folder: no process writes more."""
        return event_lines(self._paths)

    def close(self) -> None:
        for _, tail in self._tails.values():
            tail.close()

    def new(self) -> Iterator[Followed]:
        """Yields what is new."""
        self.must_look_again = False
        yield from self._cuts({attempt for attempt, _ in self._seqs})
        sources = self._sources()
        lines = self._lines.new(lambda key: key in sources, self._seqs)
        # By attempts: a resume cuts what was given before.
        for key in sorted({*sources, *lines}):
            try:
                if key in lines:
                    yield from self._of_lines(key, lines[key])
                if key in sources:
                    yield from self._of_rank(key, sources[key])
            except (_MovedError, FileNotFoundError):
                # Sealed, merged with others, or exchanged meanwhile: its rows are found the next time.
                self.must_look_again = not self.is_another_run()
                if key in self._tails:
                    self._tails.pop(key)[1].close()

    def is_another_run(self) -> bool:
        """Whether another run has the name now."""
        return read_run_id(self._paths) not in (None, self._cursor["run_id"])

    def _sources(self) -> dict[RankKey, dict[int, Path]]:
        # Spools first: one that is sealed meanwhile is then found twice, and not missed.
        found: dict[RankKey, dict[int, Path]] = {}
        for each in (self._paths.spools_of_all_ranks, self._paths.parts_of_all_ranks):
            for (attempt, rank, number), path in each(self._stream).items():
                found.setdefault((attempt, rank), {})[number] = path
        return found

    # -- one rank of one attempt ---------------------------------------------------------------------------------

    def _of_rank(self, key: RankKey, sources: Mapping[int, Path]) -> Iterator[Followed]:
        while True:
            if key in self._tails:
                number, tail = self._tails[key]
                for batch in tail.new():
                    yield from self._given(key, self._shown(batch, key))
                if tail.is_spoilt:
                    # It was cut, and may be written anew; what is damaged stays so.
                    self._spoilt[key] = tail.path, tail.size
                elif tail.path.exists() and max(sources) <= number:
                    return
                else:
                    for batch in tail.new():  # the last ones before it was closed
                        yield from self._given(key, self._shown(batch, key))
                tail.close()
                del self._tails[key]
            source = self._next_source(key, sources)
            if source is None:
                return
            yield from self._read(key, *source)

    def _next_source(self, key: RankKey, sources: Mapping[int, Path]) -> tuple[int, Path] | None:
        """The first file that may hold the row after the last one."""
        seq = self._seqs.get(key, 0)
        for number in sorted(sources):
            path = sources[number]
            with contextlib.suppress(FileNotFoundError):
                if path.suffix == ".spool" and self._spoilt.get(key) == (path, path.stat().st_size):
                    continue
                # The newest spool may get more.
                is_newest = path.suffix == ".spool" and number == max(sources)
                if is_newest or last_seq(path) > seq:
                    return number, path
        return None

    def _read(self, key: RankKey, number: int, path: Path) -> Iterator[Followed]:
        if path.suffix == ".spool":
            self._tails[key] = number, SpoolTail(path)
            return
        before = os.stat(path)
        fields = columns_schema(self._stream, part_metrics(path))
        schema = fields.remove(fields.get_field_index("extra"))
        for batch in flattened_batches(path, schema):
            if os.stat(path).st_ino != before.st_ino:  # a compaction has put another into its place
                raise _MovedError
            yield from self._given(key, self._shown(batch, key))

    def _shown(self, batch: pa.RecordBatch, key: RankKey) -> pa.RecordBatch:
        """The batch with a column for each metric, and one for the attempt."""
        import pyarrow as pa

        if "extra" in batch.schema.names:
            extra = {name for row in batch.column("extra").drop_null().to_pylist() for name, _ in row}
            core = core_columns(self._stream)
            known = [field.name for field in batch.schema if field.type == pa.float64() and field.name not in core]
            fields = columns_schema(self._stream, dict.fromkeys([*known, *sorted(extra)]))
            batch = flattened(batch, fields.remove(fields.get_field_index("extra")))
        attempt = pa.repeat(pa.scalar(key[0], pa.int32()), batch.num_rows)
        columns = [batch.column(0), attempt, *batch.columns[1:]]
        names = [batch.schema.names[0], "attempt", *batch.schema.names[1:]]
        return pa.RecordBatch.from_arrays(columns, names=names)

    def _of_lines(self, key: RankKey, rows: list[dict[str, Any]]) -> Iterator[Followed]:
        for batch in line_table(self._stream, rows).to_batches():
            yield from self._given(key, self._shown(batch, key))

    # -- what is given -------------------------------------------------------------------------------------------

    def _given(self, key: RankKey, batch: pa.RecordBatch) -> Iterator[Followed]:
        """Yields the rows of a batch that are new, after what is to be said before."""
        import pyarrow.compute as pc

        before = self._seqs.get(key, 0)
        rows = batch.filter(pc.greater(batch.column("seq"), before))
        if not rows.num_rows:
            return
        if self.is_another_run():
            raise _MovedError
        if before == 0:
            yield from self._cuts({key[0]})
        for part in without_gaps(rows):
            last, first = self._seqs.get(key, 0), part.column("seq")[0].as_py()
            if first > last + 1:
                if not self._is_missing(key, last + 1, first):
                    raise _MovedError
                self._seqs[key] = first - 1
                yield Followed(self._at(), gap=(*key, last + 1, first - 1))
            self._seqs[key] = part.column("seq")[-1].as_py()
            yield Followed(self._at(), rows=part)

    def _is_missing(self, key: RankKey, seq: int, first: int) -> bool:
        """Whether no file has a row of those before `first`, at a second look."""
        time.sleep(_AGAIN_S)
        try:
            files = self._sources().get(key, {}).values()
            return not any(has_between(seqs, seq, first) for path in files for seqs in seqs_of(path))
        except FileNotFoundError:  # a spool that has become a part since it was listed
            return False

    def _at(self) -> dict[str, Any]:
        seqs = {f"{attempt}/{rank}": seq for (attempt, rank), seq in sorted(self._seqs.items())}
        return {**self._cursor, "seqs": seqs, "cuts": dict(self._told)}

    def _cuts(self, attempts: set[int]) -> Iterator[Followed]:
        """Yields where attempts, of which rows have come, cut those before them, as far as that was not said."""
        origins = origins_of(self._paths, lambda: self._event_lines)
        for attempt in sorted(attempts & set(origins)):
            origin = origin_of(origins, attempt)
            if origin["run_id"] != self._cursor["run_id"] or origin["attempt"] >= attempt:
                continue
            state = f"{attempt}/{sorted((rank, str(each)) for rank, each in origins[attempt].items())}"
            if self._looked.get(attempt) == state:
                continue
            cut = cut_of(origin, origins[attempt].items())
            known = {*self._paths.claims_of_all_ranks(), *self._sources(), *self._seqs}
            for other, of in sorted(known):
                if not origin["attempt"] <= other < attempt:
                    continue
                seq = 0 if other > origin["attempt"] else self._kept((other, of), cut)
                if self._told.get(f"{other}/{of}") != seq:
                    self._told[f"{other}/{of}"] = seq
                    yield Followed(self._at(), cut=(other, of, seq))
            self._looked[attempt] = state

    def _kept(self, key: RankKey, cut: Cut) -> int:
        """The last record of a rank before the first that is superseded.

        A rank whose own state was not loaded is cut by step and time, as far as that can be told before its steps are
        logged again.
        """
        if key[1] in cut.seqs and self._stream == "metrics":
            return cut.seqs[key[1]]
        import pyarrow as pa
        import pyarrow.compute as pc

        reader = StreamReader(self._paths, self._stream, key)
        names = ["seq", "timestamp", *(["step"] if self._stream == "metrics" else [])]
        last = 0
        for source in reader.keys:
            for batch in reader.batches(source, reader.fields(names)):
                moment = pa.scalar(cut.time_of(key[1]), pa.timestamp("us", "UTC"))
                kept = pc.less_equal(batch.column("timestamp"), moment)
                if self._stream == "metrics" and not cut.goes_by_time:
                    step, most = batch.column("step"), cut.furthest
                    below = pc.less_equal(step, most) if most is not None else pc.is_null(step)
                    early = pc.less_equal(step, cut.step) if cut.step is not None else pc.is_null(step)
                    kept = pc.or_(
                        pc.and_(kept, pc.fill_null(below, True)), pc.and_(pc.is_valid(step), pc.fill_null(early, False))
                    )
                gone = pc.index(kept, False).as_py()
                if gone >= 0:
                    return last if gone == 0 else int(batch.column("seq")[gone - 1].as_py())
                if batch.num_rows:
                    last = batch.column("seq")[-1].as_py()
        return last
