"""A program: one call of a logger, interrupted at one bytecode of ours after the other, and what is left of it.

    interrupted.py CALL FOLDER STRIDE    CALL: constructor, flush, close, end_training, load_state_dict
    interrupted.py exit FOLDER N         the exit handler, at its N-th bytecode; this process ends by it

The first form prints a JSON object: how many bytecodes there were, at how many of them the call was interrupted, and
whatever was found to be left or lost.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import advlog_fast
from advlog_fast import AdvancedLogger, read_jsonl
from advlog_fast.verification import verify

PACKAGE = str(Path(advlog_fast.__file__).parent) + os.sep
RECORDS = 20
TIMEOUT_S = 20.0
_TOOL = 4


class Interrupt:
    """Counts the bytecodes of the package's frames on this thread, and raises at the n-th."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen = 0
        self.where = ""
        self.thread = threading.get_ident()

    def start(self) -> None:
        # A trace function that raises in a destructor which the collector runs as a frame begins crashes CPython 3.11,
        # in programs without this package too. No signal comes there.
        gc.disable()
        # From 3.12 on, frames that are traced do not tell of each bytecode of those that they call.
        if sys.version_info >= (3, 12):
            monitoring = sys.monitoring
            monitoring.use_tool_id(_TOOL, "interrupts")
            monitoring.register_callback(_TOOL, monitoring.events.INSTRUCTION, self._instruction)
            monitoring.set_events(_TOOL, monitoring.events.INSTRUCTION)
            monitoring.restart_events()
        else:
            sys.settrace(self._call)

    def stop(self) -> None:
        gc.enable()
        if sys.version_info >= (3, 12):
            sys.monitoring.set_events(_TOOL, 0)
            sys.monitoring.free_tool_id(_TOOL)
        else:
            sys.settrace(None)

    def _instruction(self, code: CodeType, offset: int) -> Any:
        if not code.co_filename.startswith(PACKAGE):
            return sys.monitoring.DISABLE  # type: ignore[attr-defined,unused-ignore]
        if threading.get_ident() == self.thread:
            self._count(code, next((line for start, end, line in code.co_lines() if start <= offset < end), 0))
        return None

    def _call(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._step

    def _step(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "opcode":
            self._count(frame.f_code, frame.f_lineno)
        return self._step

    def _count(self, code: CodeType, line: int | None) -> None:
        self.seen += 1
        if self.seen == self.at:
            self.where = f"{Path(code.co_filename).name}:{line} {code.co_name}"
            raise KeyboardInterrupt


def interrupted(call: Callable[[], object], at: int) -> Interrupt:
    interrupt = Interrupt(at)
    interrupt.start()
    try:
        call()
    except KeyboardInterrupt:
        pass
    finally:
        interrupt.stop()
    return interrupt


def left_over(baseline: set[str]) -> list[str]:
    """Threads, descriptors and mappings of ours."""
    found = [f"thread {thread.name}" for thread in threading.enumerate() if thread.name.startswith("advlog-")]
    found += [f"descriptor {name}" for name in descriptors() - baseline]
    maps = Path("/proc/self/maps").read_text().splitlines()
    found += sorted({f"mapping {line.split()[-1]}" for line in maps if ".ring" in line})
    return found


def descriptors() -> set[str]:
    found = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except OSError:
            continue
    return found


class Trial:
    def __init__(self, folder: Path, number: int) -> None:
        self.log_dir = folder / str(number)
        self.options: dict[str, Any] = {"console": "off", "parquet": number % 8 == 0}
        self.acknowledged = 0

    def logger(self) -> AdvancedLogger:
        return AdvancedLogger(self.log_dir, "run", **self.options)

    def log(self, log: AdvancedLogger) -> None:
        for _ in range(RECORDS):
            log.log_batch_progress(1, self.acknowledged + 1, None, 0.5)
            self.acknowledged += 1

    def prepare(self, call: str) -> tuple[Callable[[], object], AdvancedLogger | None]:
        if call == "constructor":
            return lambda: self.logger().close(), None
        log = self.logger()
        self.log(log)
        state = log.state_dict()
        arguments: dict[str, tuple[Any, ...]] = {"end_training": ({"loss": 0.5},), "load_state_dict": (state,)}
        method, given = getattr(log, call), arguments.get(call, ())
        return lambda: method(*given), log

    def check(self, log: AdvancedLogger | None, baseline: set[str]) -> Iterator[str]:
        # What the user opens next gets the numbers of what was closed: nothing of ours may come into it.
        own = [os.open(self.log_dir.parent / f"own{n}", os.O_RDWR | os.O_CREAT | os.O_TRUNC) for n in range(12)]
        if log is not None:
            self.log_unless_closed(log)
            log.close()
            del log
        with_own = baseline | {f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}" for fd in own}
        deadline = time.monotonic() + TIMEOUT_S
        while left := left_over(with_own):
            if time.monotonic() > deadline:
                yield from left
                break
            gc.collect()
            time.sleep(0.002)
        again = self.logger()
        self.log(again)
        if not again.close():
            yield "the next attempt was not complete"
        for fd in own:
            if size := os.fstat(fd).st_size:
                yield f"{size} bytes in a file of the user's"
            os.close(fd)
        rows = [row["batch"] for row in read_jsonl(self.log_dir / "run_metrics.jsonl")]
        if rows != list(range(1, self.acknowledged + 1)):
            yield f"of {self.acknowledged} records {len(rows)} are there"
        yield from (str(finding) for finding in verify(self.log_dir) if not finding.explained)

    def log_unless_closed(self, log: AdvancedLogger) -> None:
        if not log._session.closed:  # type: ignore[union-attr]
            self.log(log)


def survey(call: str, folder: Path, stride: int) -> dict[str, Any]:
    findings: list[str] = []
    at, interrupts = 1, 0
    warm = Trial(folder, 0)
    warm.logger().close()
    while True:
        trial = Trial(folder, at)
        baseline = descriptors()
        target, log = trial.prepare(call)
        interrupt = interrupted(target, at)
        del target
        where = f"{call} at {at} ({interrupt.where})"
        findings += [f"{where}: {found}" for found in trial.check(log, baseline)]
        if not interrupt.where:
            return {"bytecodes": interrupt.seen, "interrupts": interrupts, "findings": findings}
        interrupts += 1
        at += stride


def at_exit(folder: Path, at: int) -> None:
    from advlog_fast import _hooks

    trial = Trial(folder, at)
    log = trial.logger()
    trial.log(log)
    interrupt = Interrupt(at)
    exit_handler = _hooks._exit

    def traced() -> None:
        interrupt.start()
        try:
            exit_handler()
        finally:
            interrupt.stop()
            print(interrupt.where, flush=True)

    import atexit

    atexit.unregister(exit_handler)
    atexit.register(exit_handler)
    atexit.register(traced)
    globals()["kept"] = log


if __name__ == "__main__":
    _, call_, folder_, number_ = sys.argv
    if call_ == "exit":
        at_exit(Path(folder_), int(number_))
    else:
        try:
            print(json.dumps(survey(call_, Path(folder_), int(number_))))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
