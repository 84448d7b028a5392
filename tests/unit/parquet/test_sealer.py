"""The sealer: every closed spool becomes a part, whatever the disk does meanwhile, and no caller pays."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from unit.spools import Spool

from advlog_fast.parquet.sealer import PartSchedule, Sealer
from advlog_fast.sinks.base import ClosedFile, OpenFile
from advlog_fast.sinks.spool import SpoolSink
from advlog_fast.store.paths import RunPaths

pq = pytest.importorskip("pyarrow.parquet")


def until(condition: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.005)


def run(code: str, argument: str) -> str:
    """What the code prints in an interpreter of its own, in which warnings are errors."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, argument],
        capture_output=True,
        text=True,
        timeout=180,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(root / "tests"), *sys.path])),
    )
    assert done.stderr == ""
    return done.stdout


class Bench:
    """A sealer, what it told, and spools for it."""

    def __init__(self, log_dir: Path) -> None:
        self.paths = RunPaths(log_dir, "exp")
        self.faults: list[str] = []
        self.next_seq = {"metrics": 0, "system": 0}
        self.sealer = Sealer(self.paths, on_fault=self.faults.append)

    def spool(self, part: int, records: int = 10, stream: str = "metrics") -> Path:
        spool = Spool(stream, first_seq=self.next_seq[stream])
        for index in range(records):
            spool.add({"batch_time": float(index)})
        return spool.write(self.paths.spool(stream, 1, part))

    def submit(self, path: Path, part: int, records: int = 10, stream: str = "metrics") -> None:
        first = self.next_seq[stream]
        self.next_seq[stream] = first + records
        self.sealer.submit(stream, path, part, first, first + records)

    def both(self, part: int, records: int = 10, stream: str = "metrics") -> Path:
        path = self.spool(part, records, stream)
        self.submit(path, part, records, stream)
        return path

    def seqs(self, part: int, stream: str = "metrics") -> list[int]:
        """The records of a part, in its order."""
        seqs: list[int] = pq.ParquetFile(self.paths.part(stream, 1, part)).read(["seq"]).column("seq").to_pylist()
        return seqs

    def seal_all(self, seconds: float = 20) -> bool:
        return self.sealer.seal_all(time.monotonic() + seconds)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.sealer.stop()


def test_each_stream_is_sealed_in_order(bench):
    for part in range(1, 6):
        bench.both(part)
        bench.both(part, 3, "system")
    assert bench.seal_all()
    assert bench.sealer.has_sealed("metrics", 0, 50)
    assert bench.sealer.has_sealed("system", 0, 15)
    assert not bench.sealer.has_sealed("metrics", 0, 51)
    assert (bench.sealer.parts, bench.sealer.rows, bench.sealer.faults) == (10, 65, 0)
    assert (bench.sealer.error, bench.faults, bench.sealer.pending) == (None, [], 0)
    assert [bench.seqs(part) for part in range(1, 6)] == [list(range(n, n + 10)) for n in range(0, 50, 10)]
    assert [bench.seqs(part, "system") for part in range(1, 6)] == [[n, n + 1, n + 2] for n in range(0, 15, 3)]
    sealed = [bench.paths.part("metrics", 1, part).stat().st_mtime_ns for part in range(1, 6)]
    assert sealed == sorted(sealed)


def test_a_truncated_schema_is_told_once_and_sealing_goes_on(bench: Bench):
    bench.both(1)
    assert bench.seal_all()
    bench.paths.schema("metrics").write_text('["lo')
    for part in (2, 3, 4):
        bench.both(part)
        assert bench.seal_all()
    (fault,) = bench.faults
    assert "the run's schema could not be read and was made again; kept as metrics_schema.json.damaged" in fault
    assert (bench.sealer.parts, bench.sealer.rows, bench.sealer.faults) == (4, 40, 1)
    assert [bench.seqs(part)[0] for part in (1, 2, 3, 4)] == [0, 10, 20, 30]


def test_a_spool_is_sealed_without_anyone_asking(bench):
    bench.both(1)
    until(lambda: bench.sealer.has_sealed("metrics", 0, 10))


def test_a_fault_keeps_the_spool_and_a_later_try_succeeds(bench, tmp_path):
    bench.paths.metrics_parquet.write_text("in the way")
    path = bench.both(1)
    until(lambda: bench.sealer.faults > 0)
    assert path.exists()
    assert not bench.sealer.has_sealed("metrics", 0, 1)
    bench.paths.metrics_parquet.unlink()
    until(lambda: bench.sealer.has_sealed("metrics", 0, 10))
    assert not path.exists()
    assert bench.sealer.pending == 0


