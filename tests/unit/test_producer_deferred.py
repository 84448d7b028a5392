"""The hot call's way with values that are not there yet: asked for, referred to, and let go of whatever goes wrong.

Without torch: what lies on an accelerator is a class of the test's own, and so is who asks for it.
"""

from __future__ import annotations

import gc
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advlog_fast._native import Deferred, Producer, ffi, lib
from advlog_fast.engine.ring import Ring
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ranks import RunIdentity


class OnDevice:
    """A value on an accelerator; `item()` would wait for it."""

    shape = ()

    def __init__(self, value: float, is_cuda: Any = True) -> None:
        self.value, self.is_cuda = value, is_cuda

    def item(self) -> float:
        assert not self.is_cuda
        return self.value


class Calls(Producer):
    """Notes what C leaves to Python."""

    def __init__(self) -> None:
        self.left: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.answer: Callable[[list[Any]], Any] = self.reserved

    def _log_batch_slowly(self, *args: Any, **kwargs: Any) -> None:
        self.left.append((args, kwargs))

    def defer(self, tensors: list[Any]) -> Any:
        return self.answer(tensors)

    def reserved(self, tensors: list[Any]) -> Any:
        found = self._reserve(len(tensors))
        if found is None:
            return [self._unresolved(lib.ADVLOG_UNRESOLVED_SLAB_FULL) for _ in tensors]
        self.first, self.key, values = found
        return values


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    (tmp_path / ".advlog" / "run" / "rings").mkdir(parents=True)
    made = Ring(
        RunIdentity("1" * 32, "run", 1, 0, 1, "host", os.getpid()), 1 << 16, tmp_path, RunPaths(tmp_path, "run")
    )
    yield made
    made.file.remove()


@pytest.fixture
def log(ring: Ring) -> Calls:
    made = Calls()
    made._bind(ring.address, ring, made.defer)
    made._learn_scalar(OnDevice, True)
    for name in ("a", "b", *(f"m{at}" for at in range(20))):
        assert made._learn(name)
    return made


def land(ring: Ring, entry: int, value: float, key: int) -> None:
    bits = struct.unpack("<q", struct.pack("<d", value))[0]
    ffi.memmove(lib.advlog_slab_memory(ring.handle) + 16 * entry, struct.pack("<qq", bits, bits ^ key), 16)


def lines(ring: Ring) -> list[str]:
    """What a drain makes of the ring, closed."""
    drain = ffi.gc(lib.advlog_drain_new(ring.handle), lib.advlog_drain_free)
    lib.advlog_drain_give_up_at(drain, 0)
    lib.advlog_ring_close(ring.handle)
    lib.advlog_drain_run(drain, 0)
    slots = ffi.cast("char *", lib.advlog_slab_memory(ring.handle)) + 16 * lib.ADVLOG_SLAB_ENTRIES
    out = ffi.new("char[]", 10_000)
    found, at = [], 0
    while at < lib.advlog_ring_write_pos(ring.handle) - ring.slots:
        header = slots + 128 * at
        size = lib.advlog_format_record(ring.handle, header, ring.slots - at, lib.ADVLOG_SINK_JSONL, 1, out, 10_000)
        found.append(ffi.unpack(out, size).decode().partition('"total_batches":9,')[2].rstrip("}\n"))
        at += header[9][0] if isinstance(header[9], bytes) else header[9]
    return found


def test_a_record_refers_to_what_is_on_its_way(ring: Ring, log: Calls):
    log.log_batch_progress(1, 1, 9, OnDevice(0.5), a=OnDevice(2.0), b=3.0, accuracy=OnDevice(7.0, is_cuda=False))
    assert log.left == []
    assert lib.advlog_slab_used(ring.handle) == 2
    land(ring, log.first, 0.5, log.key)
    land(ring, log.first + 1, 2.0, log.key)
    assert lines(ring) == ['"step":1,"loss":0.5,"accuracy":7.0,"a":2.0,"b":3.0']
    assert lib.advlog_slab_used(ring.handle) == 0


def test_of_twenty_values_each_comes_to_its_place(ring: Ring, log: Calls):
    values = {f"m{at}": OnDevice(at) if at % 2 else float(at) for at in range(20)}
    log.log_batch_progress(1, 1, 9, None, **values)
    for at in range(10):
        land(ring, log.first + at, 2 * at + 1, log.key)
    assert lines(ring) == ['"step":1,' + ",".join(f'"m{at}":{float(at)}' for at in range(20))]


def test_what_does_not_come_is_said(ring: Ring, log: Calls):
    log.log_batch_progress(1, 1, 9, OnDevice(0.5), a=OnDevice(1.0))
    land(ring, log.first, 0.5, log.key)
    assert lines(ring) == ['"step":1,"loss":0.5,"a":null,"unresolved":{"a":"timeout"']


@pytest.mark.parametrize("reason", ["timeout", "slab_full", "capture", "killed"])
def test_what_never_comes_needs_no_entry(ring: Ring, log: Calls, reason: str):
    number = ["", "timeout", "slab_full", "capture", "killed"].index(reason)
    log.answer = lambda tensors: [Producer._unresolved(number) for _ in tensors]
    log.log_batch_progress(1, 1, 9, OnDevice(0.5))
    assert lines(ring) == [f'"step":1,"loss":null,"unresolved":{{"loss":"{reason}"']


