"""A KeyboardInterrupt at any bytecode of ours: nothing of ours is left, no file of the user's touched, none lost."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, read_jsonl
from advlog_fast.verification import verify

PROGRAM = Path(__file__).with_name("interrupted.py")
RECORDS = 20

# Every so many bytecodes; a prime beside the others, so that short forms of several calls look at different ones.
FORMS = [pytest.param("short", id="short"), pytest.param("long", id="long", marks=pytest.mark.stress)]
STRIDES = {"constructor": 41, "flush": 7, "close": 7, "end_training": 23, "load_state_dict": 11}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", STRIDES)
def test_a_call_that_is_interrupted_leaves_nothing_behind(tmp_path: Path, call: str, form: str):
    stride = STRIDES[call] if form == "short" else 1
    command = [sys.executable, PROGRAM, call, tmp_path, str(stride)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3000)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["findings"] == []
    assert told["bytecodes"] > 100
    assert told["interrupts"] >= told["bytecodes"] // stride


@pytest.mark.parametrize("stride", [pytest.param(17, id="short"), pytest.param(1, id="long", marks=pytest.mark.stress)])
def test_an_exit_that_is_interrupted_closes_all_the_same(tmp_path: Path, stride: int):
    interrupts = 0
    for at, said in exits(tmp_path, stride):
        log_dir = tmp_path / str(at)
        rows = [row["batch"] for row in read_jsonl(log_dir / "run_metrics.jsonl")]
        assert rows == list(range(1, RECORDS + 1)), said
        with AdvancedLogger(log_dir, "run", console="off", parquet=False) as log:
            assert log.attempt == 2
        assert [finding for finding in verify(log_dir) if not finding.explained] == [], said
        interrupts += bool(said)
    assert interrupts > 100 // stride


def exits(folder: Path, stride: int) -> Iterator[tuple[int, str]]:
    """Processes whose exit handler is interrupted, each at a later bytecode, up to one in which it is not."""
    at = 1
    while True:
        done = subprocess.run(
            [sys.executable, PROGRAM, "exit", folder, str(at)], capture_output=True, text=True, timeout=180
        )
        said = done.stdout.strip()
        yield at, said
        if not said:
            return
        at += stride
