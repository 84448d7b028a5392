"""What the fault tests share: runs that are killed, and the oracle of what must have survived."""

from __future__ import annotations

import json
import mmap
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from stress.zygote import SLOT

from advlog_fast.recovery import recover
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.rotated_files import rotated_files
from advlog_fast.verification import Difference, verify

TIMEOUT_S = 120.0
"""Ends a test that hangs; nothing is measured with it, so it may be far more than any machine needs."""

KEEP_ALL = {"max_log_files": 1_000_000}


class Zygote:
    """Forks a child for each task, one at a time: see zygote.py. A child is waited for in :meth:`wait` and nowhere
    else, so its pid cannot be another process's while it is here to be killed."""

    def __init__(self, folder: Path, package: Path | None = None, environ: dict[str, str] | None = None) -> None:
        env = {**os.environ, **(environ or {})}
        if package is not None:
            env["PYTHONPATH"] = str(package)
        self._stderr = folder / "zygote.stderr"
        with self._stderr.open("w") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("zygote.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=env,
                text=True,
                bufsize=1,
            )
        self._pid: int | None = None

    def start(self, task: dict[str, Any]) -> None:
        if self._pid is not None:  # of a test that failed
            self.kill()
            self.wait()
        self._tell(json.dumps(task))
        self._pid = self._answer("pid")

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self._pid is not None, "no task runs"
        os.kill(self._pid, number)

    def wait(self) -> int:
        """The exit status of the task's child; -9 for a SIGKILL."""
        self._tell("wait")
        hangs = not select.select([self._process.stdout], [], [], TIMEOUT_S)[0]
        if hangs:
            self.kill(signal.SIGABRT)
        status = self._answer("status")
        self._pid = None
        assert not hangs, "a task hangs"
        return status

    def run(self, task: dict[str, Any]) -> int:
        self.start(task)
        return self.wait()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _answer(self, name: str) -> int:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self._stderr.read_text()
        return int(json.loads(line)[name])

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(TIMEOUT_S)
        self._process.stdout.close()