@pytest.mark.parametrize("answer", [None, [], [1.0, 2.0], (1.0,), 7])
def test_an_answer_that_is_none_leaves_the_call_to_python(ring: Ring, log: Calls, answer: Any):
    log.answer = lambda tensors: answer
    value = OnDevice(0.5)
    log.log_batch_progress(1, 1, 9, value)
    assert log.left == [((1, 1, 9, value), {})]
    assert lib.advlog_ring_write_pos(ring.handle) == ring.slots


def test_an_answer_that_raises_leaves_the_call_to_python_unless_it_ends_the_program(ring: Ring, log: Calls):
    def fails(tensors: list[Any]) -> Any:
        raise error

    log.answer = fails
    error: BaseException = RuntimeError("no device")
    log.log_batch_progress(1, 1, 9, OnDevice(0.5))
    assert len(log.left) == 1
    error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        log.log_batch_progress(1, 1, 9, OnDevice(0.5))
    assert len(log.left) == 1


def test_what_was_asked_for_is_not_asked_for_again(ring: Ring, log: Calls):
    """Python gets the call with what stands for the value, and gives it to C again."""
    log.log_batch_progress(1, 1, 9, OnDevice(0.5), new=1.0)
    ((args, kwargs),) = log.left
    assert isinstance(args[3], Deferred)
    assert log._learn("new")
    record = {"epoch": 1, "batch": 1, "total_batches": 9, "loss": args[3], **kwargs}
    assert log._try_record(lib.ADVLOG_KIND_BATCH, 0, record) == lib.ADVLOG_OK
    del args, record
    log.left.clear()
    land(ring, log.first, 0.5, log.key)
    assert lines(ring) == ['"step":1,"loss":0.5,"new":1.0']


def test_an_integer_on_an_accelerator_is_left_to_python(ring: Ring, log: Calls):
    step = OnDevice(3)
    log.log_batch_progress(1, 1, 9, 0.5, step=step)
    ((args, kwargs),) = log.left
    assert kwargs == {"step": step}
    assert args == (1, 1, 9, 0.5)
    assert lib.advlog_slab_used(ring.handle) == 0


def test_entries_of_a_call_that_came_to_nothing_are_free_once_their_copies_came(ring: Ring, log: Calls):
    log.log_batch_progress(1, 1, 9, OnDevice(0.5), unknown=OnDevice(1.0))
    assert len(log.left) == 1
    log.left.clear()
    gc.collect()
    drain = ffi.gc(lib.advlog_drain_new(ring.handle), lib.advlog_drain_free)
    lib.advlog_drain_run(drain, 0)
    assert lib.advlog_slab_used(ring.handle) == 2
    land(ring, log.first, 0.5, log.key)
    land(ring, log.first + 1, 1.0, log.key)
    lib.advlog_drain_run(drain, 0)
    assert lib.advlog_slab_used(ring.handle) == 0


def test_a_value_outlives_its_logger_and_reaches_no_other_ring(ring: Ring, log: Calls, tmp_path: Path):
    _, _, (value, *_) = log._reserve(3)
    other = Ring(
        RunIdentity("2" * 32, "other", 1, 0, 1, "host", os.getpid()),
        1 << 16,
        tmp_path,
        RunPaths(tmp_path / "b", "other"),
    )
    log._bind(other.address, other, log.defer)
    assert log._try_record(lib.ADVLOG_KIND_BATCH, 0, {"loss": value}) == lib.ADVLOG_OFF
    assert log._try_record(lib.ADVLOG_KIND_METRICS, 0, {"loss": value}) == lib.ADVLOG_OFF
    assert lib.advlog_ring_write_pos(other.handle) == other.slots
    log._unbind()
    del value
    other.file.remove()


def test_a_closed_ring_and_a_full_slab_give_no_entries(ring: Ring, log: Calls):
    assert log._reserve(0) is None
    assert log._reserve(lib.ADVLOG_SLAB_ENTRIES + 1) is None
    _, _, all_of_them = log._reserve(lib.ADVLOG_SLAB_ENTRIES)
    assert log._reserve(1) is None
    log._unbind()
    assert log._reserve(1) is None
    del all_of_them


def test_deferred_values_cannot_be_made_by_hand_nor_for_reasons_that_there_are_not():
    with pytest.raises(TypeError):
        Deferred()
    for reason in (0, 5, -1):
        with pytest.raises(ValueError, match="reason: expected"):
            Producer._unresolved(reason)


def test_nothing_is_held_on_to(ring: Ring, log: Calls):
    value = OnDevice(0.5)
    before = sys.getrefcount(value), sys.getrefcount(ring)
    for step in range(200):
        log.log_batch_progress(1, step, 9, value, a=value)
    log.left.clear()
    gc.collect()
    assert (sys.getrefcount(value), sys.getrefcount(ring)) == before
