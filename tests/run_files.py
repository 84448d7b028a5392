"""A run's files, read strictly: what is malformed fails the test that made it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

TIMESTAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
_LINE = re.compile(rf"({TIMESTAMP}) (DEBUG|INFO|WARNING|ERROR|CRITICAL) (.+)")
_ESCAPED = re.compile(r'\\(?:([\\"nrt])|x([0-9a-f]{2})|u([0-9a-f]{4}))')
_SHORT = {"\\": "\\", '"': '"', "n": "\n", "r": "\r", "t": "\t"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Line(NamedTuple):
    timestamp: str
    level: str
    text: str

    @property
    def fields(self) -> dict[str, str]:
        """The tokens of the form name=value; a quoted value keeps its quotes."""
        return dict(re.findall(r'(?:^|\s)([^\s="]+)=("(?:[^"\\]|\\.)*"|\S+)', self.text))


def strict_json(text: str) -> Any:
    """What a strict parser reads: no NaN, no Infinity, no name twice."""

    def constant(name: str) -> None:
        raise ValueError(f"not JSON: {name}")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(items)) == len(items), f"a name stands twice: {items}"
        return dict(items)

    return json.loads(text, parse_constant=constant, object_pairs_hook=pairs)


def unescape(text: str) -> str:
    """What was escaped in a text file; of a quoted value, what lies between its quotes."""
    return _ESCAPED.sub(lambda m: _SHORT[m[1]] if m[1] else chr(int(m[2] or m[3], 16)), text)


def physical_lines(path: Path) -> list[str]:
    """The lines of a file that ends with a line's end and holds no other control character."""
    content = path.read_bytes().decode()
    assert not content or content.endswith("\n"), f"{path.name} ends inside a line"
    lines = content.split("\n")[:-1]
    for line in lines:
        assert not _CONTROL.search(line), f"{path.name}: {line!r}"
    return lines


def json_lines(path: Path) -> list[dict[str, Any]]:
    rows = [strict_json(line) for line in physical_lines(path)]
    for row in rows:
        assert re.fullmatch(TIMESTAMP, row["timestamp"]), row
    return rows


def text_lines(path: Path) -> list[Line]:
    found = []
    for line in physical_lines(path):
        match = _LINE.fullmatch(line)
        assert match, f"{path.name}: {line!r}"
        found.append(Line(*match.groups()))
    return found


def batch_lines(path: Path) -> list[Line]:
    """The batch lines of a training log."""
    return [line for line in text_lines(path) if re.match(r"epoch=\d+ batch=", line.text)]


def error_entries(path: Path) -> list[tuple[Line, list[str]]]:
    """Each header line of an errors log, with the traceback lines below it, their prefix taken off."""
    entries: list[tuple[Line, list[str]]] = []
    for line in physical_lines(path):
        if line.startswith("  | "):
            assert entries, f"{path.name} begins inside a traceback: {line!r}"
            entries[-1][1].append(line.removeprefix("  | "))
        else:
            match = _LINE.fullmatch(line)
            assert match, f"{path.name}: {line!r}"
            entries.append((Line(*match.groups()), []))
    return entries


def summary_of(log_dir: Path, name: str) -> dict[str, Any]:
    found = strict_json((log_dir / f"{name}_summary.json").read_text())
    assert isinstance(found, dict)
    return found


def events_of(log_dir: Path, name: str, event: str) -> list[dict[str, Any]]:
    return [row for row in json_lines(log_dir / f"{name}_events.jsonl") if row["event"] == event]


def descriptors() -> set[str]:
    """What this process has open."""
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{fd}"))
        except FileNotFoundError:
            continue
    return found
