"""The disk fails, at any step: training goes on, writing resumes, and what is missing is counted.

Durations are only bounded from above, and widely: a machine that runs other things can stop a process for seconds.
"""

from __future__ import annotations

import errno
import json
import mmap
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from stress.harness import Trial, Zygote, unexplained

from advlog_fast.recovery import recover
from advlog_fast.verification import verify

WRITE, PWRITE, SYNC, RENAME, OPEN, ALLOCATE, TRUNCATE = (1 << bit for bit in range(7))
EVERY = (1 << 7) - 1
SHORT, TEAR = 10_000, 10_001
KINDS = {"write": WRITE | PWRITE, "sync": SYNC, "rename": RENAME, "open": OPEN, "allocate": ALLOCATE}
KINDS["truncate"] = TRUNCATE
# What was written cannot be cut off again.
KINDS |= {"write and truncate": WRITE | TRUNCATE, "sync and truncate": SYNC | TRUNCATE}
ERRORS = {
    "write": [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EINTR, SHORT],
    "sync": [errno.EIO, errno.EINTR],
    "rename": [errno.ENOSPC, errno.EIO, errno.EROFS],
    "open": [errno.ENOSPC, errno.EIO, errno.EROFS],
    "allocate": [errno.ENOSPC],
    "truncate": [errno.EIO],
    "write and truncate": [TEAR],
    "sync and truncate": [errno.EIO],
}
RECORDS = 1500
TIMEOUT_S = 2.0
OPTIONS = {"max_log_size": 16_384, "part_rows": 300, "ring_bytes": 64 * 1024, "overflow_timeout_s": TIMEOUT_S}
MARGIN_S = 20.0
"""How much longer a call may take than it is to wait: only a call that never returns takes so long."""


