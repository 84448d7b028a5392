"""Reading runs back, finished or still being written: all that was flushed, of every rank and attempt."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._generations import generations
from ._paths import PartKey, RunPaths, check_run
from .exceptions import expected
from .records import RESERVED_NAMES

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST_COLUMNS = ("timestamp", "attempt", "rank", "worker", "seq", "kind")


def read_jsonl(path: str | os.PathLike[str], *, rotated: bool = True) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file and, with `rotated`, of its generations `path.1` …, oldest first.

    `timestamp` becomes an aware datetime, UTC; a metric that was NaN or infinite is that float again, and the
    object `nonfinite` that said so is gone. A metric that never came is None, and `unresolved` says why.
    A last line without its newline, still being written or torn by a crash, is left out if it is not whole.

    :raises FileNotFoundError: there is neither the file nor a generation of it.
    :raises ValueError: a line is no strict JSON object; the message names file and line.
    """
    path = Path(path)
    # The newest first: a file that is rotated meanwhile is met again, as the next generation, and known by
    # its inode. All are read before the first is parsed, which takes long enough for a rotation.
    read: dict[tuple[int, int], tuple[Path, bytes]] = {}
    for file in [path, *(reversed(generations(path)) if rotated else ())]:
        with contextlib.suppress(FileNotFoundError), file.open("rb") as lines:
            found = os.fstat(lines.fileno())
            if (found.st_dev, found.st_ino) not in read:
                read[found.st_dev, found.st_ino] = (file, lines.read())
    if not read:
        raise FileNotFoundError(f"path: expected a JSON-lines file, got {str(path)!r}, which does not exist")
    return [_row(line, file, number) for file, data in reversed(read.values()) for number, line in _whole_lines(data)]


def read_run(log_dir: str | os.PathLike[str], name: str = "experiment") -> Run:
    """The run `name` in `log_dir`: its metrics, samples, events and summary, read when they are asked for.

    :raises RunNotFoundError: there is no such directory, or no such run in it; the message names those that there are.
    :raises ValueError: no run can have that name.
    """
    directory = Path(log_dir)
    check_run(directory, name)
    return Run(directory, name)


