"""A run in one line."""

from __future__ import annotations

from typing import Any

from .table import duration, shown


def counted(count: int, word: str) -> str:
    """A number with its noun."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def headline(told: dict[str, Any], metric: str) -> str:
    """What there is to know of a run in a line."""
    parts = [f"{told['name']}: {told['status']}"]
    steps = [row["last_step"] for row in told["ranks"] if row["last_step"] is not None]
    if steps:
        parts.append(f"step {max(steps):,}")
    if (each := told["metrics"].get(metric)) is not None and each["last"] is not None:
        parts.append(f"{metric} {shown(each['last'])}")
    rate = told["rates"].get("batches_per_s")
    if rate:
        parts.append(f"{duration(1 / rate)} a record")
    parts.append(counted(told["records"], "record"))
    world = told["attempts"][-1]["world_size"] if told["attempts"] else None
    if len(told["ranks"]) > 1 or world not in (None, 1):
        parts.append(f"{len(told['ranks'])} of {world or len(told['ranks'])} ranks")
    if lost := sum(told["lost"].values()):
        parts.append(f"{lost:,} lost")
    if told["errors"]:
        parts.append(counted(told["errors"], "error"))
    bad = sum(each[kind] for each in told["metrics"].values() for kind in ("nan", "posinf", "neginf"))
    if bad:
        parts.append(f"{counted(bad, 'value')} not finite")
    if told["silent"]:
        parts.append(f"silent: ranks {', '.join(str(each['rank']) for each in told['silent'])}")
    return ", ".join(parts)
