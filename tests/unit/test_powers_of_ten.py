"""The table that numbers are formatted with is what its script writes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

CSRC = Path(__file__).resolve().parents[2] / "csrc"


def test_the_table_of_powers_is_what_its_script_writes():
    spec = importlib.util.spec_from_file_location("powers_of_ten", CSRC / "powers_of_ten.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.header() == (CSRC / "powers_of_ten.h").read_text()
