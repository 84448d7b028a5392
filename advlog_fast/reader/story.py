"""What the events of a run tell of it: its last errors and validation, its configuration and how that changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .events import is_own

LAST_ERRORS = 3
_NOTED = {
    "steps_contradicted": ("first_epoch", "but"),
    "steps_collide": ("epoch", "total_batches", "step", "last_step"),
    "clock_jump": ("moved_s",),
}
"""Events that say why numbers may look odd, and their fields."""


def story(lines: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns what `Run.overview` tells of a run's events, which come in the order of time.

    `last_errors` are the latest errors of the newest attempt that had one: `attempt`, `rank`, `type`, `message`,
    `operation`. `validation` is the latest one: `epoch`, `step`, `name`, `metrics`. `config` is what `start_training`
    was given last; `config_changes` are the settings in which the attempt before had another one, by their paths: what
    it was and what it is. `notes` are the events that say why numbers may look odd, the first of each kind: `event`,
    `attempt`, `rank`, and its `fields`.
    """
    notes: dict[str, dict[str, Any]] = {}
    errors: list[dict[str, Any]] = []
    validation: dict[str, Any] | None = None
    configs: dict[int, Mapping[str, Any]] = {}
    for line in lines:
        if is_own(line, "error"):
            errors.append({name: line.get(name) for name in ("attempt", "rank", "type", "message", "operation")})
        elif is_own(line, "validation") and isinstance(line.get("metrics"), dict):
            validation = {name: line.get(name) for name in ("epoch", "step", "name", "metrics")}
        elif is_own(line, "training_start") and isinstance(line.get("config"), dict):
            configs[line["attempt"]] = line["config"]
        elif line.get("event") in _NOTED and is_own(line, line["event"]):
            fields = {name: line.get(name) for name in _NOTED[line["event"]]}
            told = {name: line.get(name) for name in ("event", "attempt", "rank")}
            notes.setdefault(line["event"], {**told, "fields": fields})
    newest = max((error["attempt"] for error in errors), default=0)
    in_order = [configs[attempt] for attempt in sorted(configs)]
    return {
        "last_errors": [error for error in errors if error["attempt"] == newest][-LAST_ERRORS:],
        "validation": validation,
        "notes": list(notes.values()),
        "config": dict(in_order[-1]) if in_order else {},
        "config_changes": changes(*in_order[-2:]) if len(in_order) > 1 else {},
    }


def settings_of(config: Mapping[str, Any], around: str = "") -> dict[str, Any]:
    """Returns the settings of a configuration by their paths: `optimizer.lr`."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and value:
            found.update(settings_of(value, f"{around}{name}."))
        else:
            found[f"{around}{name}"] = value
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the settings in which two configurations differ, by their paths: what it was and what it is."""
    was, is_ = settings_of(before), settings_of(now)
    names = dict.fromkeys([*was, *is_])
    return {name: (was.get(name), is_.get(name)) for name in names if was.get(name) != is_.get(name)}
