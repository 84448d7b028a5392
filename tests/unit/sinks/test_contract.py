"""What holds for every sink alike, from the ring to the files as a reader finds them."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from run_files import text_lines

from advlog_fast import read_jsonl, read_run
from advlog_fast._native import ffi, lib
from advlog_fast.engine.drain import Drain
from advlog_fast.engine.ring import Ring
from advlog_fast.parquet.sealer import Sealer
from advlog_fast.sinks.base import Sink
from advlog_fast.sinks.jsonl import MetricsJsonlSink, SystemJsonlSink
from advlog_fast.sinks.spool import SpoolSink
from advlog_fast.sinks.text import TextSink
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ranks import RunIdentity
from advlog_fast.store.rotated_files import rotated_files

NO_LIMIT = 1 << 40
BEFORE = b"what stood there before\n"


class Rig:
    """One sink behind a ring of its own, and the way to read what it wrote."""

    def __init__(self, what: str, log_dir: Path, max_bytes: int = NO_LIMIT, max_files: int = 1000) -> None:
        self.what = what
        self.paths = RunPaths(log_dir, "run")
        self.paths.temporary.mkdir(parents=True, exist_ok=True)
        self.max_bytes, self.max_files = max_bytes, max_files
        self.faults: list[str] = []
        self.pushed = 0
        self.sealer: Sealer | None = None
        self.path: Path | None = None
        self.sink = self._sink()
        run = RunIdentity("0" * 32, "run", 1, 0, 1, "host", os.getpid())
        self.ring = Ring(run, 0, log_dir / "ring", RunPaths(log_dir, "run"), start=(1 << 64) - 100)
        self.drain = Drain(
            self.ring, [self.sink], on_tick=lambda: None, report=lambda finding: self.faults.append(finding.message)
        )

    def _sink(self) -> Sink:
        if self.what.endswith("parquet"):
            self.sealer = Sealer(self.paths)
            # A spool is limited by its records: about as many as lines go into max_bytes.
            rows = 1 + self.max_bytes // 200
            return SpoolSink(self.what.removesuffix("_parquet"), self.paths, 1, rows, self.sealer.submit)
        kinds = {"text": TextSink, "metrics_jsonl": MetricsJsonlSink, "system_jsonl": SystemJsonlSink}
        self.path = self.paths.training_log if self.what == "text" else getattr(self.paths, self.what)
        return kinds[self.what](self.path, self.paths.temporary, 1, self.max_bytes, self.max_files)

    def open(self) -> Rig:
        self.drain.files.open()
        self.drain.start()
        return self

    def push(self, count: int) -> None:
        """Records 1, 2, ... of the sink's stream, by their batch_time; wherever the ring is full, it waits."""
        system = self.sink.stream == lib.ADVLOG_STREAM_SYSTEM
        fields = {"kind": lib.ADVLOG_KIND_PERFORMANCE if system else lib.ADVLOG_KIND_BATCH, "time_ns": 10**18}
        record = ffi.new("advlog_record *", {**fields, "present": 1 << lib.ADVLOG_BATCH_TIME})
        for _ in range(count):
            self.pushed += 1
            record.core[lib.ADVLOG_BATCH_TIME] = self.pushed
            while (status := lib.advlog_push(self.ring.handle, record)) == lib.ADVLOG_FULL:
                assert lib.advlog_wait_room(self.ring.handle, 1, 10**11) == lib.ADVLOG_OK
            assert status == lib.ADVLOG_OK

    def until(self, wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not wanted():
            assert time.monotonic() < deadline, self.drain.files.health(self.sink)
            time.sleep(0.002)

    def finish(self) -> None:
        assert self.drain.finish(time.monotonic() + 30)
        if self.sealer is not None:
            assert self.sealer.seal_all(time.monotonic() + 30)
            self.sealer.stop()
        self.ring.file.remove()
        account = self.drain.files.health(self.sink)
        assert (account.accepted, account.pending) == (self.pushed, 0)
        assert account.written + account.dropped == self.pushed

    def files(self) -> list[Path]:
        """The sink's finished files, oldest first."""
        if self.path is None:
            return sorted(self.paths.log_dir.glob("*.parquet/*/*.parquet"))
        return [file for file in (*rotated_files(self.path), self.path) if file.exists()]

    def numbers(self) -> list[float]:
        """Which records are in the files, in their order there."""
        if self.what == "text":
            return [float(line.fields["batch_time"]) for file in self.files() for line in text_lines(file)]
        if self.path is not None:
            rows = read_jsonl(self.path)
        else:
            run = read_run(self.paths.log_dir, "run")
            rows = (run.metrics if "metrics" in self.what else run.system).to_pylist()
        assert [row["seq"] for row in rows] == [int(row["batch_time"]) for row in rows]
        return [row["batch_time"] for row in rows]


@pytest.fixture(params=["text", "metrics_jsonl", "system_jsonl", "metrics_parquet", "system_parquet"])
def what(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Sets how large a file of this process may become: a disk that is full, and has room again at -1."""
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size if size >= 0 else soft, hard))

    yield limit
    limit(-1)
    signal.signal(signal.SIGXFSZ, old)


def test_every_record_is_written_once_and_in_order(what: str, tmp_path: Path):
    rig = Rig(what, tmp_path).open()
    rig.push(5000)
    assert rig.drain.flush(30)
    assert rig.drain.files.health(rig.sink).written == 5000
    rig.finish()
    assert rig.numbers() == list(range(1, 5001))
    assert rig.faults == []


def test_what_stood_there_before_is_neither_continued_nor_overwritten(what: str, tmp_path: Path):
    rig = Rig(what, tmp_path)
    stood = rig.path or rig.paths.part("metrics" if "metrics" in what else "system", 1, 1)
    stood.parent.mkdir(parents=True, exist_ok=True)
    if rig.path is None:
        # A part of another attempt; this one's number is its own.
        earlier = Rig(what, tmp_path).open()
        earlier.push(1)
        earlier.finish()
        stood = stood.rename(stood.with_name("rank00001-000001.parquet"))
        before = stood.read_bytes()
    else:
        before = BEFORE
        stood.write_bytes(before)
        stood = stood.with_name(stood.name + ".1")
    rig.open()
    rig.push(10)
    rig.finish()
    assert stood.read_bytes() == before
    if rig.path is not None:
        assert BEFORE not in rig.path.read_bytes()
        stood.unlink()
        assert rig.numbers() == list(range(1, 11))


@pytest.mark.parametrize("max_bytes", [1, 2000, 2001, 2002, 20_000])
def test_no_file_exceeds_its_limit_and_none_is_left_out(what: str, tmp_path: Path, max_bytes: int):
    rig = Rig(what, tmp_path, max_bytes).open()
    rig.push(500 if max_bytes > 1 else 20)
    rig.finish()
    files = rig.files()
    assert len(files) > 1
    assert rig.numbers() == list(range(1, rig.pushed + 1))
    if rig.path is None:
        return
    assert files[1:-1] == sorted(files[1:-1], key=lambda file: -int(file.suffix[1:]))
    sizes = [file.stat().st_size for file in files]
    longest = max(len(line) for file in files for line in file.read_bytes().splitlines(keepends=True))
    assert max(sizes) <= max(max_bytes, longest)
    # No file ends before it must.
    firsts = [len(file.read_bytes().splitlines(keepends=True)[0]) for file in files[1:]]
    assert all(size + first > max_bytes for size, first in zip(sizes[:-1], firsts, strict=True))


@pytest.mark.parametrize("max_files", [1, 2, 5])
def test_the_oldest_files_go_and_their_records_are_counted_as_expired(what: str, tmp_path: Path, max_files: int):
    rig = Rig(what, tmp_path, 2000, max_files).open()
    rig.push(300)
    rig.finish()
    numbers = rig.numbers()
    assert numbers == list(range(rig.pushed - len(numbers) + 1, rig.pushed + 1))
    assert rig.drain.files.health(rig.sink).expired == rig.pushed - len(numbers)
    if rig.path is None:
        assert len(numbers) == rig.pushed  # Parquet keeps every record
    else:
        assert len(rig.files()) == max_files


def test_a_file_ends_when_it_is_asked_to(what: str, tmp_path: Path):
    rig = Rig(what, tmp_path).open()
    for _ in range(3):
        rig.push(10)
        assert rig.drain.flush(30)
        before, records = rig.drain.files.state(rig.sink)
        assert records == 10
        rig.drain.files.rotate(rig.sink)
        rig.until(lambda before=before: rig.drain.files.state(rig.sink)[0] > before)
    rig.finish()
    assert rig.numbers() == list(range(1, 31))
    assert len([file for file in rig.files() if file.stat().st_size]) == 3


def test_a_fault_holds_the_records_back_until_it_ends(
    what: str, tmp_path: Path, file_size_limit: Callable[[int], None]
):
    rig = Rig(what, tmp_path).open()
    rig.push(10)
    assert rig.drain.flush(30)
    file_size_limit(2500)
    rig.push(100)
    rig.until(lambda: rig.drain.files.health(rig.sink).faults >= 2)
    held = rig.drain.files.health(rig.sink)
    assert (held.dropped, held.set_aside) == (0, False)
    assert held.written + held.pending == 110
    assert not rig.drain.flush(0.01)
    file_size_limit(-1)
    assert rig.drain.flush(30)
    rig.finish()
    assert rig.numbers() == list(range(1, 111))
    assert [fault.split(" (")[0] for fault in rig.faults] == [
        f"{rig.sink.name} cannot be written",
        f"{rig.sink.name} is written again; 0 of its records were dropped",
    ]


def test_a_sink_that_is_closed_while_it_fails_keeps_whole_records(
    what: str, tmp_path: Path, file_size_limit: Callable[[int], None]
):
    rig = Rig(what, tmp_path).open()
    rig.push(5)
    assert rig.drain.flush(30)
    file_size_limit(2500)
    rig.push(100)
    rig.until(lambda: rig.drain.files.health(rig.sink).faults >= 1)
    began = time.monotonic()
    spent = time.process_time()
    assert not rig.drain.finish(began + 0.5)
    assert time.monotonic() - began < 15
    assert time.process_time() - spent < 0.3  # it waits for the disk, it does not spin
    file_size_limit(-1)
    if rig.sealer is not None:
        assert rig.sealer.seal_all(time.monotonic() + 30)
        rig.sealer.stop()
    rig.ring.file.remove()
    account = rig.drain.files.health(rig.sink)
    assert (account.accepted, account.written + account.pending) == (105, 105)
    assert rig.numbers() == list(range(1, account.written + 1))


def test_a_sink_without_records_writes_nothing(what: str, tmp_path: Path):
    rig = Rig(what, tmp_path).open()
    rig.finish()
    assert all(file.stat().st_size == 0 for file in rig.files())
    assert not any(path.is_file() for path in rig.paths.private.rglob("*"))
    assert (rig.sink.open_files(), rig.faults) == ([], [])
