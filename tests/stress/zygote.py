"""A process that has imported everything and forks a child for each task: a run to be killed costs milliseconds.

It reads a JSON task a line on stdin and answers `{"pid": ...}` at once; then a line "wait", and answers
`{"status": ...}` when the child has ended. Till then an ended child is a zombie: no other process can get the pid that
a test may kill.
The interpreter of a task that logs ends as any does: exit handlers run. Standard error goes to the task's file.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import mmap
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pyarrow.compute
import pyarrow.parquet  # noqa: F401 - imported here, so that no child has to

import advlog_fast
from advlog_fast import _failpoints
from advlog_fast.compaction import compact
from advlog_fast.engine import ring as ring_module
from advlog_fast.recovery import recover
from advlog_fast.store import processes

SLOT = 64
"""Bytes between two threads' words in the file of acknowledgements: a cache line each."""


class Acknowledged:
    """Numbers that a kill cannot take back: the parent's file, mapped. Word 0 says "ready"; thread t has word t."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    def store(self, thread: int, number: int) -> None:
        self._words[thread * SLOT // 8] = number

    def load(self, thread: int) -> int:
        return int(self._words[thread * SLOT // 8])


def log_records(log: advlog_fast.AdvancedLogger, task: dict[str, Any], thread: int, store: Callable[..., None]) -> None:
    """Numbers every record, and says so once its call has returned; every seventh takes two slots."""
    epoch = task.get("epoch", thread)
    extras = {f"extra_{i}": float(i) for i in range(6)}
    rate = task.get("rate")
    began = time.monotonic()
    log_batch = log.log_batch_progress
    last = task.get("records") or 1 << 62
    for number in range(1, last + 1):
        if number % 7 == 0:
            log_batch(epoch, number, None, number / 8, accuracy=0.5, **extras)
        else:
            log_batch(epoch, number, None, number / 8)
        store(thread, number)
        if number % 500 == 0 and task.get("events"):
            log.log_event("progress", number=number)
        if rate and (ahead := number / rate - (time.monotonic() - began)) > 0:
            time.sleep(ahead)


def be_on_machine(machine: str | None) -> None:
    """Another machine, as far as a ring can tell, where two hexadecimal digits name one."""
    if machine is not None:
        socket.gethostname = lambda: machine
        processes.boot_id = ring_module.boot_id = lambda: bytes.fromhex(machine * 16)


def run_log(task: dict[str, Any]) -> None:
    be_on_machine(task.get("machine"))
    told = Acknowledged(task["acknowledged"])
    log = advlog_fast.AdvancedLogger(
        task["log_dir"],
        "run",
        console="off",
        memory_interval_s=0.05,
        overflow_timeout_s=None,
        **task.get("options", {}),
    )
    told.store(0, 1)
    threads = [
        threading.Thread(target=log_records, args=(log, task, number, told.store), daemon=True)
        for number in range(2, task.get("threads", 1) + 1)
    ]
    for thread in threads:
        thread.start()
    if task.get("exit_after_s"):
        time.sleep(task["exit_after_s"])
    else:
        log_records(log, task, 1, told.store)
        for thread in threads:
            thread.join()
    for number in range(1, task.get("threads", 1) + 1):
        told.store(8 + number, told.load(number))  # what was acknowledged before the end began
    told.store(0, 2)
    leave(task.get("ending", "close"), log)


def leave(ending: str, log: advlog_fast.AdvancedLogger) -> None:
    if ending == "close":
        log.close()
    elif ending == "exception":
        raise RuntimeError("the end of the task")
    elif ending == "sys.exit":
        sys.exit(3)
    elif ending == "os._exit":
        os._exit(3)
    elif ending == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    elif ending == "abort":
        os.abort()
    elif ending == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    # "return": the interpreter's own end


def log_in_child(log: advlog_fast.AdvancedLogger, task: dict[str, Any], number: int, told: Acknowledged) -> None:
    """Until the ring takes no more, since the parent is gone: a record that is dropped is not acknowledged."""

    def store(thread: int, record: int) -> None:
        if any(log.health().dropped_at_entry.values()):
            os._exit(0)
        told.store(thread, record)

    log_records(log, {**task, "records": task.get("child_records") or task.get("records")}, number, store)
    os._exit(0)


def run_family(task: dict[str, Any]) -> None:
    """Threads 1 to `threads` of this process log, and one thread in each of its forked `children`, numbered on."""
    told = Acknowledged(task["acknowledged"])
    options = {"console": "off", "memory_interval_s": 0.05, "overflow_timeout_s": None, **task.get("options", {})}
    log = advlog_fast.AdvancedLogger(task["log_dir"], "run", **options)
    told.store(0, 1)
    own = [
        threading.Thread(target=log_records, args=(log, task, number, told.store), daemon=True)
        for number in range(1, task["threads"] + 1)
    ]
    for thread in own:
        thread.start()
    children = []
    for number in range(task["threads"] + 1, task["threads"] + task["children"] + 1):
        pid = os.fork()
        if pid == 0:
            log_in_child(log, task, number, told)
        children.append(pid)
    if task.get("kill_children_after_s"):
        time.sleep(task["kill_children_after_s"])
        for pid in children:
            os.kill(pid, signal.SIGKILL)
    for thread in own:
        thread.join()
    for pid in children:
        assert os.waitpid(pid, 0)[1] in (0, signal.SIGKILL)
    told.store(0, 2)
    log.close()


def run_faulty(task: dict[str, Any]) -> None:
    """Logs while the shim makes the disk fail; what the training saw goes into the task's report."""
    told = Acknowledged(task["acknowledged"])
    report: dict[str, Any] = {"raised": None, "slowest_s": 0.0, "slow": 0}
    try:
        log = advlog_fast.AdvancedLogger(
            task["log_dir"], "run", console="off", memory_interval_s=0, **task.get("options", {})
        )
    except OSError as error:
        mine = [t.name for t in threading.enumerate() if t.name.startswith("advlog")]
        deadline = time.monotonic() + 120
        while mine and time.monotonic() < deadline:
            time.sleep(0.01)
            mine = [t.name for t in threading.enumerate() if t.name.startswith("advlog")]
        report |= {"construction": str(error), "threads": mine}
        write_report(task, report)
        return
    told.store(0, 1)
    longest_call_s = task.get("slow_s", 0.5)

    def batches(first: int, last: int) -> None:
        for number in range(first, last + 1):
            began = time.monotonic()
            try:
                log.log_batch_progress(1, number, None, number / 8)
            except Exception as error:
                report["raised"] = repr(error)
            took = time.monotonic() - began
            report["slowest_s"] = max(report["slowest_s"], took)
            report["slow"] += took > longest_call_s
            if number % 16 == 0:
                time.sleep(0.001)

    count = task["records"]
    batches(1, count)
    told.store(0, 2)  # the parent ends the fault now, if it lasts
    deadline = time.monotonic() + 60
    control = Shim(task["shim"]) if task.get("shim") else None
    while control is not None and control.failing() and time.monotonic() < deadline:
        time.sleep(0.005)
    report["resumed"] = False
    number = count
    while task.get("resume", True) and not report["resumed"] and time.monotonic() < deadline:
        # A probe is the next record: a sink that was set aside comes back with one.
        batches(number + 1, number + 20)
        number += 20
        time.sleep(0.05)
        log.flush(5)
        sinks = log.health().sinks.values()
        lost = any(sink.dropped for sink in sinks)
        report["resumed"] = not any(sink.set_aside for sink in sinks) and log.flush(5) is not lost
    began = time.monotonic()
    report["closed"] = log.close(task.get("close_timeout_s", 30))
    report["close_s"] = time.monotonic() - began
    health = log.health()
    report["health"] = {
        "offered": health.offered,
        "accepted": health.accepted,
        "refused": dict(health.dropped_at_entry),
    }
    report["sinks"] = {s.name: [s.accepted, s.written, s.dropped, s.expired, s.pending] for s in health.sinks.values()}
    write_report(task, report)


