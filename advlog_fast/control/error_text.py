"""Describes an exception, and formats its traceback as lines that cannot be confused with others."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .text import escape

if TYPE_CHECKING:
    from typing_extensions import TypeIs

CATEGORIES = ("out_of_memory", "non_finite", "data", "io", "distributed", "type_shape", "other")

MAX_LINES = 200
MAX_BYTES = 64 * 1024
MAX_LINE = 2000

_MAX_CHAIN = 10
_FRAME = re.compile(r'[ |]*File "')
_LINKS = ("During handling of the above exception", "The above exception was the direct cause")

# Looked for in "TypeName: message", in this order: what says most about the remedy comes first.
# An error of the operating system is I/O unless it is among the sure ones.
_SURE = {
    "out_of_memory": (
        r"out of memory|OutOfMemory|^MemoryError|can(no|')t allocate memory|unable to allocate"
        r"|ALLOC_FAILED|RESOURCE_EXHAUSTED"
    ),
    "distributed": (
        r"\b(nccl|gloo|c10d|ProcessGroup|rendezvous|TCPStore|all_?reduce|all_?gather|MPI_\w+)"
        r"|^Dist(Backend|Network|Store)?Error|torch\.distributed|collective operation"
    ),
    "data": (
        r"DataLoader worker|^(JSONDecode|Parser|EOF|Unpickling|UnidentifiedImage|DatasetGeneration)Error"
        r"|^Unicode\w*Error|^Arrow(Invalid|TypeError)|^BadZipFile"
    ),
}
_LIKELY = {
    "non_finite": r"^FloatingPointError|\bnans?\b|\binf(s|inite|inity|inities)?\b|non-?finite|not finite",
    "type_shape": (
        r"^TypeError|\bshapes?\b|size mismatch|sizes? of (the )?tensors?|\bdtypes?\b|scalar type|dimension"
        r"|mat1 and mat2|broadcast|on the same device|expected .{0,40}\binput|inconsistent numbers of samples"
    ),
    "data": r"^(Key|Index|Lookup)Error",
}
_Patterns = list[tuple[str, re.Pattern[str]]]
_SURE_PATTERNS, _LIKELY_PATTERNS = (
    [(category, re.compile(pattern, re.IGNORECASE)) for category, pattern in table.items()]
    for table in (_SURE, _LIKELY)
)


def message_of(error: BaseException | str) -> str:
    """The error's message; never raises."""
    if is_text(error):
        return error
    try:
        return str(error)
    except Exception as failure:  # noqa: BLE001
        return f"<str() raised {type(failure).__name__}>"


def is_text(error: object) -> TypeIs[str]:
    """By the type alone: a class may have a `__class__` of its own, and `isinstance` would ask it."""
    return issubclass(type(error), str)


def is_error(error: object) -> TypeIs[BaseException]:
    """As :func:`is_text`."""
    return issubclass(type(error), BaseException)


def attribute(error: object, name: str) -> Any:
    """An attribute of an exception; None where its class has code of its own there that raises."""
    try:
        return getattr(error, name, None)
    except Exception:  # noqa: BLE001
        return None


def type_of(error: BaseException | str) -> str:
    """The name of the error's class; "Message" for a plain text."""
    return "Message" if is_text(error) else type(error).__name__


def category_of(error: BaseException | str) -> str:
    """Returns one of :data:`CATEGORIES`, by type and message; if these do not decide, by the causes and grouped
    errors."""
    for candidate in _related(error):
        category = _own_category(candidate)
        if category != "other":
            return category
    return "other"


def _own_category(error: BaseException | str) -> str:
    shown = [f"{type_of(error)}: {message_of(error)[:20_000]}"]
    if not is_text(error):
        shown.extend(f"{base.__name__}:" for base in type(error).__mro__[1:])
    return _look(_SURE_PATTERNS, shown) or (
        "io" if issubclass(type(error), OSError) else _look(_LIKELY_PATTERNS, shown) or "other"
    )


def _look(patterns: _Patterns, shown: list[str]) -> str | None:
    return next((name for name, pattern in patterns if any(map(pattern.search, shown))), None)


def _related(error: BaseException | str) -> Iterator[BaseException | str]:
    """The error, then what is in its group and what caused it, nearest first."""
    pending: list[BaseException | str] = [error]
    seen: set[int] = set()
    while pending and len(seen) < _MAX_CHAIN:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        if is_text(current):
            continue
        inner = attribute(current, "exceptions")
        if isinstance(inner, (list, tuple)):
            pending.extend(item for item in inner if is_error(item))
        hidden = attribute(current, "__suppress_context__")
        cause = attribute(current, "__cause__") or (None if hidden else attribute(current, "__context__"))
        if is_error(cause):
            pending.append(cause)


def raise_site(error: BaseException | str) -> tuple[str, int]:
    """File and line where the error was raised; ("", 0) where it never was."""
    place = ("", 0)
    if not is_text(error):
        step = attribute(error, "__traceback__")
        while step is not None:
            place = (step.tb_frame.f_code.co_filename, step.tb_lineno)
            step = step.tb_next
    return place


def traceback_text(error: BaseException | str) -> str:
    """The traceback as Python prints it, causes and groups included; an error never raised has its last line
    only. The middle of a very long one is cut."""
    return "\n".join(_bounded([_cut(line) for chunk in _chunks(error) for line in chunk.rstrip("\n").split("\n")]))


def traceback_lines(error: BaseException | str) -> list[str]:
    """The traceback as escaped lines. A message is one line whatever it holds, so it cannot look like a
    frame."""
    lines: list[str] = []
    for chunk in _chunks(error):
        bare = chunk.strip(" |\n")
        if _FRAME.match(chunk) or bare.startswith(_LINKS):
            lines.extend(escape(_cut(line)) for line in chunk.strip("\n").split("\n") if line.strip(" |"))
        elif bare:
            lines.append(escape(_cut(chunk.strip("\n"))))
    return _bounded(lines)


def _chunks(error: BaseException | str) -> list[str]:
    if is_text(error):
        return []
    try:
        described = traceback.TracebackException.from_exception(error)
        return list(described.format())
    except Exception as failure:  # noqa: BLE001
        return [f"{type_of(error)}: <no traceback: {type(failure).__name__}>\n"]


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}... ({len(line)} characters)"


def _bounded(lines: list[str]) -> list[str]:
    head = _fitting(lines, MAX_LINES // 2, MAX_BYTES // 2)
    tail = _fitting(lines[::-1], MAX_LINES // 2 - 1, MAX_BYTES // 2)
    if head + tail >= len(lines):
        return lines
    return [*lines[:head], f"... {len(lines) - head - tail} lines left out ...", *lines[len(lines) - tail :]]


def _fitting(lines: list[str], max_lines: int, max_bytes: int) -> int:
    size = 0
    for count, line in enumerate(lines[:max_lines]):
        size += len(line.encode("utf-8", "backslashreplace")) + 5
        if size > max_bytes:
            return count
    return min(len(lines), max_lines)
