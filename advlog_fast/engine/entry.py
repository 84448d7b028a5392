"""The slow way into a ring: a push that may wait for room, lines of text, and the count of what is
dropped before it enters. The session has one entry, a child process another."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from .._native import lib
from .misuse import MisuseLog
from .overflow import Overflow
from .ring import Ring, line_bytes, most_metrics, slots_for_text
from .ring_file import MIN_SLOTS
from .steps import StepBase

DRAIN_THREADS = ("advlog-drain", "advlog-sealer")
"""Threads that make room in the ring, or that such a thread waits for. None of them may wait for room."""


class Entry:
    """Any thread may call it. Each method keeps the ring in a local variable, because the end of the session drops it,
    and a call's ring must live until the call returns.

    :param overflow: decides what a full ring does.
    :param help_drain: drains in the calling thread if the drain has no thread; returns False if it has one.
    :param is_drained: asked now and then while a call waits; False ends the wait.
    :ivar misuse: takes what calls were given that they could not take.
    :ivar steps: settles how steps are derived.
    :ivar ring: None before there is one, and after its end.
    """

    def __init__(
        self,
        overflow: Overflow,
        misuse: MisuseLog,
        steps: StepBase,
        *,
        help_drain: Callable[[], bool] = lambda: False,
        is_drained: Callable[[], bool] | None = None,
        after_drop: Callable[[], tuple[str, str] | None] = lambda: None,
    ) -> None:
        self.ring: Ring | None = None
        self.overflow = overflow
        self.misuse = misuse
        self.steps = steps
        self.dropped = 0
        """Records dropped while there was no ring to count them in."""
        self.hook_faults: dict[str, int] = {}
        """Hooks of a framework that failed, or never came, by name."""
        self.last_words_of: int | None = None
        """The thread that has closed the ring, while its lines still follow what is in it."""
        self._help_drain = help_drain
        self._is_drained = is_drained
        self.after_drop = after_drop
        """Returns the kind and the text of a warning after a record found no room; None if there is nothing to say."""

    @property
    def slots(self) -> int:
        """The number of slots of the ring; 0 if there is no ring."""
        ring = self.ring
        return 0 if ring is None else ring.slots

    @property
    def most_metrics(self) -> int:
        """The most metrics beside the built-in ones that a record can have."""
        return most_metrics(self.slots or MIN_SLOTS)

    def is_closed(self) -> bool:
        """Returns whether the ring takes no more records."""
        ring = self.ring
        return ring is None or bool(lib.advlog_ring_closed(ring.handle))

    def push(self, try_push: Callable[[], int], slots: int) -> int:
        """Tries until the ring has room or the wait ends; returns the last `advlog_status`. It counts a record that it
        gives up.

        :param slots: enough for the record.
        """
        while (status := try_push()) == lib.ADVLOG_FULL:
            if not self._wait_for_room(slots):
                self.count_drop("full")
                break
        return status

    def line(self, level: int, text: str) -> bool:
        """Pushes a line for the training log, in the order of the records; returns whether it was accepted."""
        ring = self.ring
        if ring is None:
            self.count_drop("closed")
            return False
        data, time_ns, handle = line_bytes(text), time.time_ns(), ring.handle
        push = lib.advlog_push_last_text if self.last_words_of == threading.get_ident() else lib.advlog_push_text
        status = self.push(lambda: int(push(handle, level, time_ns, data, len(data))), slots_for_text(len(data)))
        if status == lib.ADVLOG_CLOSED:
            self.count_drop("closed")
        return bool(status == lib.ADVLOG_OK)

    def count_drop(self, reason: str) -> None:
        """Counts a record that never entered the ring: `full`, `closed` or `forked`."""
        ring = self.ring
        if ring is not None:
            ring.count_drop(reason)
        else:
            self.dropped += 1

    def _wait_for_room(self, slots: int) -> bool:
        """Returns whether to try again. Never waits on a thread that the drain may wait for."""
        ring = self.ring
        if ring is None or on_thread(*DRAIN_THREADS):
            return False
        if self._help_drain() and ring.used() + slots <= ring.slots:
            return True
        return self.overflow.wait(ring, slots, self._is_drained)


def on_thread(*prefixes: str) -> bool:
    """Returns whether the calling thread's name begins with one of these."""
    return threading.current_thread().name.startswith(prefixes)