class Trial:
    """One run: its folders, its words of acknowledgement, and what is to be true of it in the end."""

    def __init__(self, folder: Path, **task: Any) -> None:
        self._folder = folder
        self.log_dir = Path(task.get("log_dir", folder / "logs"))
        self.ring_dir = ring_folder(folder)
        self.clean()  # an earlier trial of this name may have been killed with its test
        folder.mkdir(parents=True)
        self.stderr = folder / "stderr"
        self.report_path = folder / "report.json"
        self._acknowledged = folder / "acknowledged"
        self._acknowledged.write_bytes(bytes(4096))
        with self._acknowledged.open("r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
        self.task = {
            "run": "log",
            "log_dir": str(self.log_dir),
            "acknowledged": str(self._acknowledged),
            "stderr": str(self.stderr),
            "report": str(self.report_path),
            **task,
            "options": {"ring_dir": str(self.ring_dir), **KEEP_ALL, **task.get("options", {})},
        }

    @property
    def phase(self) -> int:
        """0: starting; 1: logging; 2: all is logged."""
        return self._words[0]

    def acknowledged(self, thread: int = 1) -> int:
        """The last record of the thread whose call has returned."""
        return self._words[thread * SLOT // 8]

    def wait_for(self, phase: int = 1, records: int = 0) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while self.phase < phase or self.acknowledged() < records:
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.0005)

    def report(self) -> dict[str, Any]:
        found = json.loads(self.report_path.read_text())
        assert isinstance(found, dict)
        return found

    def recovery(self, **more: Any) -> dict[str, Any]:
        """The task that recovers it."""
        return {**self.task, "run": "recover", "failpoint": None, **more}

    def said(self) -> str:
        return self.stderr.read_text() if self.stderr.exists() else ""

    def check(self, *, in_flight: int = 1, threads: int = 1, status: str | None = None) -> None:
        """Every acknowledged record is there once, in its thread's order, in every sink; at most `in_flight` beyond."""
        check_records(self.log_dir, {t: self.acknowledged(t) for t in range(1, threads + 1)}, in_flight)
        assert recover(self.log_dir) == [], "there is something left to recover"
        left = [path.name for path in self.ring_dir.glob("*.ring")]
        assert left == [], "a ring was left behind"
        temporary = self.log_dir / ".advlog" / "run" / "tmp"
        assert [p.name for p in temporary.glob("*.parquet")] == []
        if status is not None:
            assert json.loads((self.log_dir / "run_summary.json").read_text())["status"] == status

    def clean(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        shutil.rmtree(self.ring_dir, ignore_errors=True)


def ring_folder(folder: Path) -> Path:
    """A ring's folder of the trial's own, in shared memory where there is some."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of this test's, under a name of its own
    if not shared.is_dir():
        return folder / "rings"
    return shared / f"advlog-test-{os.getpid()}-{folder.name}"


def launch_environment(rank: int, world_size: int, launch: int) -> dict[str, str]:
    """What a launcher tells a rank: the same port in every rank of a launch, another in every other launch."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "node1",
        "MASTER_PORT": str(29_500 + launch),
    }


# -- the oracle ------------------------------------------------------------------------------------------------------


def check_records(log_dir: Path, acknowledged: dict[int, int], in_flight: int = 1) -> None:
    check_verified(log_dir)
    check_rank(log_dir, 0, acknowledged, in_flight)


def check_verified(log_dir: Path) -> None:
    found = verify(log_dir)
    assert unexplained(found) == [], "\n".join(map(str, found))
    check_readable(log_dir)


def check_rank(log_dir: Path, rank: int, acknowledged: dict[int, int], in_flight: int = 1) -> None:
    """In every sink of the rank, each epoch's batches are there once and in order: those acknowledged, and at most
    `in_flight` beyond."""
    paths = RunPaths(log_dir, "run", rank)
    sinks = {
        "jsonl": lines_of(paths.metrics_jsonl, rb'"epoch":(\d+),"batch":(\d+)'),
        "parquet": parts_of(log_dir, f"{rank:05d}"),
    }
    if rank == 0:
        sinks["text"] = lines_of(paths.training_log, rb" epoch=(\d+) batch=(\d+) ")
    for where, numbers in sinks.items():
        for epoch, last in acknowledged.items():
            got, whose = numbers[epoch], f"{where}, rank {rank}, epoch {epoch}"
            assert last <= len(got) <= last + in_flight, f"{whose}: {last} acknowledged, {len(got)} there"
            if got != list(range(1, len(got) + 1)):
                wrong = next(i for i, number in enumerate(got) if number != i + 1)
                raise AssertionError(f"{whose}: {got[max(wrong - 2, 0) : wrong + 3]} at {wrong}")
        assert set(numbers) <= set(acknowledged), f"{where}, rank {rank}: epochs {sorted(numbers)}"


def unexplained(differences: Iterable[Difference]) -> list[Difference]:
    return [difference for difference in differences if not difference.explained]


def check_readable(log_dir: Path) -> None:
    """Whatever lies in the datasets' folders is a finished part: a footer comes last."""
    for stream in ("metrics", "system"):
        for part in sorted(log_dir.glob(f"run_{stream}.parquet/*/*")):
            pq.read_metadata(part)


def lines_of(path: Path, pattern: bytes) -> dict[int, list[int]]:
    """Each thread's numbers in the files of a rotated series, in order."""
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    record = re.compile(pattern)
    for file in (*rotated_files(path), path):
        if not file.exists():
            continue
        data = file.read_bytes()
        assert not data or data.endswith(b"\n"), f"{file.name} ends inside a line"
        for thread, number in record.findall(data):
            numbers[int(thread)].append(int(number))
    return numbers


def parts_of(log_dir: Path, rank: str = "*") -> dict[int, list[int]]:
    numbers: defaultdict[int, list[int]] = defaultdict(list)
    for part in sorted(log_dir.glob(f"run_metrics.parquet/*/rank{rank}-*.parquet")):
        table = pq.read_table(part, columns=["epoch", "batch"], partitioning=None)
        for thread, number in zip(table["epoch"].to_pylist(), table["batch"].to_pylist(), strict=True):
            numbers[thread].append(number)
    return numbers
