"""The keeper: the thread for what may wait, and the drain may not."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping

Task = Callable[[], object]


class Keeper:
    """Runs the tasks that it is given, in their order, and each duty at its interval. What one of them raises is
    passed over: it is not worth the training.

    :param duties: at least one; what is to be run every so many seconds.
    """

    def __init__(self, duties: Mapping[Task, float]) -> None:
        self._duties = dict(duties)
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="advlog-keeper", daemon=True)

    def start(self) -> None:
        # Where no thread can be had any more, as at the exit of an interpreter, tasks wait for `stop`.
        with contextlib.suppress(RuntimeError):
            self._thread.start()

    def do(self, task: Task) -> None:
        """Hands a task over; never waits."""
        self._tasks.put(task)

    def stop(self, timeout_s: float) -> None:
        """Ends the thread, waiting at most so long for it; the tasks that it had no time for are run here."""
        self._tasks.put(None)
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if not self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                while True:
                    _run(self._tasks.get_nowait())

    def _run(self) -> None:
        due = {duty: time.monotonic() + interval_s for duty, interval_s in self._duties.items()}
        while True:
            first = min(due, key=lambda duty: due[duty])
            task: Task | None
            try:
                task = self._tasks.get(timeout=max(due[first] - time.monotonic(), 0.0))
            except queue.Empty:
                task = first
                due[first] = time.monotonic() + self._duties[first]
            if task is None:
                return
            _run(task)


def _run(task: Task | None) -> None:
    if task is not None:
        with contextlib.suppress(Exception):
            task()
