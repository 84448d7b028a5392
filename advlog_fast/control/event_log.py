"""NAME_events.jsonl: every event of the control plane, with the record it follows."""

from __future__ import annotations

import time
from collections.abc import Mapping

from .line_file import LineFile
from .readable import strict_json
from .text import dumps, time_text

OWN_FIELDS = frozenset(("timestamp", "attempt", "rank", "event", "level", "seq", "user_event", "fields", "nonfinite"))
"""The names that mean something in every line. No event has a `nonfinite` of its own: it belongs to the metrics' lines,
which are read by the same function."""


class EventLog:
    """Appends events, one strict JSON object a line."""

    def __init__(self, file: LineFile, attempt: int, rank: int) -> None:
        self._file = file
        self._attempt = attempt
        self._rank = rank

    def write(
        self, event: str, fields: Mapping[str, object], *, seq: int, level: str = "INFO", users: bool = False
    ) -> bool:
        """Writes an event; returns whether it is in the file.

        A field whose name is in :data:`OWN_FIELDS` stands in the object `fields`; the others stand beside the line's
        own.

        :param seq: that of the last metrics record before it, 0 for none.
        :param users: whether it is the user's own: it may have the name of any other, and is marked `user_event`.
        """
        own: dict[str, object] = {
            "timestamp": time_text(time.time_ns()),
            "attempt": self._attempt,
            "rank": self._rank,
            "event": event,
            "level": level,
            "seq": seq,
        }
        if users:
            own["user_event"] = True
        others: dict[str, object] = {name: value for name, value in fields.items() if name not in OWN_FIELDS}
        aside = {name: value for name, value in fields.items() if name in OWN_FIELDS}
        if aside:
            others["fields"] = aside
        # Apart: whatever becomes of the fields, where memory or the stack ends, the line says whose it is.
        text, more = strict_json(own), dumps(others)
        if more.startswith("{") and more != "{}":
            text = f"{text[:-1]},{more[1:]}"
        return self._file.write(text + "\n")
