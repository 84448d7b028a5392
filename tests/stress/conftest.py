"""The processes and builds that the fault tests share."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from stress.harness import Zygote

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs the package under test."""
    started = Zygote(tmp_path_factory.mktemp("zygote"))
    yield started
    started.stop()


@pytest.fixture(scope="session")
def rank_zygotes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Zygote]]:
    """One for each of four ranks, which live side by side."""
    started = [Zygote(tmp_path_factory.mktemp(f"rank{rank}")) for rank in range(4)]
    yield started
    for zygote in started:
        zygote.stop()


@pytest.fixture(scope="session")
def failing_zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs a copy of the package that can be killed at every failpoint."""
    folder = tmp_path_factory.mktemp("failpoints")
    build_with_failpoints(folder)
    started = Zygote(folder, package=folder)
    yield started
    started.stop()


def build_with_failpoints(folder: Path) -> None:
    """By the compiler alone: an environment that only tests has no build tools of Python's."""
    headers = [Path(sysconfig.get_path("include")), *Path(sys.prefix).glob("headers/**/python3*")]
    include = next((path for path in headers if (path / "Python.h").exists()), None)
    if include is None:
        pytest.skip(f"needs Python.h, which is not in {sysconfig.get_path('include')}")
    shutil.copytree(CHECKOUT / "csrc", folder / "csrc")
    shutil.copytree(
        CHECKOUT / "advlog_fast", folder / "advlog_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    spec = importlib.util.spec_from_file_location("build_ffi", folder / "csrc" / "build_ffi.py")
    assert spec is not None
    assert spec.loader is not None
    build_ffi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build_ffi)
    build_ffi.ffi.emit_c_code(str(folder / "csrc" / "core.c"))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    flags = ["-O0", "-shared", "-fPIC", "-w", "-DADVLOG_FAILPOINTS", "-Icsrc", f"-I{include}"]
    for module, sources in (
        ("_core", ["core.c", *build_ffi.SOURCES]),
        ("_producer", build_ffi.PRODUCER_SOURCES),
    ):
        objects = []
        for source in sources:
            target = f"{module}-{source}.o"
            compile_(["gcc", "-std=gnu11", "-c", f"csrc/{source}", "-o", target, *flags], folder)
            objects.append(target)
        compile_(["gcc", "-shared", "-o", f"advlog_fast/{module}{suffix}", *objects], folder)


def compile_(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    assert done.returncode == 0, done.stderr