def test_a_fault_that_lasts_is_told_once_and_holds_up_its_own_stream_only(bench):
    bench.paths.metrics_parquet.write_text("in the way")
    bench.both(1)
    bench.both(2)
    bench.both(1, 3, "system")
    until(lambda: bench.sealer.has_sealed("system", 0, 3))
    assert not bench.seal_all()
    assert not bench.seal_all()
    assert bench.sealer.faults >= 2
    assert len(bench.faults) == 1
    assert "metrics-attempt1-rank00000-000001.spool could not be sealed: " in bench.faults[0]
    assert bench.sealer.error.startswith(bench.faults[0][:60])
    assert bench.sealer.pending == 2
    bench.paths.metrics_parquet.unlink()
    assert bench.seal_all()
    assert bench.sealer.has_sealed("metrics", 0, 20)
    assert [len(bench.seqs(part)) for part in (1, 2)] == [10, 10]


def test_seal_all_does_not_wait_for_a_retry_that_is_far_off(bench):
    bench.paths.metrics_parquet.write_text("in the way")
    bench.both(1)
    until(lambda: bench.sealer.faults >= 2)  # the next try is 2 s away
    bench.paths.metrics_parquet.unlink()
    assert bench.seal_all(1.5)


def test_records_dropped_between_two_spools_are_no_damage(bench):
    """The drain says of the first spool's file that 15 records came after its ten, which it dropped."""
    sink = SpoolSink("metrics", bench.paths, 1, 10, bench.sealer.submit)
    for part, first, next_seq in ((1, 0, 25), (2, 25, 35)):
        bench.next_seq["metrics"] = first
        file = OpenFile(-1, 0, 0, part, bench.spool(part))
        sink.publish(ClosedFile(file, first, next_seq, 10), last=False)
    assert bench.seal_all()
    assert (bench.faults, bench.sealer.faults) == ([], 0)
    assert bench.sealer.has_sealed("metrics", 0, 10)
    assert bench.sealer.has_sealed("metrics", 25, 35)
    assert not any(bench.sealer.has_sealed("metrics", first, 30) for first in (0, 10, 24))
    assert bench.seqs(2) == list(range(25, 35))


def test_a_damaged_spool_is_told_and_what_it_lost_never_counts_as_sealed(bench):
    path = bench.spool(1)
    data = bytearray(path.read_bytes())
    data[128 * 7 + 8] = 99  # the kind of record 6
    path.write_bytes(data)
    bench.submit(path, 1)
    bench.both(2)
    assert bench.seal_all()
    assert bench.faults == [
        f"{path}: records 6 to 9 cannot be read; 512 bytes are damaged; kept as {path.name}.damaged"
    ]
    assert path.with_name(path.name + ".damaged").exists()
    assert bench.sealer.has_sealed("metrics", 0, 6)
    assert bench.sealer.has_sealed("metrics", 10, 20)
    assert not any(bench.sealer.has_sealed("metrics", seq, seq + 1) for seq in range(6, 10))
    assert (bench.sealer.parts, bench.sealer.rows) == (2, 16)


def test_a_spool_that_vanished_is_told_and_the_next_is_sealed(bench):
    path = bench.spool(1)
    path.unlink()
    bench.submit(path, 1)
    bench.both(2)
    assert bench.seal_all()
    assert bench.faults == [f"{path}: gone, with records 0 to 9"]
    assert not bench.sealer.has_sealed("metrics", 0, 1)
    assert bench.paths.part("metrics", 1, 2).exists()


def test_a_callback_that_raises_hurts_nobody(tmp_path):
    def broken(_: object) -> None:
        raise RuntimeError("a callback's own fault")

    bench = Bench(tmp_path)
    bench.sealer.stop()
    bench.sealer = Sealer(bench.paths, on_fault=broken)
    missing = bench.spool(1)
    missing.unlink()
    bench.submit(missing, 1)
    bench.both(2)
    assert bench.seal_all()
    assert bench.sealer.parts == 1
    bench.sealer.stop()


def test_after_stop_seal_all_works_in_the_calling_thread(bench):
    bench.sealer.stop()
    path = bench.both(1)
    time.sleep(0.05)
    assert path.exists()
    gone = bench.spool(2)
    gone.unlink()
    bench.submit(gone, 2)
    threads: list[str] = []
    bench.sealer._on_fault = lambda _: threads.append(threading.current_thread().name)
    assert bench.seal_all()
    assert threads == [threading.current_thread().name]
    assert bench.sealer.has_sealed("metrics", 0, 10)


def test_stop_ends_an_idle_thread_at_once(bench):
    began = time.monotonic()
    bench.sealer.stop(10)
    bench.sealer.stop(10)
    assert time.monotonic() - began < 9
    assert not bench.sealer._thread.is_alive() or bench.sealer._ended


