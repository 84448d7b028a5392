"""The layers of the design: a module imports only from a lower number, or from beside itself."""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "advlog_fast"

# The longest name that a module's begins with decides: sinks.text is of the layer of sinks.
LAYERS = {
    "exceptions": 0,
    "records": 0,
    "snapshots": 0,
    "_core": 0,
    "_producer": 0,
    "_failpoints": 0,
    "_tensors": 0,
    "_files": 0,
    "_accounts": 1,
    "_generations": 1,
    "_locks": 1,
    "_native": 1,
    "_paths": 1,
    "_processes": 1,
    "config": 1,
    "sinks": 2,
    "control": 2,
    "_attempts": 2,
    "_statistics": 2,
    "_reduction": 3,
    "_ring": 2,
    "_ring_note": 2,
    "gpu_memory": 2,
    "memory_trend": 2,
    "memory_sampler": 2,
    "ranks": 2,
    "reader": 2,
    "_overflow": 3,
    "_deferral": 3,
    "_child": 3,
    "_workers": 3,
    "_drain": 3,
    "_totals": 3,
    "_sealer": 3,
    "_keeper": 3,
    "_outputs": 3,
    "recovery": 3,
    "verification": 3,
    "compaction": 3,
    "_hooks": 0,
    "_lifecycle": 4,
    "_sessions": 4,
    "logger": 5,
    "progress": 5,
    "integrations": 6,
    "cli": 6,
    "__init__": 7,
    "__main__": 7,
}
COMPILED = {"_core", "_producer"}
TORCH_ALLOWED = {
    "cli._demo_torch": "the demo trains in torch where it is installed; nothing else imports this module",
}

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def layer_of(module):
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        layer = LAYERS.get(".".join(parts[:length]))
        if layer is not None:
            return layer
    return None


def is_for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def imports_of(module):
    """Every import of a module as (line, its absolute name, whether it runs when the module is imported)."""
    tree = ast.parse(MODULES[module].read_text())
    later_or_never = {
        id(node)
        for outer in ast.walk(tree)
        if isinstance(outer, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_for_types(outer)
        for node in ast.walk(outer)
    }
    is_package = MODULES[module].name == "__init__.py"
    package = [] if module == "__init__" else module.split(".")[: None if is_package else -1]
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = ["advlog_fast", *package[: len(package) - node.level + 1], *filter(None, [node.module])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            yield node.lineno, name, id(node) not in later_or_never


def own_module(name):
    """The module of ours that an imported name is, or lies in; None for anyone else's."""
    parts = name.split(".")
    if parts[0] != "advlog_fast":
        return None
    for length in range(len(parts), 1, -1):
        candidate = ".".join(parts[1:length])
        if candidate in MODULES or candidate in COMPILED:
            return candidate
    return "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_module_has_a_layer(module):
    assert layer_of(module) is not None, f"{module}: give it a layer in this file, and in ARCHITECTURE.md"


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_only_from_lower_layers_or_beside_itself(module):
    for line, name, _ in imports_of(module):
        imported = own_module(name)
        if imported is not None:
            upwards = layer_of(imported) > layer_of(module)
            assert not upwards, f"{module}:{line} (layer {layer_of(module)}) imports {imported}"


def test_modules_of_one_layer_do_not_import_each_other_in_a_circle():
    edges = {m: {own_module(name) for _, name, _ in imports_of(m)} - {None, m} for m in MODULES}

    def reaches(start):
        found, waiting = set(), list(edges[start])
        while waiting:
            module = waiting.pop()
            if module not in found:
                found.add(module)
                waiting.extend(edges.get(module, ()))
        return found

    assert [module for module in MODULES if module in reaches(module)] == []


@pytest.mark.parametrize("module", MODULES)
def test_only_native_imports_the_compiled_modules(module):
    found = [(line, name) for line, name, _ in imports_of(module) if own_module(name) in COMPILED]
    assert module == "_native" or not found


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith("integrations.")])
def test_torch_is_imported_by_integrations_only(module):
    found = [(line, name) for line, name, _ in imports_of(module) if name.split(".")[0] == "torch"]
    assert module in TORCH_ALLOWED or not found


@pytest.mark.parametrize("module", MODULES)
def test_pyarrow_is_imported_inside_functions_only(module):
    at_import = [(line, name) for line, name, runs in imports_of(module) if runs and name.split(".")[0] == "pyarrow"]
    assert not at_import


def includes_of(path):
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    ("header", "includer"),
    [("stdatomic.h", "atomics.h"), ("Python.h", "guard.h producer.c"), ("advlog_api.h", "compiler.h")],
)
def test_header_has_one_includer_but_for_what_is_pythons(header, includer):
    sources = [path for path in (CHECKOUT / "csrc").iterdir() if path.suffix in {".c", ".h", ".cpp"}]
    assert sorted(path.name for path in sources if header in includes_of(path)) == includer.split()


def test_the_core_opens_no_files_and_starts_no_threads():
    calls = re.compile(r"\b(open|openat|fopen|creat|pthread_create|thrd_create|fork|localtime_r|localtime)\s*\(")
    comment = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
    for path in (CHECKOUT / "csrc").glob("*.c*"):
        assert not calls.search(comment.sub("", path.read_text())), path.name
