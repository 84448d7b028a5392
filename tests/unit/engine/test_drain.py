"""What Python does for the drain: its thread, the files opened ahead, the numbers copied out, the end."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path

import pytest

from advlog_fast import read_jsonl
from advlog_fast._native import Producer, lib
from advlog_fast.engine.drain import Drain
from advlog_fast.engine.findings import FAULT, NONFINITE, Finding
from advlog_fast.engine.ring import Ring
from advlog_fast.sinks.jsonl import MetricsJsonlSink
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ranks import RunIdentity


class Rig:
    """A drain with one JSONL sink, and a producer."""

    def __init__(self, folder: Path, max_bytes: int = 1 << 40) -> None:
        self.ring = Ring(RunIdentity("0" * 32, "run", 1, 0, 1, "host", os.getpid()), 0, folder, RunPaths(folder, "run"))
        self.path = folder / "run_metrics.jsonl"
        self.sink = MetricsJsonlSink(self.path, folder / "tmp", 1, max_bytes, 1000)
        self.ticks: list[str] = []
        self.faults: list[str] = []
        self.findings: list[Finding] = []
        self.drain = Drain(
            self.ring,
            [self.sink],
            on_tick=lambda: self.ticks.append(threading.current_thread().name),
            report=self.report,
        )
        self.producer = Producer()
        self.producer._bind(self.ring.address, self.ring)

    def report(self, finding: Finding) -> None:
        if finding.kind == FAULT:
            self.faults.append(finding.message)
        else:
            self.findings.append(finding)

    def push(self, batch: int, loss: float = 0.5, **metrics: float) -> None:
        assert [name for name in metrics if not self.producer._learn(name)] == []
        record = {"epoch": 1, "batch": batch, "loss": loss, **metrics}
        assert self.producer._try_record(lib.ADVLOG_KIND_BATCH, 0, record) == lib.ADVLOG_OK

    def start(self) -> Rig:
        self.drain.files.open()
        self.drain.start()
        return self


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def soon(seconds: float = 30.0) -> float:
    return time.monotonic() + seconds


def test_totals_are_what_was_logged_before_the_question(rig: Rig):
    rig.start()
    for batch in range(1, 101):
        rig.push(batch, loss=float(batch), samples=32.0, other=-float(batch))
    rig.push(101, loss=math.nan, samples=math.inf)
    deadline = soon()
    while len(rig.findings) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert [(found.kind, found.metric) for found in rig.findings] == [(NONFINITE, "loss"), (NONFINITE, "samples")]
    assert [(found.value.seq, found.value.value) for found in rig.findings if found.value] == [
        (101, "nan"),
        (101, "inf"),
    ]
    totals = rig.drain.totals(30.0)
    assert (totals.metric_records, totals.pending, totals.last_batch, totals.last_step) == (101, 0, 101, None)
    loss = totals.metrics["loss"]
    assert (loss.count, loss.mean, loss.min, loss.max, loss.nan) == (100, 50.5, 1.0, 100.0, 1)
    assert loss.first_nonfinite is not None
    assert (loss.first_nonfinite.seq, loss.first_nonfinite.value, loss.first_nonfinite.batch) == (101, "nan", 101)
    assert list(totals.metrics) == ["loss", "samples", "other"]
    assert totals.epoch is not None
    assert (totals.epoch.batches, totals.epoch.samples) == (101, 3200.0)  # what is not finite spoils no sum
    assert totals.step_interval.count == 100
    assert rig.drain.finish(soon())


def test_flush_says_what_is_with_the_operating_system(rig: Rig):
    rig.push(1)
    assert not rig.drain.flush(0.01)  # nothing drains yet
    rig.start()
    assert rig.drain.flush(30)
    assert rig.drain.files.health(rig.sink).written == 1
    assert len(read_jsonl(rig.path)) == 1
    assert rig.drain.finish(soon())
    assert rig.drain.flush(0)


def test_what_flush_waited_for_is_counted_when_it_returns(rig: Rig):
    rig.start()
    for batch in range(300):
        rig.push(batch)
        assert rig.drain.flush(30)
        assert rig.drain.files.health(rig.sink).written == batch + 1
        assert rig.drain.files.state(rig.sink)[1] == batch + 1
    assert rig.drain.finish(soon())


def test_a_tick_comes_on_the_drains_thread(rig: Rig):
    rig.start()
    deadline = soon()
    while len(rig.ticks) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert set(rig.ticks) == {"advlog-drain"}
    assert rig.drain.finish(soon())


def test_the_closing_thread_drains_what_is_left_where_no_thread_ever_ran(rig: Rig):
    rig.drain.files.open()
    for batch in range(200):
        rig.push(batch)
    assert rig.drain.finish(soon())
    assert [row["batch"] for row in read_jsonl(rig.path)] == list(range(200))
    assert rig.producer._try_record(lib.ADVLOG_KIND_BATCH, 0, {"loss": 0.5}) == lib.ADVLOG_CLOSED
    assert rig.sink.open_files() == []


def test_a_deadline_that_has_passed_leaves_the_records_in_the_ring(rig: Rig):
    rig.drain.files.open()
    rig.push(1)
    assert not rig.drain.finish(time.monotonic())
    assert rig.ring.used() == 1
    assert not rig.path.exists() or rig.path.stat().st_size == 0


def test_a_next_file_that_cannot_be_opened_is_a_fault_until_it_can(tmp_path: Path):
    rig = Rig(tmp_path, max_bytes=1000).start()
    rig.push(0)
    assert rig.drain.flush(30)
    hidden = tmp_path / "hidden"
    (tmp_path / "tmp").rename(hidden)
    (tmp_path / "tmp").write_bytes(b"in the way")
    for batch in range(1, 50):
        rig.push(batch)
    deadline = soon()
    while not rig.faults:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "cannot be written" in rig.faults[0]
    (tmp_path / "tmp").unlink()
    hidden.rename(tmp_path / "tmp")
    assert rig.drain.flush(30)
    assert rig.drain.finish(soon())
    assert [row["batch"] for row in read_jsonl(rig.path)] == list(range(50))
    assert "written again; 0 of its records were dropped" in rig.faults[-1]
