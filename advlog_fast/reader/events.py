"""The events of a run as Arrow tables: all of them, its errors, its validations."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..store.paths import RunPaths
from .lines import sound_rows

if TYPE_CHECKING:
    import pyarrow as pa

_OWN = ("timestamp", "attempt", "rank", "seq", "event", "user_event", "level")
_ERROR_TEXTS = ("id", "category", "operation", "type", "message")


def event_lines(paths: RunPaths) -> list[dict[str, Any]]:
    """Every event of every rank, as :func:`read_jsonl` gives it, without lines that are none: by attempt, and in the
    order of time; those of one process as it wrote them, although its clock may have been set back."""
    timed = []
    latest: dict[tuple[int, int], datetime] = {}
    for file in paths.lines_of_all_ranks("events"):
        for row in sound_rows(file):
            time = row.get("timestamp")
            if isinstance(row.get("event"), str) and isinstance(time, datetime):
                key = row["attempt"], row["rank"]
                latest[key] = max(time, latest.get(key, time))
                timed.append((latest[key], row))
    return [row for _, row in sorted(timed, key=lambda each: (each[1]["attempt"], each[0]))]


def event_table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """One row for each event: `timestamp`, `attempt`, `rank`, `seq`, `event`, whether it is a `user_event`, `level`,
    and `fields`, its own fields as JSON."""
    import pyarrow as pa

    own = [("event", pa.string()), ("user_event", pa.bool_()), ("level", pa.string()), ("fields", pa.string())]
    schema = _schema(own)
    rows = []
    for line in lines:
        others = {name: value for name, value in line.items() if name not in _OWN and name != "fields"}
        # Those that are named like a line's own fields stand there.
        aside = line.get("fields")
        others.update(aside if isinstance(aside, dict) else {})
        rows.append({**line, "user_event": _is_users(line), "fields": _json(others)})
    return _table(rows, schema)


def error_table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """One row for each time that an error was written: `severity`, `id`, `category`, `operation`, `type`, `message`,
    `repeated` (how often it had come by then, null for once), and `context` as JSON."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in _ERROR_TEXTS]
    schema = _schema([("severity", pa.string()), *texts, ("repeated", pa.int64()), ("context", pa.string())])
    rows = [
        {**line, "severity": line.get("level"), "context": _json(line.get("context") or {})}
        for line in lines
        if is_own(line, "error")
    ]
    return _table(rows, schema)


def validation_table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """A row a validation: `epoch`, `step`, `name`, `is_best`, `best_so_far`, and each metric, float64; one that has the
    name of one of these columns stands under `metrics/` and its name."""
    import pyarrow as pa

    flags = [("is_best", pa.bool_()), ("best_so_far", pa.bool_())]
    schema = _schema([("epoch", pa.int64()), ("step", pa.int64()), ("name", pa.string()), *flags])
    own = schema.names
    rows = []
    for line in lines:
        told = line.get("metrics")
        if is_own(line, "validation") and isinstance(told, dict):
            metrics = {f"metrics/{name}" if name in own else name: number_of(value) for name, value in told.items()}
            rows.append({**metrics, **{name: line.get(name) for name in own}})
    for name in dict.fromkeys(name for row in rows for name in row if name not in own):
        schema = schema.append(pa.field(name, pa.float64()))
    return _table(rows, schema)


def validated(table: pa.Table) -> list[str]:
    """The metrics of a table of validations."""
    import pyarrow as pa

    return [field.name for field in table.schema if field.type == pa.float64()]


def _is_users(line: Mapping[str, Any]) -> bool:
    return line.get("user_event") is True


def is_own(line: Mapping[str, Any], event: str) -> bool:
    """Whether it is that event of the logger's, and none of the user's with the same name."""
    return line.get("event") == event and not _is_users(line)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """A value that its column cannot hold is null: earlier versions did not mark the user's events, so that one named
    like the logger's looks like it, whatever its fields are."""
    import pyarrow as pa

    def column(field: pa.Field) -> pa.Array:
        values = [row.get(field.name) for row in rows]
        try:
            return pa.array(values, field.type)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return pa.array([_held(value, field.type) for value in values], field.type)

    return pa.Table.from_arrays([column(field) for field in schema], schema=schema)


def _held(value: Any, kind: pa.DataType) -> Any:
    """Returns the value, or None if it is not of the type."""
    import pyarrow as pa

    try:
        return pa.scalar(value, kind).as_py()
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        return None


def _schema(own: list[tuple[str, Any]]) -> pa.Schema:
    import pyarrow as pa

    first = [
        ("timestamp", pa.timestamp("us", "UTC")),
        ("attempt", pa.int32()),
        ("rank", pa.int32()),
        ("seq", pa.int64()),
    ]
    return pa.schema([*first, *own])


def number_of(value: Any) -> float | None:
    """Returns the number; in events NaN and the infinities are strings. None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
