"""What C asks of tensors before a launch, and does with the answers: of classes that are as torch's, without torch.

`unit/test_producer_device.py` runs these in a process of their own.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

import pytest
from device.driver import driver, fail, held

from advlog_fast._native import Producer, ffi, lib
from advlog_fast.engine.ring import Ring
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ranks import RunIdentity

DTYPES = {
    "float64": ("d", 2, 64), "float32": ("f", 2, 32), "float16": ("e", 2, 16), "bfloat16": ("H", 4, 16),
    "int64": ("q", 0, 64), "int32": ("i", 0, 32), "int16": ("h", 0, 16), "int8": ("b", 0, 8),
    "uint8": ("B", 1, 8), "bool": ("?", 6, 8),
}  # fmt: skip
"""How each lies in memory, and DLPack's code and bits."""
STREAM = 5
PTX = b".visible .entry advlog_put("


class Storage:
    def __init__(self, address, size):
        self.address, self.size = address, size

    def data_ptr(self):
        return self.address

    def nbytes(self):
        return self.size


class Tensor:
    """One number in memory of its own, at a place of it."""

    is_nested = False

    def __init__(self, value=1.0, dtype="float64", **says):
        raw = struct.pack(DTYPES[dtype][0], value) if dtype != "bfloat16" else struct.pack("<f", value)[2:]
        self.memory = ctypes.create_string_buffer(raw, max(len(raw), 16))
        self.dtype, self.is_cuda, self.index = dtype, True, 0
        self.address, self.size = ctypes.addressof(self.memory), 16
        self.neg, self.count = False, 1
        for name, said in says.items():
            setattr(self, name, said)

    def item(self):
        raise AssertionError("item() waits for the device")

    def numel(self):
        return self.count

    def is_neg(self):
        return self.neg

    def get_device(self):
        return self.index

    def data_ptr(self):
        if isinstance(self.address, BaseException):
            raise self.address
        return self.address

    def untyped_storage(self):
        return Storage(getattr(self, "storage", self.address), self.size)


class Parameter(Tensor):
    pass


class Subclass(Tensor):
    pass