class Run:
    """One run, of all its ranks and attempts. Each property is read once, when it is first asked for.

    A run may be read while it is written: records that are not sealed into Parquet yet come from the spools.
    """

    def __init__(self, log_dir: Path, name: str) -> None:
        self.log_dir = log_dir
        self.name = name
        self._paths = RunPaths(log_dir, name)

    def __repr__(self) -> str:
        return f"Run({str(self.log_dir)!r}, {self.name!r})"

    @cached_property
    def metrics(self) -> pa.Table:
        """A row for each call that logged metrics, in order of (attempt, rank, seq); float64 metrics.

        `timestamp` is UTC with microseconds. What was not given is null; a NaN was logged as NaN. The map
        `unresolved` says why a value never came.

        :raises OSError: a file cannot be read, or its checksums do not hold.
        """
        return self._table("metrics")

    @cached_property
    def system(self) -> pa.Table:
        """A row for each memory and performance sample (`kind`), ordered and typed as :attr:`metrics`."""
        return self._table("system")

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """Every event of every rank, in the order of time, as :func:`read_jsonl` gives it."""
        rows = [row for file in self._paths.lines_of_all_ranks("events") for row in read_jsonl(file)]
        return sorted(rows, key=lambda row: row["timestamp"])

    @property
    def errors(self) -> list[dict[str, Any]]:
        """The events that are errors."""
        return [event for event in self.events if event.get("event") == "error"]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What rank 0 wrote last about its latest attempt; empty where it wrote nothing.

        :raises ValueError: the file is no JSON object.
        """
        try:
            text = self._paths.summary.read_bytes()
        except FileNotFoundError:
            return {}
        return _object(text, str(self._paths.summary))

    @cached_property
    def attempts(self) -> list[int]:
        """The numbers of the attempts that left anything behind."""
        from .sinks.columns import STREAMS

        places = (self._paths.parts_of_all_ranks, self._paths.spools_of_all_ranks)
        keys = [key for stream in STREAMS for place in places for key in place(stream)]
        return sorted({key[0] for key in keys} | {event["attempt"] for event in self.events})

    def scan(self, columns: Sequence[str] | None = None, stream: str = "metrics") -> Iterator[pa.RecordBatch]:
        """The sealed parts, in order, in batches that need not fit into memory together.

        Their columns are those of the files, and `attempt`: metrics that came late lie in the map `extra`.

        :param columns: which columns to read; None for all.
        :param stream: "metrics" or "system".
        :raises ValueError: there is no such stream.
        """
        from .sinks.columns import STREAMS

        if stream not in STREAMS:
            raise ValueError(expected("stream", " or ".join(map(repr, STREAMS)), stream))
        return self._batches(columns, self._paths.parts_of_all_ranks(stream))

    def _batches(self, columns: Sequence[str] | None, parts: dict[PartKey, Path]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa
        import pyarrow.dataset as ds

        if parts:
            partitioning = ds.partitioning(pa.schema([("attempt", pa.int32())]), flavor="hive")
            files = [str(parts[key]) for key in sorted(parts)]
            dataset = ds.dataset(files, format="parquet", partitioning=partitioning)
            yield from dataset.to_batches(columns=None if columns is None else list(columns))

    def _table(self, stream: str) -> pa.Table:
        # Spools first: one that is sealed meanwhile is then found twice, and not missed.
        tables = {}
        for key, path in self._paths.spools_of_all_ranks(stream).items():
            with contextlib.suppress(FileNotFoundError):
                tables[key] = _spool_table(path)
        for key, path in self._paths.parts_of_all_ranks(stream).items():
            tables[key] = _part_table(path, key[0])
        if not tables:
            return _lines_table(stream, [r for f in self._paths.lines_of_all_ranks(stream) for r in read_jsonl(f)])
        return _wide(tables)


def _whole_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    *lines, rest = data.split(b"\n")
    yield from enumerate(lines, 1)
    if rest:
        with contextlib.suppress(ValueError):
            json.loads(rest)
            yield len(lines) + 1, rest


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _object(text: bytes, where: str) -> dict[str, Any]:
    why = ""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
        if isinstance(value, dict):
            return value
    except ValueError as error:
        why = f" ({error})"
    raise ValueError(f"{where}: expected a JSON object, got {text[:80]!r}{why}")


def _row(line: bytes, file: Path, number: int) -> dict[str, Any]:
    where = f"{file}, line {number}"
    row = _object(line, where)
    try:
        timestamp = row.get("timestamp")
        if timestamp is not None:
            # Python 3.10 does not read the Z.
            row["timestamp"] = datetime.fromisoformat(timestamp.removesuffix("Z") + "+00:00")
        for name, word in row.pop("nonfinite", {}).items():
            row[name] = float(word)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: expected a line of a log, got {line[:80]!r} ({error})") from None
    return row


def _part_table(path: Path, attempt: int) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise OSError(f"{path}: expected a whole Parquet part, got {error}") from error
    return _with_attempt(table, attempt)


def _spool_table(path: Path) -> pa.Table:
    import pyarrow as pa

    from .sinks.columns import columns_schema, scan_spool, spool_batches

    with path.open("rb", buffering=0) as file:
        info = scan_spool(file)
        metrics = info.metric_names()
        batches = []
        if info.records:
            # Serialized, and so copied: the next batch lies in the same memory.
            batches = [
                pa.ipc.read_record_batch(batch.serialize(), batch.schema)
                for batch in spool_batches(file, info, metrics, max_rows=65_536)
            ]
    return _with_attempt(pa.Table.from_batches(batches, columns_schema(info.stream, metrics)), info.attempt)


def _lines_table(stream: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Where there is no Parquet, since it was turned off: the JSON lines."""
    import pyarrow as pa

    from .sinks.columns import columns_schema

    fixed = columns_schema(stream, ())
    metrics = dict.fromkeys(key for row in rows for key in row if key not in RESERVED_NAMES)
    schema = columns_schema(stream, [name for name in metrics if name not in fixed.names])
    schema = schema.remove(schema.get_field_index("extra")).append(pa.field("attempt", pa.int32()))
    for row in rows:
        row.setdefault("worker", 0)
        if "unresolved" in row:
            row["unresolved"] = list(row["unresolved"].items())
    return _ordered(_arranged(pa.Table.from_pylist(rows, schema)))


def _with_attempt(table: pa.Table, attempt: int) -> pa.Table:
    import pyarrow as pa

    column = pa.repeat(pa.scalar(attempt, pa.int32()), table.num_rows)
    return table.replace_schema_metadata(None).append_column("attempt", column)


def _wide(tables: dict[PartKey, pa.Table]) -> pa.Table:
    """All tables as one, each entry of `extra` in a column of its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = pa.concat_tables([tables[key] for key in sorted(tables)], promote_options="default")
    extra = table.column("extra")
    table = table.drop_columns(["extra"])
    names = dict.fromkeys(name for chunk in extra.chunks for name in chunk.keys.unique().to_pylist())
    for name in names:
        values = pc.map_lookup(extra, name, "first")
        at = table.schema.get_field_index(name)
        if at < 0:
            table = table.append_column(name, values)
        else:
            table = table.set_column(at, name, pc.coalesce(table.column(at), values))
    return _ordered(_arranged(table))


def _arranged(table: pa.Table) -> pa.Table:
    first = [name for name in _FIRST_COLUMNS if name in table.column_names]
    rest = [name for name in table.column_names if name not in first and name != "unresolved"]
    return table.select([*first, *rest, "unresolved"])


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