class Shim:
    """Orders faults: see io_shim.c."""

    def __init__(self, folder: Path) -> None:
        self.library = folder / "io_shim.so"
        source = Path(__file__).with_name("io_shim.c")
        command = ["gcc", "-O1", "-shared", "-fPIC", "-o", str(self.library), str(source), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        self.control = folder / "control"
        self.control.write_bytes(bytes(4096))
        with self.control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._map)[:64].cast("Q")

    def order(
        self, text: str, ops: int, n: int = 0, *, error: int = errno.EIO, sticky: bool = False, hang: bool = False
    ) -> None:
        """The n-th call from now on, of these kinds, on a path with this text, fails; n=0: they are counted."""
        self.end()
        self._map[64:1088] = text.encode().ljust(1024, b"\0")
        for word, value in enumerate((ops, n, int(sticky), error, int(hang), 0, 0), 1):
            self._words[word] = value
        self._words[0] = 1

    def end(self) -> None:
        self._words[0] = 0

    @property
    def count(self) -> int:
        return self._words[6]

    @property
    def injected(self) -> int:
        return self._words[7]


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Shim:
    return Shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def shimmed(shim: Shim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    environ = {"LD_PRELOAD": str(shim.library), "ADVLOG_SHIM": str(shim.control)}
    started = Zygote(tmp_path_factory.mktemp("shimmed"), environ=environ)
    yield started
    started.stop()


def faulty(folder: Path, shim: Shim, **options: Any) -> Trial:
    return Trial(
        folder,
        run="faulty",
        records=RECORDS,
        shim=str(shim.control),
        slow_s=TIMEOUT_S * 0.75,
        options={**OPTIONS, **options},
    )


def train(zygote: Zygote, trial: Trial, shim: Shim) -> dict[str, Any]:
    """Runs it to its end; a lasting fault ends once all is logged."""
    zygote.start(trial.task)
    trial.wait_for(2)
    shim.end()
    assert zygote.wait() == 0, trial.said()
    return trial.report()


def check_training(report: dict[str, Any]) -> None:
    assert report["raised"] is None
    assert report["slow"] <= 1, report
    assert report["slowest_s"] < TIMEOUT_S + MARGIN_S
    assert report["resumed"], report
    for accepted, written, dropped, _, pending in report["sinks"].values():
        assert accepted == written + dropped + pending, report["sinks"]
        assert not (report["closed"] and dropped), "the end says that all of it is there"
    health = report["health"]
    assert health["offered"] == health["accepted"] + sum(health["refused"].values())


def check_files(trial: Trial, report: dict[str, Any]) -> None:
    if not report["closed"]:
        recover(trial.log_dir)
    found = verify(trial.log_dir)
    assert unexplained(found) == [], "\n".join(map(str, [*found, report]))


def steps(kind: str, counted: int, long: bool, chance: random.Random) -> list[int]:
    """Which calls fail: all of them, or one."""
    numbers = range(1, counted + 1)
    return list(numbers) if long else chance.sample(numbers, min(1, counted))


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.stress)])
@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize(
    "kind", ["write", "sync", "rename", "open", "truncate", "write and truncate", "sync and truncate"]
)
def test_a_fault_while_logging_harms_nothing_and_what_is_missing_is_counted(
    shim: Shim, shimmed: Zygote, tmp_path: Path, kind: str, lasting: bool, long: bool
):
    options = {"fsync": "always"} if "sync" in kind else {}
    trial = faulty(tmp_path / "trial", shim, **options)
    # Counted from the start; a fault is ordered for a call after the construction, which has its own test.
    shim.order(str(trial.log_dir), KINDS[kind])
    shimmed.start(trial.task)
    trial.wait_for()
    constructed = shim.count
    trial.wait_for(2)
    counted = shim.count - constructed
    shim.end()
    assert shimmed.wait() == 0, trial.said()
    check_training(trial.report())
    check_files(trial, trial.report())
    trial.clean()
    chance = random.Random(f"{kind}{lasting}")
    first = chance.randrange(len(ERRORS[kind]))
    for number in steps(kind, counted, long, chance):
        error = ERRORS[kind][(first + number) % len(ERRORS[kind])]
        trial = faulty(tmp_path / "trial", shim, **options)
        try:
            shim.order(str(trial.log_dir), KINDS[kind], constructed + number, error=error, sticky=lasting)
            report = train(shimmed, trial, shim)
            if "construction" in report:
                continue  # the construction took more calls than before
            check_training(report)
            check_files(trial, report)
        except AssertionError as failed:
            what = errno.errorcode.get(error, "a torn write" if error == TEAR else "a short write")
            raise AssertionError(f"{kind} {number} of {counted}: {what}: {failed}") from failed
        finally:
            shim.end()
            trial.clean()


@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.stress)])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_fault_while_a_logger_is_made_raises_naming_log_dir_or_harms_nothing(
    shim: Shim, shimmed: Zygote, tmp_path: Path, lasting: bool, long: bool
):
    trial = faulty(tmp_path / "trial", shim)
    shim.order("/trial", EVERY)
    trial.task["options"]["ring_dir"] = str(trial.log_dir / "rings")
    shimmed.start(trial.task)
    trial.wait_for()
    counted = shim.count
    shim.end()
    assert shimmed.wait() == 0, trial.said()
    trial.clean()
    raised = 0
    chance = random.Random(1)
    for number in range(1, counted + 1) if long else sorted(chance.sample(range(1, counted + 1), 5)):
        trial = faulty(tmp_path / "trial", shim)
        trial.task["options"]["ring_dir"] = str(trial.log_dir / "rings")
        try:
            shim.order(str(trial.log_dir), EVERY, number, error=errno.EIO, sticky=lasting)
            shimmed.start(trial.task)
            if not lasting:
                assert shimmed.wait() == 0, trial.said()
            else:
                wait_for_report(trial, shimmed, shim)
            report = trial.report()
            if "construction" not in report:
                check_training(report)
            else:
                raised += 1
                assert "log_dir" in report["construction"]
                assert str(trial.log_dir) in report["construction"]
                assert report["threads"] == []
            shim.end()
            # The same directory serves the next start.
            assert shimmed.run({**trial.task, "records": 50, "shim": None}) == 0, trial.said()
            check_training(trial.report())
            assert unexplained(verify(trial.log_dir)) == []
        except AssertionError as failed:
            raise AssertionError(f"call {number} of {counted}: {failed}") from failed
        finally:
            shim.end()
            trial.clean()
    assert raised


