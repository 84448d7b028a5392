"""The rooms of the package and the arrows between them, read from the code: `python tests/rooms.py` prints them.

A room is a module or a package at the top of `advlog_fast/`; `csrc/` is one more. An arrow goes from a room to one that
it imports from. Among the C files an arrow goes to the file that defines a function which the first one calls.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGE = CHECKOUT / "advlog_fast"
CSRC = CHECKOUT / "csrc"
COMPILED = {"_core", "_producer"}

# From the ground up: a room imports from lower layers only. ARCHITECTURE.md shows this table, and a test compares.
LAYERS: list[dict[str, str]] = [
    {
        "exceptions": "the errors that are raised, and how a misuse is worded",
        "records": "the values of a record, its columns, the names of the built-in metrics",
        "snapshots": "frozen results of questions: `Health`, `Totals`",
        "_native": "the one door to the compiled modules",
        "_hooks": "the process's exit, uncaught exceptions, signals and forks",
        "_tensors": "what a value on an accelerator is, without importing torch",
        "_failpoints": "where the tests of crashes may kill the process",
    },
    {
        "store": "what is on disk and who owns it: paths, checks before a write, locks, attempts, ring notes, ledgers",
    },
    {
        "checks": "the arguments of calls, checked: numbers, names, mappings",
        "config": "the options and their checks",
        "mirror": "runs copied to a remote store, and folders of them made again for readers",
        "parquet": "spools to Parquet parts, and parts to batches with a column for each metric",
    },
    {
        "sampling": "samples of memory, of the process and of its GPUs",
        "control": "everything that is no record: events, errors, epochs, milestones, the main log, the summary",
        "sinks": "the files that the drain writes into: text, JSON lines, spools",
        "pictures": "every value of a metric by bucket of steps, at any zoom; drawn as SVG",
    },
    {
        "engine": "from a call to the sinks: the ring, the drain's thread, deferred values, children's rings",
        "reader": "reading runs back: of one rank, of many, live ones too",
    },
    {
        "recovery": "what killed processes left: rings replayed, spools sealed, summaries closed",
        "export": "runs sent to other tools: followed, thinned, each point once",
    },
    {
        "compaction": "datasets rewritten: a column for each metric, and few files",
        "views": "pages that show a run",
        "verification": "whether each accepted record is in the files",
    },
    {"session": "one attempt of one rank: opening, running, closing"},
    {
        "control_calls": "the public calls that go to the control plane, with their documentation",
        "progress": "`TrainingProgressTracker`",
    },
    {"logger": "`AdvancedLogger`: the other public calls"},
    {
        "integrations": "what Lightning, Transformers, Accelerate and Ray log, as records of a run",
        "cli": "the commands",
    },
    {
        "__init__": "the public names",
        "__main__": "`python -m advlog_fast`",
    },
]

LAYER_OF = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}


class Import(NamedTuple):
    line: int
    name: str
    """Absolute, of a module or of a name in one."""
    runs: bool
    """Whether it runs when the module is imported: not inside a function, not for types alone."""


def _modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


MODULES = _modules()


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(module: str) -> Iterator[Import]:
    """Every import of a module of the package."""
    tree = ast.parse(MODULES[module].read_text())
    later_or_never = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or _is_for_types(outer)
        for node in ast.walk(outer)
    }
    is_package = MODULES[module].name == "__init__.py"
    package = [] if module == "__init__" else module.split(".")[: None if is_package else -1]
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = ["advlog_fast", *package[: len(package) - node.level + 1], *filter(None, [node.module])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield Import(node.lineno, name, id(node) not in later_or_never)


def own_module(name: str) -> str | None:
    """The module of the package that an imported name is, or lies in; None for anyone else's."""
    parts = name.split(".")
    if parts[0] != "advlog_fast":
        return None
    for length in range(len(parts), 1, -1):
        candidate = ".".join(parts[1:length])
        if candidate in MODULES or candidate in COMPILED:
            return candidate
    return "__init__"


def room_of(module: str) -> str:
    return module.split(".", maxsplit=1)[0]


def rooms() -> set[str]:
    return {room_of(module) for module in MODULES} | {"csrc"}


def arrows() -> set[tuple[str, str]]:
    """The pairs of rooms of which the first imports from the second."""
    found = set()
    for module in MODULES:
        for entry in imports_of(module):
            imported = own_module(entry.name)
            if imported is not None:
                room = "csrc" if imported in COMPILED else room_of(imported)
                if room != room_of(module):
                    found.add((room_of(module), room))
    return found


_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DEFINED = re.compile(r"^(?!static\b)[A-Za-z_][\w \t*]*?\b(\w+)\([^;{}]*\)\s*\{", re.MULTILINE)
_CALLED = re.compile(r"\b(\w+)\s*\(")


def c_calls() -> dict[str, set[str]]:
    """For each C file, the files that define what it calls."""
    code = {path.name: _COMMENT.sub("", path.read_text()) for path in sorted(CSRC.glob("*.c"))}
    home = {name: file for file, text in code.items() for name in _DEFINED.findall(text)}
    return {
        file: {home[name] for name in _CALLED.findall(text) if name in home} - {file} for file, text in code.items()
    }


def circles(edges: Mapping[str, set[str]]) -> set[str]:
    """Whatever can be reached from itself."""

    def reaches(start: str) -> set[str]:
        found: set[str] = set()
        waiting = list(edges[start])
        while waiting:
            node = waiting.pop()
            if node not in found:
                found.add(node)
                waiting.extend(edges.get(node, ()))
        return found

    return {node for node in edges if node in reaches(node)}


def table() -> list[str]:
    """The layers as ARCHITECTURE.md shows them."""
    return [
        "| layer | room | what is in it |",
        "|---|---|---|",
        *(f"| {number} | `{room}` | {what} |" for number, layer in enumerate(LAYERS) for room, what in layer.items()),
    ]


if __name__ == "__main__":
    print(f"{len(rooms())} rooms, {len(arrows())} arrows")
    for room in sorted(rooms()):
        print(f"  {room} -> {' '.join(sorted(to for start, to in arrows() if start == room))}")
    print(f"C files that call each other in a circle: {' '.join(sorted(circles(c_calls()))) or 'none'}")
