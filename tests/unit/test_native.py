"""The compiled modules, and what is said where they are missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import advlog_fast


def test_sources_that_are_not_built_say_so_and_what_to_do(tmp_path: Path, run_python):
    package = Path(advlog_fast.__file__).parent
    shutil.copytree(package, tmp_path / "advlog_fast", ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    ended = run_python("-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import advlog_fast")
    assert ended.returncode == 1
    message = ended.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: {tmp_path / 'advlog_fast'} holds the sources of advlog_fast, not built")
    assert message.endswith(f"cd {tmp_path} && python setup.py build_ext --inplace")
