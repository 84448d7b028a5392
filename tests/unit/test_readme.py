"""The README's code runs, and prints what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).resolve().parents[2] / "README.md"
BLOCKS = re.findall(r"```(python|text)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_every_python_block_runs_in_order_and_the_quickstart_prints_what_it_says(tmp_path: Path):
    for module in ("duckdb", "pandas", "polars"):
        pytest.importorskip(module, reason="the README reads Parquet with it")
    code = [block for kind, block in BLOCKS if kind == "python"]
    printed = next(block for kind, block in BLOCKS if kind == "text")
    assert len(code) >= 4
    script = tmp_path / "readme.py"
    script.write_text("\n".join(code))
    done = subprocess.run([sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == printed
    line, record = [block for kind, block in BLOCKS if kind == "text"][1].splitlines()
    logged = (tmp_path / "logs" / "quickstart_training.log").read_text().splitlines()
    assert line[27:] in [entry[27:] for entry in logged]
    rows = (tmp_path / "logs" / "quickstart_metrics.jsonl").read_text().splitlines()
    assert record[42:] == rows[0][42:]


def test_the_file_table_names_what_a_run_leaves(tmp_path: Path):
    code = next(block for kind, block in BLOCKS if kind == "python")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120, capture_output=True)
    table = README.read_text(encoding="utf-8").split("| file | what is in it |")[1].split("\n\n")[0]
    named = {name.replace("NAME", "quickstart").rstrip("/") for name in re.findall(r"`((?:NAME|\.)[^`|]*)`", table)}
    # No memory sample is due within the quickstart, so the system stream has no part.
    assert set(os.listdir(tmp_path / "logs")) == named - {"quickstart_system.parquet"}
