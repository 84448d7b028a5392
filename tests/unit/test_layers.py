"""The house: a room imports from lower layers only, and nothing in a circle. tests/rooms.py has the table."""

import ast
import re

import pytest
from rooms import (
    CHECKOUT,
    COMPILED,
    CSRC,
    LAYER_OF,
    LAYERS,
    MODULES,
    arrows,
    c_calls,
    circles,
    imports_of,
    own_module,
    room_of,
    rooms,
    table,
)

TORCH_ALLOWED = {
    "cli.demo_torch": "the demo trains in torch where it is installed; nothing else imports this module",
}


def test_each_room_has_a_layer_and_each_layer_its_rooms():
    assert rooms() - {"csrc"} == set(LAYER_OF)


def test_the_rooms_and_the_arrows_between_them_stay_few():
    assert len(rooms()) <= 32
    assert len(arrows()) <= 160


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_lower_layers_or_from_its_own_room(module):
    layer = LAYER_OF[room_of(module)]
    for line, name, _ in imports_of(module):
        imported = own_module(name)
        if imported is not None and imported not in COMPILED and room_of(imported) != room_of(module):
            assert LAYER_OF[room_of(imported)] < layer, f"{module}:{line} (layer {layer}) imports {imported}"


def test_no_module_imports_itself_through_others():
    edges = {m: {own_module(entry.name) for entry in imports_of(m)} - {None, m} for m in MODULES}
    assert circles(edges) == set()


def test_no_c_file_calls_itself_through_others():
    assert circles(c_calls()) == set()


def test_the_architecture_shows_the_table_of_layers():
    assert "\n".join(table()) in (CHECKOUT / "ARCHITECTURE.md").read_text()


@pytest.mark.parametrize(
    "module", [m for m in MODULES if "." not in m and MODULES[m].name == "__init__.py" and m != "__init__"]
)
def test_a_room_says_what_it_is_for(module):
    text = MODULES[module].read_text().split('"""')[1]
    assert 3 <= len(text.strip().splitlines()) <= 10
    assert "Never" in text
    assert "Read first" in text


@pytest.mark.parametrize("module", MODULES)
def test_only_native_imports_the_compiled_modules(module):
    found = [(line, name) for line, name, _ in imports_of(module) if own_module(name) in COMPILED]
    assert module == "_native" or not found


def test_only_modules_of_the_ground_floor_begin_with_an_underscore():
    underscored = {module for module in MODULES if re.search(r"(^|\.)_[a-z]\w*$", module)}
    assert underscored == {room for room in LAYERS[0] if room.startswith("_")}


@pytest.mark.parametrize("module", MODULES)
def test_torch_is_imported_by_the_demo_only(module):
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
    [
        ("stdatomic.h", "atomics.h"),
        ("Python.h", "guard.h producer.h"),
        ("advlog_api.h", "compiler.h"),
        ("stats_api.h", "compiler.h"),
        ("spool_api.h", "compiler.h"),
        ("buckets_api.h", "compiler.h"),
    ],
)
def test_header_has_one_includer_but_for_what_is_pythons(header, includer):
    sources = [path for path in CSRC.iterdir() if path.suffix in {".c", ".h"}]
    assert sorted(path.name for path in sources if header in includes_of(path)) == includer.split()


def test_the_core_opens_no_files_and_starts_no_threads():
    calls = re.compile(r"\b(open|openat|fopen|creat|pthread_create|thrd_create|fork|localtime_r|localtime)\s*\(")
    comment = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
    for path in CSRC.glob("*.c"):
        assert not calls.search(comment.sub("", path.read_text())), path.name


# Each says at its top why it is larger.
LARGE_CLASSES = {
    "AdvancedLogger": "the public logger: one method for each call",
    "ControlCalls": "the other half of it, likewise",
    "LoggerConfig": "one attribute for each option",
    "AdvlogCallback": "one method for each hook of a framework",
    "Health": "one attribute for each count",
    "RunPaths": "one property for each file of a run",
    "Run": "the public reader: one property for each table",
}


def sizes_of(cls):
    """How many methods and attributes of its own a class has."""
    methods = [node for node in cls.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    attributes = {node.target.id for node in cls.body if isinstance(node, ast.AnnAssign)}
    for method in methods:
        for node in ast.walk(method):
            stored = isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
            if stored and isinstance(node.value, ast.Name) and node.value.id == "self":
                attributes.add(node.attr)
    return len(methods), len(attributes)


@pytest.mark.parametrize("module", MODULES)
def test_no_class_does_the_work_of_several(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ClassDef) and node.name not in LARGE_CLASSES:
            assert max(sizes_of(node)) <= 20, f"{module}: {node.name}"


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_longer_than_a_reader_holds(module):
    assert len(MODULES[module].read_text().splitlines()) <= 400


def test_no_c_file_is_longer_than_a_reader_holds():
    table = "powers_of_ten.h"
    lengths = {path.name: len(path.read_text().splitlines()) for path in CSRC.iterdir() if path.suffix in {".c", ".h"}}
    assert {name: length for name, length in lengths.items() if length > 500 and name != table} == {}
