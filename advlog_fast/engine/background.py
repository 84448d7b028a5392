"""The background worker: a thread for work that may wait, for what the drain finds, and for what an interrupt may not
stop halfway.

Signals raise exceptions, above all KeyboardInterrupt, in the main thread, between any two bytecodes: even between a
call that acquires something and the assignment of its result. They do not reach this thread, so a session opens and
ends on it, and the caller waits.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from .findings import Finding

Task = Callable[[], object]
Result = TypeVar("Result")

_SLICE_S = 0.05
_START_S = 0.5
_CHECK_S = 0.5


class Latch:
    """An event that happens once. An interrupt may end a wait anywhere, and a signal handler may wait during another
    wait; `threading.Event` cannot do that, since its lock is not re-entrant."""

    def __init__(self) -> None:
        self.is_set = False
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        self.is_set = True
        self._woken.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Waits for the event, at most the timeout; returns whether it has happened."""
        deadline = time.monotonic() + timeout_s
        while not self.is_set and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._woken.get(timeout=min(left, _SLICE_S))
                self._woken.put(None)  # for who else waits
        return self.is_set


class Background:
    """Runs tasks in the order they are submitted, and each duty at its interval. It ignores their exceptions, which
    must not stop the training.

    :ivar duties: functions to run, each at its own interval; set by a task.
    """

    def __init__(self) -> None:
        self.duties: Mapping[Task, float] = {}
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._subscribers: dict[str, Callable[[Finding], object]] = {}
        self._thread = threading.Thread(target=self._run, name="advlog-background", daemon=True)
        self._begun = False
        self._refused = False
        self._ending = False
        self._inline = threading.RLock()

    def start(self) -> None:
        self._begun = True
        try:
            self._thread.start()
        except RuntimeError:
            self._refused = True  # as at the exit of an interpreter: the waiting thread does the work

    @property
    def is_here(self) -> bool:
        """Returns whether the calling thread is this one."""
        return threading.current_thread() is self._thread

    def has_thread(self) -> bool:
        """Returns whether there is a thread; waits at most half a second for one that is starting."""
        # Where `start` was interrupted, the thread may be about to come, or never.
        deadline = time.monotonic() + _START_S
        while self._begun and not self._refused and self._thread.ident is None:
            if time.monotonic() > deadline:
                self._refused = True
            time.sleep(0.001)
        return self._thread.is_alive()

    def subscribe(self, kind: str, handle: Callable[[Finding], object]) -> None:
        """Subscribes `handle` to the findings of a kind; it runs on this thread."""
        self._subscribers[kind] = handle

    def report(self, finding: Finding) -> None:
        """Queues a finding; never waits. Any thread may call it."""
        self.submit(partial(self._hand_on, finding))

    def _hand_on(self, finding: Finding) -> None:
        handle = self._subscribers.get(finding.kind)
        if handle is not None:
            handle(finding)

    def submit(self, task: Task) -> None:
        """Queues a task; never waits. Any thread may call it."""
        self._tasks.put(task)

    def call(self, task: Callable[[], Result], timeout_s: float) -> Result | None:
        """Runs the task on this thread, waits for it, and returns or raises what it does. Returns None after
        `timeout_s`; the task then goes on."""
        if self.is_here:
            return task()
        done = Latch()
        returned: list[Result] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                returned.append(task())
            except BaseException as error:  # noqa: BLE001 - the caller's to handle
                raised.append(error)
            done.set()

        self._tasks.put(run)
        deadline = time.monotonic() + timeout_s
        while not done.is_set:
            if not self.has_thread():
                self.run_pending()  # also where the thread ended just before the task came
            if not done.wait(min(deadline - time.monotonic(), _CHECK_S)) and time.monotonic() >= deadline:
                break
        if raised:
            raise raised[0]
        return returned[0] if returned else None

    def run_pending(self) -> None:
        """Runs the submitted tasks in the calling thread, which may stand in for a missing background thread."""
        with self._inline, contextlib.suppress(queue.Empty):
            while True:
                _run(self._tasks.get_nowait())

    def join(self, timeout_s: float) -> None:
        """Waits for the thread after `end`, which leaves it nothing to do."""
        if self._thread.ident is not None and not self.is_here:
            self._thread.join(timeout_s)

    def end(self) -> None:
        """Ends the thread after the current task and those in the queue."""
        self._ending = True

    def _run(self) -> None:
        due: dict[Task, float] = {}
        while not self._ending:
            for duty, interval_s in self.duties.items():
                due.setdefault(duty, time.monotonic() + interval_s)
            first = min(due, key=lambda duty: due[duty]) if due else None
            task: Any = first
            try:
                left = None if first is None else max(due[first] - time.monotonic(), 0.0)
                task = self._tasks.get(timeout=left)
            except queue.Empty:
                if first is not None:
                    due[first] = time.monotonic() + self.duties[first]
            _run(task)
            del task
        self.run_pending()


def _run(task: Task) -> None:
    with contextlib.suppress(Exception):
        task()
