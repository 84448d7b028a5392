"""The calls while a disk hangs for a minute."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from runs import ROOT, Record, Rounds, run_program


def bench_hung_sink(rounds: Rounds, record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, control = tmp_path / "io_shim.so", tmp_path / "control"
    source = ROOT / "tests" / "stress" / "io_shim.c"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    control.write_bytes(bytes(4096))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("ADVLOG_SHIM", str(control))
    (run,) = rounds(lambda: run_program("hung_sink.py", tmp_path / "logs", control, 60), 1)
    assert not run.figures["closed"]
    record(**run.figures)
