"""What a push does that finds its ring full."""

from __future__ import annotations

import time
from collections.abc import Callable

from ._native import lib
from ._ring import Ring

_SLICE_NS = 50_000_000


class Overflow:
    """Waits for room, or does not, as the options `overflow` and `overflow_timeout_s` say.

    After one wait that ran out, none follows until half of the ring is free: a disk that hangs costs the training one
    deadline, and not one for each record.
    """

    def __init__(self, policy: str, timeout_s: float | None) -> None:
        self._waits = policy != "drop_newest"
        self._timeout_s = timeout_s
        self._saturated = False

    def wait(self, ring: Ring, slots: int, hopeful: Callable[[], bool] | None = None) -> bool:
        """Whether to try again.

        :param hopeful: asked now and then; False ends the wait.
        """
        if not self._waits:
            return False
        if self._saturated:
            if ring.used() > ring.slots // 2:
                return False
            self._saturated = False
        deadline = None if self._timeout_s is None else time.monotonic() + self._timeout_s
        while True:
            left_ns = _SLICE_NS if deadline is None else int((deadline - time.monotonic()) * 1e9)
            if left_ns <= 0 or (hopeful is not None and not hopeful()):
                self._saturated = True
                return False
            # Back in Python after each slice, signals are handled.
            if lib.advlog_wait_room(ring.handle, slots, min(left_ns, _SLICE_NS)) != lib.ADVLOG_TIMEOUT:
                return True
