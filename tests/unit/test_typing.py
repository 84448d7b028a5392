"""The public API is typed: a strict program can use all of it, and no annotation is missing.

The package is read as a library, from a copy without the compiled modules: so it is the same for an installed package
and, for `make lint`, for a checkout that was never built.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TYPING = Path(__file__).resolve().parents[1] / "typing"
USES = TYPING / "uses.py"
PUBLIC = {
    "AdvancedLogger": "logger",
    "AdvlogError": "exceptions",
    "Comparison": "reader.comparing",
    "ErrorLog": "records",
    "Followed": "reader.following",
    "Heat": "pictures.picture",
    "Health": "snapshots",
    "LoggerConfig": "config",
    "Picture": "pictures.picture",
    "Run": "reader.run",
    "RunBusyError": "exceptions",
    "RunNotFoundError": "exceptions",
    "TrainingMetrics": "records",
    "TrainingProgressTracker": "progress",
    "compare": "reader.comparing",
    "follow": "reader.following",
    "list_runs": "reader.listing",
    "read_jsonl": "reader.lines",
    "read_run": "reader.run",
    "safe_name": "store.paths",
}
SEEN_THROUGH_THEM = {
    "CallCost": "snapshots",
    "ControlCalls": "control_calls",
    "MemorySample": "sampling.memory_sampler",
    "Producer": "_producer",
    "SinkHealth": "snapshots",
    "TrainingContext": "control.contexts",
}
LOST = {
    "of a method that every program calls": (
        "logger.py",
        "def flush(self, timeout: float | None = None) -> bool:",
        " -> bool",
    ),
    "of a table": ("reader/run.py", "def metrics(self) -> pa.Table:", " -> pa.Table"),
    "of an argument": ("control_calls.py", "operation: str, action: str, success: bool = True", ": bool"),
    "of the hot call": ("_producer.pyi", "epoch: float | None,", ": float | None"),
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's sources."""
    spec = importlib.util.find_spec("advlog_fast")
    assert spec is not None
    assert spec.origin is not None
    library = tmp_path_factory.mktemp("library")
    leave_out = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(spec.origin).parent, library / "advlog_fast", ignore=leave_out)
    return library


@pytest.fixture(scope="module")
def mypy(tmp_path_factory: pytest.TempPathFactory):
    """Checks the program with the package in a folder; returns what mypy says."""
    pytest.importorskip("mypy", reason="needs mypy, which `make lint` installs")
    cache = tmp_path_factory.mktemp("mypy")

    def check(library: Path) -> str:
        command = [sys.executable, "-m", "mypy", "--config-file", TYPING / "mypy.ini", "--cache-dir", cache, USES]
        environment = dict(os.environ, MYPYPATH=str(library))
        return subprocess.run(command, cwd=cache, env=environment, capture_output=True, text=True, timeout=300).stdout

    return check


def test_a_strict_program_may_use_every_public_name(library: Path, mypy):
    said = mypy(library)
    assert said.startswith("Success"), said


@pytest.mark.parametrize("lost", LOST)
def test_an_annotation_that_got_lost_is_noticed(lost: str, library: Path, mypy, tmp_path: Path):
    file, definition, annotation = LOST[lost]
    shutil.copytree(library, tmp_path, dirs_exist_ok=True)
    source = tmp_path / "advlog_fast" / file
    text = source.read_text()
    assert definition in text
    source.write_text(text.replace(definition, definition.replace(annotation, "")))
    assert "uses.py" in mypy(tmp_path)


def test_the_program_uses_every_public_name(library: Path):
    module = ast.parse((library / "advlog_fast" / "__init__.py").read_text())
    names = next(
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    assert {*names} == {*PUBLIC, "__version__"}
    used = {node.id for node in ast.walk(ast.parse(USES.read_text())) if isinstance(node, ast.Name)}
    assert used >= {*PUBLIC}


def test_the_types_of_the_public_names_are_complete(library: Path, tmp_path: Path):
    """As pyright counts it, which takes all modules for public; here only what is seen through `__all__`."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("needs pyright, which `make lint` installs")
    # It asks the first python on PATH where the packages are.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = dict(os.environ, PATH=path, PYTHONPATH=str(library), PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    command = [sys.executable, "-m", "pyright", "--verifytypes", "advlog_fast", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    try:
        report = json.loads(done.stdout)["typeCompleteness"]
    except ValueError:
        pytest.skip(f"pyright does not run here: {done.stderr.strip()[-200:]}")
    assert Path(report["packageRootDirectory"]).parent == library
    roots = [f"advlog_fast.{module}.{name}" for name, module in (PUBLIC | SEEN_THROUGH_THEM).items()]
    symbols = {symbol["name"]: symbol for symbol in report["symbols"]}
    public = [name for name in symbols if any(name == root or name.startswith(f"{root}.") for root in roots)]
    assert [root for root in roots if root not in symbols] == []
    assert len(public) > 200
    incomplete = {name: symbols[name] for name in public}
    assert [name for name, each in incomplete.items() if not each["isTypeKnown"] or each["isTypeAmbiguous"]] == []
