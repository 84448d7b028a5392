"""Decides what a push does if the ring is full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .._native import lib
from .ring import Ring

_SLICE_NS = 50_000_000


class Overflow:
    """Waits for room, or does not, as the options `overflow` and `overflow_timeout_s` say.

    After one wait that timed out, no call waits until half of the ring is free: a hanging disk costs the training one
    timeout, and not one for each record.
    """

    def __init__(self, policy: str, timeout_s: float | None) -> None:
        self._waits = policy != "drop_newest"
        self._timeout_s = timeout_s
        self._saturated = False
        self._counting = threading.RLock()  # a signal handler may log inside
        self.stalls = 0
        """The number of waits so far, timed out or not."""
        self.stalled_s = 0.0
        """The total time of these waits."""

    def wait(self, ring: Ring, slots: int, hopeful: Callable[[], bool] | None = None) -> bool:
        """Returns whether to try again.

        :param hopeful: called now and then; False ends the wait.
        """
        if not self._waits:
            return False
        if self._saturated:
            if ring.used() > ring.slots // 2:
                return False
            self._saturated = False
        began = time.monotonic()
        try:
            return self._wait(ring, slots, None if self._timeout_s is None else began + self._timeout_s, hopeful)
        finally:
            with self._counting:
                self.stalls += 1
                self.stalled_s += time.monotonic() - began

    def _wait(self, ring: Ring, slots: int, deadline: float | None, hopeful: Callable[[], bool] | None) -> bool:
        while True:
            left_ns = _SLICE_NS if deadline is None else int((deadline - time.monotonic()) * 1e9)
            if left_ns <= 0 or (hopeful is not None and not hopeful()):
                self._saturated = True
                return False
            # Back in Python after each slice, signals are handled.
            if lib.advlog_wait_room(ring.handle, slots, min(left_ns, _SLICE_NS)) != lib.ADVLOG_TIMEOUT:
                return True
