"""Follows a run: its new rows, as they come, each once, whatever happens to the files that hold them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import expected
from ..parquet.columns import STREAMS, columns_schema, core_columns
from ..parquet.part_reader import flattened, flattened_batches, opened_part, part_metrics
from ..parquet.parts import METADATA
from ..parquet.spool_tail import SpoolTail
from ..store.attempts import origin_of, read_origins, read_run_id
from ..store.paths import RunPaths, check_run, local_path
from .line_tail import LineTail
from .lineage import Cut, Lineage, cut_of
from .select import rank_batches
from .stream_reader import RankKey, StreamReader, line_table

if TYPE_CHECKING:
    import pyarrow as pa

_POLL_S = 0.2
_AGAIN_S = 0.05
"""How long a missing row is given to turn up: files are renamed and exchanged."""


@dataclass(frozen=True)
class Followed:
    """Something new of a run: rows, or a cut, or a gap.

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
    `wait_s`; keep the `cursor` of the last item, and go on from it later, in another process too: across rotation,
    sealing, a kill and its recovery, compaction, and attempts and ranks that come later. Rows are there some
    milliseconds after their call returned. It reads what is new, and looks for it five times a second.

    :param since: the `cursor` of an item; None for every row.
    :param stream: "metrics" or "system".
    :param wait_s: how long to wait for something new, in seconds; `math.inf` follows for ever.
    :raises RunNotFoundError: there is no such directory, or no such run in it.
    :raises TypeError: `since` is no cursor.
    :raises ValueError: `since` is the cursor of another run or stream, or there is no such stream.

    >>> [item.rows.num_rows for item in follow("logs", "run")]
    [1]
    """
    directory = local_path("log_dir", log_dir)
    check_run(directory, name)
    if stream not in STREAMS:
        raise ValueError(expected("stream", " or ".join(map(repr, STREAMS)), stream))
    paths = RunPaths(directory, name)
    return _items(_Follower(paths, stream, _checked(since, read_run_id(paths), stream)), wait_s)


def _checked(since: object, run_id: str | None, stream: str) -> dict[str, Any]:
    if since is None:
        return {"run_id": run_id, "stream": stream, "seqs": {}, "resumed": [], "cuts": {}}
    if not isinstance(since, Mapping) or not {"seqs", "resumed", "cuts"} <= since.keys():
        raise TypeError(expected("since", "the cursor of an item of follow()", since))
    for key, mine in (("run_id", run_id), ("stream", stream)):
        if since.get(key) != mine:
            raise ValueError(expected(f"since[{key!r}]", repr(mine), since.get(key)))
    kept = {"seqs": dict(since["seqs"]), "resumed": list(since["resumed"]), "cuts": dict(since["cuts"])}
    return {**since, **kept}


def _items(follower: _Follower, wait_s: float) -> Iterator[Followed]:
    deadline = time.monotonic() + wait_s
    try:
        while True:
            found = False
            for item in follower.new():
                found = True
                yield item
            if found:
                deadline = time.monotonic() + wait_s
            left_s = deadline - time.monotonic()
            if left_s <= 0 and not found:
                return
            if not found:
                time.sleep(min(_POLL_S, left_s))
    finally:
        follower.close()


class _MovedError(Exception):
    """Rows before those that were read lie in a file that has come since."""


class _Follower:
    """Where a reader is in each rank of each attempt.

    :param cursor: from where it goes on.
    """

    def __init__(self, paths: RunPaths, stream: str, cursor: dict[str, Any]) -> None:
        self._paths = paths
        self._stream = stream
        self._cursor = cursor
        self._seqs: dict[RankKey, int] = {}
        for key, seq in cursor["seqs"].items():
            attempt, rank = map(int, key.split("/"))
            self._seqs[attempt, rank] = int(seq)
        self._resumed: list[int] = cursor["resumed"]
        """The attempts whose cuts were told."""
        self._told: dict[str, int] = cursor["cuts"]
        """The last cut of each rank of each attempt."""
        self._tails: dict[RankKey, tuple[int, SpoolTail]] = {}
        self._lines = LineTail(paths, stream)

    def close(self) -> None:
        for _, tail in self._tails.values():
            tail.close()

    def new(self) -> Iterator[Followed]:
        """Yields what is new."""
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
                if key in self._tails:
                    self._tails.pop(key)[1].close()

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
                if tail.path.exists() and not tail.is_spoilt and max(sources) <= number:
                    return
                for batch in () if tail.is_spoilt else tail.new():  # the last ones before it was closed
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
                if path.suffix == ".spool" or _last_seq(path) > seq:
                    later = [other for other in sources if other > number]
                    if path.suffix != ".spool" or not later or not self._is_behind(path, seq):
                        return number, path
        return None

    @staticmethod
    def _is_behind(path: Path, seq: int) -> bool:
        """Whether a spool that is complete has nothing beyond a record."""
        tail = SpoolTail(path)
        try:
            last = 0
            for batch in tail.new():
                last = batch.column("seq")[-1].as_py()
            return last <= seq
        finally:
            tail.close()

    def _read(self, key: RankKey, number: int, path: Path) -> Iterator[Followed]:
        if path.suffix == ".spool":
            self._tails[key] = number, SpoolTail(path)
            return
        fields = columns_schema(self._stream, part_metrics(path))
        schema = fields.remove(fields.get_field_index("extra"))
        for batch in flattened_batches(path, schema):
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
        if before == 0:
            yield from self._cuts(key)
        first, last = rows.column("seq")[0].as_py(), rows.column("seq")[-1].as_py()
        if first > before + 1:
            if not self._is_missing(key, before + 1, first):
                raise _MovedError
            self._seqs[key] = first - 1
            yield Followed(self._at(), gap=(*key, before + 1, first - 1))
        self._seqs[key] = last
        yield Followed(self._at(), rows=rows)

    def _is_missing(self, key: RankKey, seq: int, first: int) -> bool:
        """Whether no file has a row, at a second look."""
        time.sleep(_AGAIN_S)
        for path in self._sources().get(key, {}).values():
            with contextlib.suppress(FileNotFoundError):
                starts = _first_seq(path)
                if starts is not None and starts < first and path.suffix == ".parquet" and _last_seq(path) >= seq:
                    return False
                if starts is not None and starts < first and path.suffix == ".spool" and starts >= seq:
                    return False
        return True

    def _at(self) -> dict[str, Any]:
        seqs = {f"{attempt}/{rank}": seq for (attempt, rank), seq in sorted(self._seqs.items())}
        return {**self._cursor, "seqs": seqs, "resumed": list(self._resumed), "cuts": dict(self._told)}

    def _cuts(self, key: RankKey) -> Iterator[Followed]:
        """Yields where an attempt, whose first row of a rank has come, cuts those before it."""
        attempt, rank = key
        origins = read_origins(self._paths)
        origin = origin_of(origins, attempt)
        if not origin or origin["run_id"] != self._cursor["run_id"] or origin["attempt"] >= attempt:
            return
        whole = attempt not in self._resumed
        if whole:
            self._resumed.append(attempt)
        cut = cut_of(origin, origins[attempt].items())
        known = {*self._paths.claims_of_all_ranks(), *self._sources(), *self._seqs}
        for other, of in sorted(known):
            # All are cut with the first rank that logs; each again with its own, which may have loaded its state since.
            if (whole or of == rank) and origin["attempt"] <= other < attempt:
                seq = 0 if other > origin["attempt"] else self._kept((other, of), attempt, cut)
                # Of one that was killed, more may come when it is recovered.
                if seq < self._seqs.get((other, of), seq + 1) and self._told.get(f"{other}/{of}") != seq:
                    self._told[f"{other}/{of}"] = seq
                    yield Followed(self._at(), cut=(other, of, seq))

    def _kept(self, key: RankKey, attempt: int, cut: Cut) -> int:
        """The last record of a rank that stays."""
        if key[1] in cut.seqs:
            return cut.seqs[key[1]]
        reader = StreamReader(self._paths, self._stream)
        lineage = Lineage({key[0]: cut, attempt: None})
        last = 0
        for batch in rank_batches(reader, lineage, key, reader.fields(["seq"])):
            if batch.num_rows:
                last = batch.column("seq")[-1].as_py()
        return last


def _first_seq(path: Path) -> int | None:
    if path.suffix == ".spool":
        tail = SpoolTail(path)
        try:
            next(tail.new(), None)
            return tail.first_seq or None
        finally:
            tail.close()
    with opened_part(path) as file:
        told = (file.metadata.metadata or {}).get(METADATA + b"first_seq")
        return None if told is None else int(told)


def _last_seq(path: Path) -> int:
    """That of the last row of a part."""
    with opened_part(path) as file:
        at = file.schema_arrow.names.index("seq")
        groups = [file.metadata.row_group(group).column(at).statistics for group in range(file.metadata.num_row_groups)]
        return max((group.max for group in groups if group is not None and group.has_min_max), default=0)