class Shim:
    """The control block of io_shim.c: see there."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")

    def failing(self) -> bool:
        return self._words[0] != 0 and self._words[3] != 0


def write_report(task: dict[str, Any], report: dict[str, Any]) -> None:
    with open(task["report"], "w") as file:
        json.dump(report, file)


def run_recover(task: dict[str, Any]) -> None:
    be_on_machine(task.get("machine"))
    write_report(task, {"found": [found.as_dict() for found in recover(task["log_dir"])]})


def run_compact(task: dict[str, Any]) -> None:
    if not task.get("exchanges", True):
        ctypes.CDLL = lambda *_, **__: object()  # a C library that cannot exchange two names
    write_report(task, {"compacted": [str(compacted) for compacted in compact(task["log_dir"])]})


RUNS = {"log": run_log, "family": run_family, "recover": run_recover, "faulty": run_faulty, "compact": run_compact}


def in_child(task: dict[str, Any]) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    stderr = os.open(task["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(stderr, 2)
    os.dup2(stderr, 1)
    os.close(stderr)
    os.environ.update(task.get("environ", {}))
    setting = task.get("failpoint")
    if setting:
        os.environ[_failpoints.VARIABLE] = setting  # for C, which reads it at its first point
        _failpoints.arm(setting)
    RUNS[task["run"]](task)
    if task["run"] != "log":
        os._exit(0)  # the end of an interpreter takes longer than most of what it did


NOT_A_LOGGERS = tuple(
    f"advlog_fast.{room}" for room in ("__main__", "cli", "export", "integrations", "mirror", "views")
)


def import_everything() -> None:
    """What a logger imports when it is made or closed too, so that no child has to."""
    for module in pkgutil.walk_packages(advlog_fast.__path__, "advlog_fast."):
        if not module.name.startswith(NOT_A_LOGGERS):
            importlib.import_module(module.name)
    gc.freeze()  # no child's collector looks at all that again


def main() -> None:
    import_everything()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    while line := sys.stdin.readline():
        pid = os.fork()
        if pid == 0:
            in_child(json.loads(line))
            return
        print(json.dumps({"pid": pid}), file=answers)
        if not sys.stdin.readline():
            os.kill(pid, signal.SIGKILL)  # the test is gone, and the task may have no end of its own
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), file=answers)


if __name__ == "__main__":
    main()
