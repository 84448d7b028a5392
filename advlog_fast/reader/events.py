"""The events of a run as Arrow tables: all of them, its errors, its validations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..store.paths import RunPaths
from .lines import read_jsonl

if TYPE_CHECKING:
    import pyarrow as pa

_OWN = ("timestamp", "attempt", "rank", "seq", "event", "level")
_ERROR_TEXTS = ("id", "category", "operation", "type", "message")


def event_lines(paths: RunPaths) -> list[dict[str, Any]]:
    """Every event of every rank, in the order of time, as :func:`read_jsonl` gives it."""
    rows = [row for file in paths.lines_of_all_ranks("events") for row in read_jsonl(file)]
    return sorted(rows, key=lambda row: row["timestamp"])


def event_table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """One row for each event: `timestamp`, `attempt`, `rank`, `seq`, `event`, `level`, and `fields`, its others as
    JSON."""
    import pyarrow as pa

    schema = _schema([("event", pa.string()), ("level", pa.string()), ("fields", pa.string())])
    rows = []
    for line in lines:
        others = {name: value for name, value in line.items() if name not in _OWN}
        rows.append({**{name: line.get(name) for name in _OWN}, "fields": _json(others)})
    return pa.Table.from_pylist(rows, schema)


def error_table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """One row for each time that an error was written: `severity`, `id`, `category`, `operation`, `type`, `message`,
    `repeated` (how often it had come by then, null for once), and `context` as JSON."""
    import pyarrow as pa

    texts = [(name, pa.string()) for name in _ERROR_TEXTS]
    schema = _schema([("severity", pa.string()), *texts, ("repeated", pa.int64()), ("context", pa.string())])
    rows = [
        {**line, "severity": line.get("level"), "context": _json(line.get("context") or {})}
        for line in lines
        if line.get("event") == "error"
    ]
    return pa.Table.from_pylist(rows, schema)


def validation_table(lines: Iterable[dict[str, Any]]) -> pa.Table:
    """A row a validation: `epoch`, `is_best`, `best_so_far`, and each metric, float64; one that is named like a column
    of these under `metrics/` and its name."""
    import pyarrow as pa

    flags = [("is_best", pa.bool_()), ("best_so_far", pa.bool_())]
    schema = _schema([("epoch", pa.int64()), *flags])
    own = schema.names
    rows = []
    for line in lines:
        if line.get("event") == "validation":
            told = line["metrics"].items() if isinstance(line.get("metrics"), dict) else ()
            metrics = {f"metrics/{name}" if name in own else name: _number(value) for name, value in told}
            rows.append({**metrics, **{name: line.get(name) for name in own}})
    for name in dict.fromkeys(name for row in rows for name in row if name not in own):
        schema = schema.append(pa.field(name, pa.float64()))
    return pa.Table.from_pylist(rows, schema)


def _schema(own: list[tuple[str, Any]]) -> pa.Schema:
    import pyarrow as pa

    first = [
        ("timestamp", pa.timestamp("us", "UTC")),
        ("attempt", pa.int32()),
        ("rank", pa.int32()),
        ("seq", pa.int64()),
    ]
    return pa.schema([*first, *own])


def _number(value: Any) -> float | None:
    """Returns the number; in events NaN and the infinities are strings."""
    return None if value is None else float(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
