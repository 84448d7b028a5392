"""The keeper: the thread for what may wait, and the drain may not; and for what an interrupt may not stop halfway.

The exceptions of signals, KeyboardInterrupt before all, come to the main thread, between any two of its bytecodes: also
between a call that takes hold of something and the store of what it took. So a session opens and ends on this thread,
which they do not reach, and whoever wants it waits.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Task = Callable[[], object]
Result = TypeVar("Result")

_SLICE_S = 0.05
_COMING_S = 0.5
_LOOK_S = 0.5


class Latch:
    """Something that happens once. To wait for it may be interrupted anywhere, and a signal handler may wait inside:
    `threading.Event` holds a lock that is not re-entrant."""

    def __init__(self) -> None:
        self.is_set = False
        self._woken: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        self.is_set = True
        self._woken.put(None)

    def wait(self, timeout_s: float) -> bool:
        """Whether it has happened, now or in so many seconds."""
        deadline = time.monotonic() + timeout_s
        while not self.is_set and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._woken.get(timeout=min(left, _SLICE_S))
                self._woken.put(None)  # for who else waits
        return self.is_set


class Keeper:
    """Runs the tasks that it is given, in their order, and each duty at its interval. What one of them raises is
    passed over: it is not worth the training.

    :ivar duties: what is to be run every so many seconds; set by a task.
    """

    def __init__(self) -> None:
        self.duties: Mapping[Task, float] = {}
        self._tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="advlog-keeper", daemon=True)
        self._begun = False
        self._refused = False
        self._ending = False
        self._inline = threading.RLock()

    def start(self) -> None:
        self._begun = True
        try:
            self._thread.start()
        except RuntimeError:
            self._refused = True  # no more threads here, as at the exit of an interpreter: whoever waits does the work

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the keeper's."""
        return threading.current_thread() is self._thread

    @property
    def runs(self) -> bool:
        """Whether there is a thread."""
        # Where `start` was interrupted, the thread may be about to come, or never.
        given_up = time.monotonic() + _COMING_S
        while self._begun and not self._refused and self._thread.ident is None:
            if time.monotonic() > given_up:
                self._refused = True
            time.sleep(0.001)
        return self._thread.is_alive()

    def do(self, task: Task) -> None:
        """Hands a task over; never waits."""
        self._tasks.put(task)

    def call(self, task: Callable[[], Result], timeout_s: float) -> Result | None:
        """What the task returns, or raises; None where that takes longer, and it goes on."""
        if self.is_here:
            return task()
        done = Latch()
        came: list[Result] = []
        raised: list[BaseException] = []

        def run() -> None:
            try:
                came.append(task())
            except BaseException as error:  # noqa: BLE001 - the caller's to handle
                raised.append(error)
            done.set()

        self._tasks.put(run)
        deadline = time.monotonic() + timeout_s
        while not done.is_set:
            if not self.runs:
                self.run_pending()  # also where the thread ended just before the task came
            if not done.wait(min(deadline - time.monotonic(), _LOOK_S)) and time.monotonic() >= deadline:
                break
        if raised:
            raise raised[0]
        return came[0] if came else None

    def run_pending(self) -> None:
        """Runs what has been handed over here: on the keeper's thread, or where there is none."""
        with self._inline, contextlib.suppress(queue.Empty):
            while True:
                _run(self._tasks.get_nowait())

    def end(self) -> None:
        """The thread ends after the task that calls this, and those that are waiting."""
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