class Exchange(ctypes.Structure):
    """DLPack's C exchange API, as csrc/dlpack.h has it."""

    TensorOf = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)
    _fields_ = (
        ("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), ("previous", ctypes.c_void_p),
        ("unused", ctypes.c_void_p * 3), ("tensor_of", TensorOf), ("current_stream", ctypes.c_void_p),
    )  # fmt: skip


_shape = (ctypes.c_int64 * 1)(1)


@Exchange.TensorOf
def tensor_of(tensor, out):
    if isinstance(tensor.address, BaseException):
        return -1
    _, code, bits = DTYPES.get(tensor.dtype, ("", 5, 64))
    _shape[0] = tensor.count
    ctypes.memset(out, 0, 48)
    head = struct.pack(
        "<QiiiBBHQQQ", tensor.address, 2 if tensor.is_cuda else 1, tensor.index, 1, code, bits,
        getattr(tensor, "lanes", 1), ctypes.addressof(_shape), 0, 0,
    )  # fmt: skip
    ctypes.memmove(out, head, len(head))
    return 0


EXCHANGE = Exchange(1, 3, None, (ctypes.c_void_p * 3)(), tensor_of, None)
ctypes.pythonapi.PyCapsule_New.restype = ctypes.py_object
NAME = ctypes.c_char_p(b"dlpack_exchange_api")  # the capsule refers to it
CAPSULE = ctypes.pythonapi.PyCapsule_New(ctypes.byref(EXCHANGE), NAME, None)


class Calls(Producer):
    """Notes what C leaves to Python."""

    def __init__(self):
        self.left = []
        self.deferred = []

    def _log_batch_slowly(self, *args, **kwargs):
        self.left.append((args, kwargs))

    def _log_metrics_slowly(self, *args, **kwargs):
        self.left.append((args, kwargs))

    def defer(self, tensors):
        self.deferred.append(tensors)
        return [self._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors]


def is_cow(tensor):
    return getattr(tensor, "cow", False)


def stream_of(index):
    return STREAM + index


@pytest.fixture
def ring(tmp_path: Path):
    (tmp_path / ".advlog" / "run" / "rings").mkdir(parents=True)
    identity = RunIdentity("1" * 32, "run", 1, 0, 1, "host", os.getpid())
    made = Ring(identity, 1 << 20, tmp_path, RunPaths(tmp_path, "run"))
    yield made
    driver.standin_capture(2**64 - 1)
    fail("", 0, 0)
    made.file.remove()


def opened(ring, capsule):
    made = Calls()
    made._bind(ring.address, ring, made.defer)
    for kind in (Tensor, Parameter, Subclass):
        made._learn_scalar(kind, True)
    for name in ("a", "b", *(f"m{at}" for at in range(300))):
        assert made._learn(name)
    Producer._meet_torch(Tensor, Parameter, is_cow, stream_of, capsule, tuple(DTYPES))
    assert Producer._open_device(0, PTX) == ""
    assert made._page_lock(0)
    assert made._use_device(0) == ""
    return made


@pytest.fixture(params=["exchange", "methods"])
def log(ring, request):
    return opened(ring, CAPSULE if request.param == "exchange" else None)


@pytest.fixture
def by_methods(ring):
    return opened(ring, None)


@pytest.fixture
def by_exchange(ring):
    return opened(ring, CAPSULE)


def values(ring):
    """By their names, of the records in the ring, closed and drained."""
    drain = ffi.gc(lib.advlog_drain_new(ring.handle), lib.advlog_drain_free)
    lib.advlog_drain_give_up_at(drain, 2**62)
    lib.advlog_ring_close(ring.handle)
    while driver.standin_queued():
        pass
    lib.advlog_drain_run(drain, 10**9)
    c = ffi.new("advlog_totals *")
    lib.advlog_drain_totals(drain, c)
    return c


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_arrives(ring, log, dtype):
    value = 1 if dtype == "bool" else 3
    log.log_batch_progress(1, 1, 9, Tensor(value, dtype), a=Parameter(value, dtype))
    assert (log.left, log.deferred) == ([], [])
    c = values(ring)
    assert c.core[0].last == value
    assert lib.advlog_ring_launched(ring.handle) == 2


def test_a_mapping_of_many_is_launched_by_128(ring, log):
    before = driver.standin_launches()
    log.log_metrics({**{f"m{at}": Tensor(float(at)) for at in range(300)}, "loss": Tensor(7.0), "b": 1.0}, 5)
    assert (log.left, driver.standin_launches() - before) == ([], 3)
    c = values(ring)
    assert (c.core[0].last, c.last_step) == (7.0, 5)


def of_dtype(tensor, dtype):
    tensor.dtype = dtype
    return tensor


REFUSED = {
    "subclass": Subclass,
    "copied lazily": lambda: Tensor(cow=True),
    "negative": lambda: Tensor(neg=True),
    "two": lambda: Tensor(count=2),
    "unknown dtype": lambda: of_dtype(Tensor(), "complex64"),
    "unaligned": lambda: Tensor(address=ctypes.addressof(ctypes.create_string_buffer(32)) + 1),
    "outside": lambda: Tensor(storage=64, size=8),
    "no storage": lambda: Tensor(storage=0),
    "raises": lambda: Tensor(address=ValueError("no data")),
    "far device": lambda: Tensor(index=70),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_may_not_be_read_goes_the_other_way(ring, log, kind):
    before = driver.standin_launches()
    tensor = REFUSED[kind]()
    log.log_batch_progress(1, 1, 9, tensor)
    assert log.deferred == [[tensor]]
    assert log._launch([tensor]) is None
    log.log_metrics({"a": tensor, "b": Tensor()}, 1)
    assert driver.standin_launches() == before + (kind == "subclass")  # which the mapping leaves to Python
    assert lib.advlog_slab_used(ring.handle) <= 1


def test_nested_and_foreign_tensors_by_methods(by_methods):
    assert by_methods._launch([Tensor(is_nested=True)]) is None
    assert by_methods._launch([Tensor(is_cuda=False)]) is None
    assert by_methods._launch([Tensor(is_cuda=None)]) is None
    assert by_methods._launch([Tensor(count="1")]) is None


def test_lanes_and_few_bits_by_the_exchange_api(by_exchange):
    assert by_exchange._launch([Tensor(lanes=2)]) is None
    DTYPES["uint4"] = DTYPES["uint8"]
    try:
        assert by_exchange._launch([of_dtype(Tensor(1, "uint8"), "uint4")]) is None
    finally:
        del DTYPES["uint4"]


def test_a_tensor_elsewhere_is_left_in_the_mapping(ring, log):
    elsewhere = Tensor(is_cuda=False)
    log.log_metrics({"a": elsewhere, "b": Tensor(2.0)}, 1)
    ((mapping, _), _) = log.left[0]
    assert mapping["a"] is elsewhere
    assert type(mapping["b"]).__name__ == "Deferred"


def test_integers_and_odd_keys_of_a_mapping(ring, log):
    step = Tensor(3, "int64")
    log.log_metrics({"step": step, "a": Tensor(2.0)})
    ((mapping, _), _) = log.left.pop()
    assert mapping["step"] is step
    log.log_metrics({7: Tensor(), "a": 1.0})
    assert [type(value) for value in log.left[0][0][0].values()] == [Tensor, float]


def test_two_devices_in_a_call_go_the_other_way(ring, log):
    assert log._launch([Tensor(index=0), Tensor(index=1)]) is None
    assert log._launch([]) is None
    with pytest.raises(TypeError):
        log._launch(7)


def test_a_keyboard_interrupt_is_not_swallowed(by_methods):
    with pytest.raises(KeyboardInterrupt):
        by_methods._launch([Tensor(address=KeyboardInterrupt())])


def test_in_a_capture_and_with_a_full_slab_the_reason_is_told(ring, log):
    driver.standin_capture(STREAM)
    log.log_batch_progress(1, 1, 9, Tensor())
    driver.standin_capture(2**64 - 1)
    with held():
        for step in range(lib.ADVLOG_SLAB_ENTRIES + 3):
            log.log_metrics({"a": Tensor(float(step))}, step)
    c = values(ring)
    assert list(c.unresolved) == [0, 0, 3, 1, 0]


def test_a_refusal_turns_launches_off_and_is_told_once(ring, log):
    fail("cuLaunchKernel", 201)
    log.log_batch_progress(1, 1, 9, Tensor())
    assert len(log.deferred) == 1
    assert log._take_refusal() == "CUDA_ERROR_INVALID_CONTEXT"
    assert log._take_refusal() == ""
    log.log_batch_progress(1, 2, 9, Tensor())
    assert len(log.deferred) == 2
    assert log._use_device(0) == ""
    before = driver.standin_launches()
    assert len(log._launch([Tensor(float(at)) for at in range(200)])) == 200
    assert driver.standin_launches() == before + 2


def test_a_device_that_cannot_be_opened_says_why(ring, log):
    fail("cuModuleLoadData", 222)
    assert Producer._open_device(5, PTX) == "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
    assert "driver" in Producer._open_device(64, PTX)
    driver.standin_shift(64)
    assert "another address" in log._use_device(0)
    driver.standin_shift(0)
    fail("cuMemHostRegister", 1)
    assert log._page_lock(0) is False
    assert log._page_lock(64) is False
    log._unbind()
    assert log._page_lock(0) is False
    assert log._use_device(0) == "the logger was closed meanwhile"
    assert log._take_refusal() == ""
    assert log._launch([Tensor()]) is None
    with pytest.raises(ValueError, match="10 dtypes"):
        Producer._meet_torch(Tensor, Parameter, None, stream_of, None, ("float64",))
    for arguments in ((1,), (Tensor, Parameter, None, stream_of, None, [])):
        with pytest.raises(TypeError):
            Producer._meet_torch(*arguments)


def test_a_stream_that_cannot_be_asked_for_goes_the_other_way(ring, log):
    def broken(index):
        raise RuntimeError("no stream")

    Producer._meet_torch(Tensor, Parameter, None, broken, None, tuple(DTYPES))
    assert log._launch([Tensor()]) is None
    Producer._meet_torch(Tensor, Parameter, None, lambda index: "7", None, tuple(DTYPES))
    assert log._launch([Tensor()]) is None


def test_a_logger_that_is_closed_by_what_it_asks_launches_nothing(ring, log):
    def closing(index):
        log._unbind()
        return STREAM

    Producer._meet_torch(Tensor, Parameter, None, closing, None, tuple(DTYPES))
    before = driver.standin_launches()
    assert log._launch([Tensor()]) is None
    assert driver.standin_launches() == before
