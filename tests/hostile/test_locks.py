"""The lock of a rank: held as long as its process lives, and no longer, whatever that has forked or copied."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest
from hostile_runs import PRELUDE, batches, run_script, start

from advlog_fast import RunBusyError
from advlog_fast._native import lib
from advlog_fast.recovery import recover
from advlog_fast.store.locks import FileLock
from advlog_fast.store.paths import RunPaths


@pytest.mark.parametrize("child", ["os.fork", "a fork in C", "DataLoader", "multiprocessing"])
def test_a_killed_parent_is_started_again_while_its_children_live(tmp_path: Path, child: str):
    if child == "DataLoader":
        pytest.importorskip("torch")
    code = f"""
    import ctypes
    child = {child!r}
    log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
    log_batches(log, 1, 10)
    def tell(pid):
        with open(os.path.join(LOG_DIR, "child"), "w") as file:
            file.write(str(pid))
    if child == "os.fork" or child == "a fork in C":
        # With the GIL held: a child forked without it may find it taken, by a thread that the child does not have.
        pid = os.fork() if child == "os.fork" else ctypes.PyDLL(None).fork()
        if pid == 0:
            tell(os.getpid())
            time.sleep(60)
            os._exit(0)
    elif child == "multiprocessing":
        import multiprocessing
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        process.start()
        tell(process.pid)
    else:
        import torch
        class Items(torch.utils.data.Dataset):
            def __len__(self):
                return 100
            def __getitem__(self, index):
                if index == 3:
                    tell(os.getpid())
                    time.sleep(60)
                return index
        loader = torch.utils.data.DataLoader(Items(), num_workers=2, multiprocessing_context="fork")
        items = iter(loader)
    while not os.path.exists(os.path.join(LOG_DIR, "child")) or not open(os.path.join(LOG_DIR, "child")).read():
        time.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(command, stdout=subprocess.DEVNULL, timeout=180).returncode == -signal.SIGKILL
    pid = int((tmp_path / "child").read_text())
    try:
        os.kill(pid, 0)
        with start(tmp_path) as log:
            assert log.attempt == 2
            os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGKILL)
    assert batches(tmp_path) == list(range(1, 11))


POSIX_LOCK = """
import fcntl, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
os.write(fd, b"pid 1 on an earlier version")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("then", ["recover", "start"])
def test_a_child_forked_just_before_the_kill_holds_the_lock_until_it_first_runs(tmp_path: Path, then: str):
    # A child made by vfork runs no fork hook, so it stands for one that has not run yet.
    code = """
    log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
    log_batches(log, 1, 10)
    import subprocess
    subprocess.Popen(["sleep", "0.7"], pass_fds=held_locks(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_script(code, tmp_path).returncode == -signal.SIGKILL
    if then == "recover":
        assert [report.outcome for report in recover(tmp_path)] == ["recovered"]
    else:
        start(tmp_path).close()
    assert batches(tmp_path) == list(range(1, 11))


def test_no_child_that_another_thread_forks_keeps_a_lock(tmp_path: Path):
    """It would, if it were forked between the opening of the lock's file and its registration with the fork hook."""
    children: list[int] = []
    stop = threading.Event()

    def fork() -> None:
        while not stop.is_set() and len(children) < 300:
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
            time.sleep(0.001)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks beside threads, which is the point
        thread = threading.Thread(target=fork)
        thread.start()
        locks = []
        while thread.is_alive():
            locks.append(FileLock(tmp_path / f"{len(locks)}.lock"))
        stop.set()
        thread.join()
    try:
        # A child has run its fork hook once it waits for a signal.
        while not all(map(is_asleep, children)):
            time.sleep(0.01)
        kept = [os.readlink(fd) for pid in children for fd in Path(f"/proc/{pid}/fd").iterdir() if is_lock(fd)]
        assert kept == []
        assert len(locks) > 10
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def is_asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def is_lock(fd: Path) -> bool:
    return os.readlink(fd).endswith(".lock") and "OFDLCK" in Path(f"{fd.parent.parent}/fdinfo/{fd.name}").read_text()


def test_a_start_beside_a_child_of_the_dead_says_so(tmp_path: Path):
    code = """
    log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
    import subprocess
    child = subprocess.Popen(["sleep", "60"], pass_fds=held_locks(), stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
    with open(os.path.join(LOG_DIR, "child"), "w") as file:
        file.write(str(child.pid))
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_script(code, tmp_path).returncode == -signal.SIGKILL
    began = time.monotonic()
    try:
        with pytest.raises(RunBusyError, match=r"by a child of a process that has ended: pid \d+ on "):
            start(tmp_path)
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)
    assert time.monotonic() - began < 30


def test_a_version_with_posix_locks_and_this_one_exclude_each_other(tmp_path: Path):
    with start(tmp_path) as log:
        lock = RunPaths(tmp_path, "run").lock
        earlier = subprocess.run([sys.executable, "-c", POSIX_LOCK, lock], capture_output=True, text=True, timeout=20)
        assert "BlockingIOError" in earlier.stderr
        log.log_batch_progress(1, 1, 1, 0.5)
    holder = subprocess.Popen(
        [sys.executable, "-c", POSIX_LOCK, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunBusyError, match="another live process: pid 1 on an earlier version"):
            start(tmp_path)
    start(tmp_path).close()


def test_a_lock_that_is_taken_while_others_fork_leaves_no_file_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    moments = iter([1, 2, 3, 4, 5, 5])  # of which each pair is a look before and one after

    class Forking:
        def __getattr__(self, name: str) -> object:
            return getattr(lib, name)

        def advlog_fork_moment(self) -> int:
            return next(moments)

    path = tmp_path / "a.lock"
    monkeypatch.setattr("advlog_fast.store.locks.lib", Forking())
    lock = FileLock(path)
    assert next(moments, None) is None, "taken at the third try"
    assert opened(path) == 1
    lock.release()
    assert opened(path) == 0


def opened(path: Path) -> int:
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{fd}") == str(path)
        except FileNotFoundError:  # another thread's, closed since
            continue
    return count