def wait_for_report(trial: Trial, zygote: Zygote, shim: Shim) -> None:
    """Ends the fault once all is logged, or the construction has failed."""
    deadline = time.monotonic() + 60
    while trial.phase < 2 and not trial.report_path.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    shim.end()
    assert zygote.wait() == 0, trial.said()


def test_a_sink_that_hangs_holds_nobody_up_and_close_says_what_is_pending(shim: Shim, shimmed: Zygote, tmp_path: Path):
    """The write hangs until the process has ended: what is asserted to return, returned in spite of it."""
    trial = faulty(tmp_path / "trial", shim)
    trial.task |= {"close_timeout_s": 2, "shim": None, "resume": False}
    try:
        shim.order("run_metrics.jsonl", WRITE, 3, hang=True)
        assert shimmed.run(trial.task) == 0, trial.said()
        report = trial.report()
        assert shim.injected == 1
        assert report["raised"] is None
        assert report["slow"] <= 1
        assert report["slowest_s"] < TIMEOUT_S + MARGIN_S
        assert report["close_s"] < 2 + MARGIN_S
        assert not report["closed"]
        assert report["sinks"]["metrics_jsonl"][4] > 0
        assert report["health"]["refused"]["full"] > 0
        assert "pending" in (trial.log_dir / "run_main.log").read_text()
        shim.end()
        recover(trial.log_dir)
        found = verify(trial.log_dir)
        assert unexplained(found) == [], "\n".join(map(str, found))
    finally:
        shim.end()
        trial.clean()


SMALL_DISK = """
import json, os, sys, time
sys.path.insert(0, sys.argv[2])
from stress import zygote
folder = sys.argv[1]
log_dir = folder + "/logs"
task = json.loads(sys.argv[3]) | {"log_dir": log_dir}
open(task["acknowledged"], "wb").write(bytes(4096))
import threading
told = zygote.Acknowledged(task["acknowledged"])
def fill():
    while told._words[0] < 1:
        time.sleep(0.005)
    with open(folder + "/filler", "wb", buffering=0) as filler:
        try:
            while True:
                filler.write(bytes(65536))
        except OSError:
            pass
    while told._words[0] < 2:
        time.sleep(0.005)
    os.unlink(folder + "/filler")
threading.Thread(target=fill, daemon=True).start()
zygote.run_faulty(task)
"""


@pytest.mark.parametrize("ring_inside", [False, True])
def test_a_small_disk_that_fills_up_is_survived(tmp_path: Path, ring_inside: bool):
    """Nothing is killed by SIGBUS, and writing resumes when there is space again."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode:
        pytest.skip("needs unshare -Urm, which this machine does not allow")
    disk = tmp_path / "disk"
    disk.mkdir()
    outside = {name: str(tmp_path / name) for name in ("acknowledged", "report")}
    options = {
        **OPTIONS,
        "max_log_files": 1_000_000,
        "ring_dir": str(disk / "rings" if ring_inside else tmp_path / "r"),
    }
    task = {**outside, "records": 6000, "slow_s": TIMEOUT_S * 0.75, "options": options}
    tests = Path(__file__).resolve().parents[1]
    saved = tmp_path / "saved"
    inside = [sys.executable, "-c", SMALL_DISK, str(disk), str(tests), json.dumps(task)]
    command = (
        f'mount -t tmpfs -o size=10m none "$1" && shift && "$@"; status=$?; cp -a "{disk}" "{saved}"; exit $status'
    )
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command, "sh", str(disk), *inside], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report").read_text())
    check_training(report)
    assert report["closed"] == (not any(dropped for _, _, dropped, _, _ in report["sinks"].values()))
    found = verify(saved / "logs")
    assert unexplained(found) == [], "\n".join(map(str, [*found, report]))
    assert "No space left on device" in (saved / "logs" / "run_main.log").read_text()