def test_seal_all_comes_back_at_its_deadline_from_a_thread_that_hangs(tmp_path: Path):
    paths = RunPaths(tmp_path, "exp")
    go_on = threading.Event()
    sealer = Sealer(paths, on_fault=lambda _message: go_on.wait())
    sealer.submit("metrics", paths.spool("metrics", 1, 1), 1, 1, 2)  # it is not there, which is told
    began = time.monotonic()
    assert not sealer.seal_all(time.monotonic() + 0.3)
    sealer.stop(0.1)
    assert not sealer.seal_all(time.monotonic() + 0.1)
    assert 0.5 <= time.monotonic() - began < 15
    go_on.set()


def test_a_spool_that_is_no_file_of_ours_hangs_nobody_and_stays(bench):
    pipe = bench.paths.spool("metrics", 1, 1)
    pipe.parent.mkdir(parents=True)
    os.mkfifo(pipe)
    bench.submit(pipe, 1)
    bench.both(2)
    assert bench.seal_all()
    (told,) = bench.faults
    assert told.startswith(f"{pipe}: expected a regular file")
    assert pipe.is_fifo()
    assert bench.sealer.has_sealed("metrics", 10, 20)


AT_EXIT = """
import atexit, sys, time
from pathlib import Path
from unit.spools import Spool
from advlog_fast.store.paths import RunPaths
from advlog_fast.parquet.sealer import Sealer
paths = RunPaths(Path(sys.argv[1]), "exp")
sealer = Sealer(paths)
def close():
    path = Spool().add({"loss": 1.0}).write(paths.spool("metrics", 1, 1))
    sealer.submit("metrics", path, 1, 0, 1)
    print(sealer.seal_all(time.monotonic() + 20), sealer.has_sealed("metrics", 0, 1))
atexit.register(close)
"""


def test_a_spool_submitted_at_the_exit_of_the_interpreter_is_sealed(tmp_path):
    assert run(AT_EXIT, str(tmp_path)) == "True True\n"


IMPORTS = """
import sys, time
from pathlib import Path
from unit.spools import MEMORY, Late, Spool
from advlog_fast.store.paths import RunPaths
from advlog_fast.parquet.sealer import Sealer
assert "pyarrow" not in sys.modules
paths = RunPaths(Path(sys.argv[1]), "exp")
sealer = Sealer(paths)
before = set(sys.modules)
for part, metric in ((1, "early"), (2, "late")):
    spool = Spool(first_seq=part - 1).add({"loss": Late(1), metric: Late(2), "x": 1.0}, step=1)
    sealer.submit("metrics", spool.write(paths.spool("metrics", 1, part)), part, part - 1, part)
spool = Spool("system").add({"rss": 1.0}, kind=MEMORY).add({"batch_time": 1.0})
sealer.submit("system", spool.write(paths.spool("system", 1, 1)), 1, 0, 2)
print(sealer.seal_all(time.monotonic() + 20), sealer.error, sorted(set(sys.modules) - before))
"""


def test_sealing_imports_nothing_more_than_making_the_sealer_did(tmp_path):
    """Above all not pandas, which much of pyarrow imports where it is installed."""
    assert run(IMPORTS, str(tmp_path)) == "True None []\n"


class TestPartSchedule:
    """When spools are closed, on a clock that the test turns."""

    def test_the_waits_double_up_to_the_longest(self):
        schedule = PartSchedule(300.0)
        now = 1000.0
        waits = []
        for part in range(1, 9):
            began = now
            while not schedule.due(now, part, records=1):
                now += 0.5
            waits.append(now - began)
        assert waits == [10, 20, 40, 80, 160, 300, 300, 300]

    def test_the_first_wait_is_never_longer_than_the_longest(self):
        schedule = PartSchedule(longest_s=0.5)
        assert not schedule.due(0.0, 1, 1)
        assert schedule.due(0.5, 1, 1)

    def test_a_spool_without_records_is_not_closed_and_does_not_age(self):
        schedule = PartSchedule(300.0)
        assert not any(schedule.due(float(now), 1, records=0) for now in range(1000))
        assert not schedule.due(1000.0, 1, 1)
        assert not schedule.due(1009.9, 1, 2)
        assert schedule.due(1010.0, 1, 3)

    def test_it_says_so_once_a_part(self):
        schedule = PartSchedule(300.0)
        assert not schedule.due(0.0, 1, 1)
        assert schedule.due(10.0, 1, 1)
        assert not schedule.due(500.0, 1, 1)

    def test_a_spool_closed_by_its_size_starts_the_wait_anew_without_doubling(self):
        schedule = PartSchedule(300.0)
        assert not schedule.due(0.0, 1, 1)
        assert not schedule.due(9.0, 2, 1)
        assert not schedule.due(18.9, 2, 1)
        assert schedule.due(19.0, 2, 1)
        assert schedule.wait_s == 20.0
