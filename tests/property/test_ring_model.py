"""The ring and its drain behave as a queue of bounded size, whatever is done to them in whatever order."""

from __future__ import annotations

import json
import mmap
import os
import re
import tempfile
from collections import deque
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from advlog_fast._native import ffi, lib

SLOTS = 64
LIMIT = SLOTS // 4
TOP = 1 << 64
STARTS = st.one_of(
    st.integers(0, 300).map(lambda k: -k % TOP),
    st.integers(0, 300).map(lambda k: (1 << 63) - k),
    st.integers(0, TOP - 1),
)


def value_slots(extras: int) -> int:
    return 1 + -(-max(extras - 3, 0) // 11)


def text_slots(size: int) -> int:
    return 1 + -(-size // 112)


class RingMachine(RuleBasedStateMachine):
    """A ring of 64 slots with a text and a JSONL sink, beside a deque of what should be in it."""

    @initialize(start=STARTS)
    def open(self, start: int) -> None:
        self.start = start
        size = lib.advlog_ring_bytes(SLOTS, lib.ADVLOG_SLAB_ENTRIES)
        self.memory = ffi.from_buffer(mmap.mmap(-1, size))
        identity = ffi.new("advlog_identity *", {"attempt": 1, "rank": 0})
        assert lib.advlog_ring_init(self.memory, size, size, SLOTS, lib.ADVLOG_SLAB_ENTRIES, start, identity) == 0
        self.ring = ffi.gc(lib.advlog_ring_attach(self.memory, size, ffi.new("int *")), lib.advlog_ring_detach)
        for i in range(200):
            assert lib.advlog_name_intern(self.ring, b"m%d" % i, len(b"m%d" % i)) == i
        self.drain = ffi.gc(lib.advlog_drain_new(self.ring), lib.advlog_drain_free)
        self.folder = tempfile.TemporaryDirectory()
        self.fds: list[int] = []
        for index, kind in enumerate((lib.ADVLOG_SINK_TEXT, lib.ADVLOG_SINK_JSONL)):
            options = {"kind": kind, "stream": lib.ADVLOG_STREAM_METRICS, "max_bytes": 1 << 40, "every": 1}
            assert lib.advlog_drain_add_sink(self.drain, ffi.new("advlog_sink_options *", options)) == index
            self.fds.append(os.open(self.path(index), os.O_WRONLY | os.O_CREAT | os.O_APPEND))
            lib.advlog_sink_give_file(self.drain, index, self.fds[index], 0, 0, 1)
        self.queue: deque[tuple[int, str]] = deque()
        self.drained: list[str] = []
        self.rows: list[dict[str, float]] = []
        self.pushed = 0
        self.read = 0
        self.written = 0
        self.closed = False

    def path(self, index: int) -> Path:
        return Path(self.folder.name) / str(index)

    def used(self) -> int:
        return self.written - self.read

    def expected_status(self, slots: int) -> int:
        if slots > LIMIT:
            return int(lib.ADVLOG_TOO_LONG)
        if self.closed:
            return int(lib.ADVLOG_CLOSED)
        return int(lib.ADVLOG_FULL if self.used() + slots > SLOTS else lib.ADVLOG_OK)

    def accept(self, slots: int, line: str) -> None:
        self.queue.append((slots, line))
        self.written += slots
        self.pushed += 1

    @rule(extras=st.one_of(st.integers(0, 30), st.integers(0, 190)), kind=st.sampled_from([1, 2]))
    def push(self, extras: int, kind: int) -> None:
        ids = ffi.new("uint16_t[]", list(range(extras)))
        values = ffi.new("double[]", [self.pushed + i / 256 for i in range(extras)])
        place = {"kind": kind, "present": lib.ADVLOG_HAS_STEP, "step": self.pushed, "time_ns": 10**18}
        metrics = {"extras": extras, "extra_ids": ids, "extra_values": values}
        c = ffi.new("advlog_record *", {**place, **metrics})
        slots = value_slots(extras)
        status = lib.advlog_push(self.ring, c)
        assert status == self.expected_status(slots)
        if status == lib.ADVLOG_OK:
            self.rows.append({"step": self.pushed, **{f"m{i}": value for i, value in enumerate(values)}})
            self.accept(slots, f"INFO step={self.pushed}")

    @rule(size=st.one_of(st.integers(0, 230), st.sampled_from([112 * 15, 112 * 15 + 1, 4096, 4097])))
    def push_text(self, size: int) -> None:
        text = (f"{self.pushed}:" + "x" * size)[:size]
        status = lib.advlog_push_text(self.ring, 40, 10**18, text.encode(), size)
        assert status == self.expected_status(text_slots(size))
        if status == lib.ADVLOG_OK:
            self.accept(text_slots(size), f"ERROR {text}")

    @rule()
    def drain_all(self) -> None:
        # Two passes: the first one comes back early where a sink has just taken up its file.
        for _ in range(2):
            lib.advlog_drain_run(self.drain, 0)
        while self.queue:
            slots, line = self.queue.popleft()
            self.read += slots
            self.drained.append(line)

    @rule(slots=st.integers(1, SLOTS + 1))
    def ask_for_room(self, slots: int) -> None:
        wanted = lib.ADVLOG_CLOSED if self.closed and slots <= SLOTS else lib.ADVLOG_OK
        if slots > SLOTS or (not self.closed and self.used() + slots > SLOTS):
            wanted = lib.ADVLOG_TIMEOUT
        assert lib.advlog_wait_room(self.ring, slots, 0) == wanted

    @precondition(lambda self: self.pushed > 3)
    @rule()
    def close(self) -> None:
        assert lib.advlog_ring_close(self.ring) == (self.start + self.written) % TOP
        self.closed = True

    @invariant()
    def positions_and_counts_are_the_models(self) -> None:
        assert lib.advlog_ring_write_pos(self.ring) == (self.start + self.written) % TOP
        assert lib.advlog_ring_read_pos(self.ring) == (self.start + self.read) % TOP
        assert lib.advlog_ring_closed(self.ring) == self.closed
        accepted = [lib.advlog_ring_accepted(self.ring, stream) for stream in range(lib.ADVLOG_STREAMS)]
        assert accepted == [len(self.rows), 0, self.pushed - len(self.rows)]

    def teardown(self) -> None:
        if not hasattr(self, "ring"):
            return
        self.drain_all()
        lines = self.path(0).read_text().splitlines()
        found = [re.sub(r"^\S+ (\w+ (?:step=\d+)?)( m\d+=.*)?", r"\1", line) for line in lines]
        assert found == self.drained
        rows = [json.loads(line) for line in self.path(1).read_text().splitlines()]
        assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        fixed = ("timestamp", "attempt", "rank", "seq")
        assert [{name: row[name] for name in row if name not in fixed} for row in rows] == self.rows
        for fd in self.fds:
            os.close(fd)
        self.folder.cleanup()


RingMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_a_ring_is_a_bounded_queue = RingMachine.TestCase
