"""The README's code runs, and prints what it says."""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from advlog_fast import LoggerConfig

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


def test_the_table_of_options_has_every_option_with_its_default():
    table = README.read_text().split("## Options")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line.startswith("| `")
    ]
    fields = {field.name: field.default for field in dataclasses.fields(LoggerConfig)}
    shown = {}
    for names, defaults, *_ in rows:
        options = re.findall(r"`(\w+)`", names)
        texts = re.split(r", (?!\d{3})", defaults)
        shown.update(zip(options, texts if len(texts) > 1 else texts * len(options), strict=False))
    signature = set(list(fields)[:5])
    assert set(shown) == set(fields) - signature
    for name, text in shown.items():
        literal = text.strip("`").replace(",", "") if "(" not in text else text.strip("`")
        if text.startswith("`") or literal.isdigit():
            assert ast.literal_eval(literal) == fields[name], name
