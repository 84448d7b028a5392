"""The compiled modules, and what is said where they are missing, or cannot be."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import advlog_fast

CHECKOUT = Path(__file__).resolve().parents[2]
FREE_THREADED = "advlog_fast needs the GIL: free-threaded builds of Python are not supported yet"


def test_sources_that_are_not_built_say_so_and_what_to_do(tmp_path: Path, run_python):
    package = Path(advlog_fast.__file__).parent
    shutil.copytree(package, tmp_path / "advlog_fast", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    ended = run_python("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import advlog_fast")
    assert ended.returncode == 1
    message = ended.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: {tmp_path / 'advlog_fast'} holds the sources of advlog_fast, not built")
    assert message.endswith(f"cd {tmp_path} && python setup.py build_ext --inplace")


def test_a_free_threaded_python_builds_nothing_and_is_told_why(run_python):
    pretend = "import runpy, sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1"
    ended = run_python("-c", f"{pretend}; runpy.run_path({str(CHECKOUT / 'setup.py')!r})")
    assert (ended.returncode, ended.stderr) == (1, FREE_THREADED + "\n")


def test_what_was_built_for_a_free_threaded_python_refuses_to_be_imported(tmp_path: Path, run_python):
    """The module that this Python can load, compiled as if it had no GIL from behind Python's own headers on."""
    headers = [Path(sysconfig.get_path("include")), *Path(sys.prefix).glob("headers/usr/include/python3*")]
    compiler = sysconfig.get_config_var("LDSHARED").split()
    if shutil.which(compiler[0]) is None or not any((folder / "Python.h").exists() for folder in headers):
        pytest.skip("needs a C compiler and Python's headers")
    csrc = CHECKOUT / "csrc"
    source = tmp_path / "producer_type.c"
    source.write_text(f'#include <Python.h>\n#define Py_GIL_DISABLED 1\n#include "{csrc / source.name}"\n')
    others = run_python(
        "-c", f"import sys; sys.path.insert(0, {str(csrc)!r}); import build_ffi; print(*build_ffi.PRODUCER_SOURCES)"
    )
    sources = [source, *(csrc / name for name in others.stdout.split() if name != source.name)]
    folders = [csrc, *headers, *(folder.parent for folder in headers)]
    module = tmp_path / f"_producer{sysconfig.get_config_var('EXT_SUFFIX')}"
    command = [*compiler, "-std=gnu11", "-fPIC", *(f"-I{folder}" for folder in folders), *sources, "-o", module]
    subprocess.run([*map(str, command)], check=True)
    ended = run_python("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import _producer")
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (1, f"ImportError: {FREE_THREADED}")
