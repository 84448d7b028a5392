"""Values on an NVIDIA GPU, copied by one launch a call: on a stand-in for its driver.

`unit/engine/test_launches.py` runs these in a process of their own.
"""

from __future__ import annotations

import json
import math
import os
import random
import struct
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from device import stand_in
from device.driver import driver, fail, held
from device.stand_in import on_gpu

from advlog_fast import AdvancedLogger, read_run
from advlog_fast._native import lib
from advlog_fast.engine.deferred import Deferral

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
NEVER = 999


@pytest.fixture(params=["exchange", "methods"])
def start(tmp_path, request, monkeypatch):
    if request.param == "methods":  # as before torch 2.10
        monkeypatch.setattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    made = []

    def begin(name="run", **options):
        given = {"console": "off", "memory_interval_s": 0, **options}
        made.append(AdvancedLogger(tmp_path, name, **given))
        return made[-1]

    yield begin
    driver.standin_hold(0)
    driver.standin_never(0)
    driver.standin_capture(2**64 - 1)
    driver.standin_other_captures(0)
    driver.standin_shift(0)
    fail("", 0, 0)
    stand_in.waited.clear()
    for log in made:
        log.close(5.0)


@pytest.fixture
def log(start):
    """One that has opened its device."""
    opened = start()
    opened.log_batch_progress(1, 0, 1 << 30, on_gpu(0.5))
    assert opened.health().gpu_values == {"launch": 1, "operators": 0}
    return opened


def rows(log, tmp_path, name="run"):
    assert log.flush(10.0)
    return read_run(tmp_path, name).metrics.to_pylist()


def bits(value):
    return struct.pack("<d", value)


def test_the_first_value_and_every_later_one_is_launched(log, tmp_path):
    before = driver.standin_launches()
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.25), acc=on_gpu(3.0), other=2.0)
    log.log_batch_progress(
        1, 2, 1 << 30, 7.0, gradient_norm=on_gpu(2.0), **{f"m{i}": on_gpu(float(i)) for i in range(30)}
    )
    assert driver.standin_launches() == before + 2
    found = rows(log, tmp_path)
    assert [row["loss"] for row in found] == [0.5, 1.25, 7.0]
    assert (found[1]["acc"], found[1]["other"], found[2]["gradient_norm"]) == (3.0, 2.0, 2.0)
    assert [found[2][f"m{i}"] for i in range(30)] == [float(i) for i in range(30)]
    assert stand_in.waited == []
    assert log.health().gpu_values == {"launch": 34, "operators": 0}


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_to_the_bit(log, tmp_path, name):
    dtype = getattr(torch, name)
    if name == "bool":
        values = torch.tensor([True, False])
    elif dtype.is_floating_point:
        info = torch.finfo(dtype)
        special = [
            0.0,
            -0.0,
            1.0,
            -1.5,
            info.max,
            info.min,
            info.tiny,
            info.smallest_normal / 2,
            math.inf,
            -math.inf,
            0.1,
        ]
        values = torch.tensor(special, dtype=torch.float64).to(dtype)
    else:
        info = torch.iinfo(dtype)
        values = torch.tensor([0, 1, info.max, info.min, 77], dtype=dtype)
    for step, value in enumerate(values, 1):
        log.log_metrics({"value": on_gpu(value)}, step=step)
    found = [row["value"] for row in rows(log, tmp_path) if row["value"] is not None]
    assert [bits(value) for value in found] == [bits(float(value)) for value in values]
    log.log_metrics({"nan": on_gpu(float("nan"), torch.float32)}, step=99)
    assert math.isnan(rows(log, tmp_path)[-1]["nan"])
    assert log.health().gpu_values["operators"] == 0


def test_a_thousand_values_of_a_call_are_eight_launches(log, tmp_path):
    values = torch.arange(1000, dtype=torch.float32) / 8
    metrics = {f"norm/{i}": on_gpu(value) for i, value in enumerate(values)}
    log.log_metrics(metrics, step=1)
    before = driver.standin_launches()
    log.log_metrics(metrics, step=2)
    assert driver.standin_launches() == before + 8
    found = rows(log, tmp_path)[-1]
    assert [found[f"norm/{i}"] for i in range(1000)] == values.tolist()
    assert log.health().unresolved == {"timeout": 0, "slab_full": 0, "capture": 0, "killed": 0}


def test_values_come_late_in_any_order_and_torn_and_records_stay_in_order(log, tmp_path):
    rng = random.Random(1)
    wanted = []
    for step in range(1, 4001):
        value = torch.tensor(rng.gauss(0, 1), dtype=torch.float64)
        wanted.append(value.item())
        log.log_batch_progress(1, step, 1 << 30, on_gpu(value), lr=0.5)
        if step % 500 == 0:
            log.flush(10.0)  # or the slab would be full
    found = rows(log, tmp_path)[1:]
    assert [row["step"] for row in found] == list(range(1, 4001))
    assert [bits(row["loss"]) for row in found] == [bits(value) for value in wanted]


def random_values(rng, dtype, count):
    """Of that dtype, from random bits: infinities, NaNs and subnormal numbers among them."""
    if dtype is torch.bool:
        return torch.from_numpy(rng.integers(0, 2, count, dtype=np.uint8)).to(dtype)
    size = torch.empty(0, dtype=dtype).element_size()
    return torch.from_numpy(rng.integers(0, 256, (count, size), dtype=np.uint8)).view(dtype).reshape(count)


def test_a_million_values_of_every_dtype_come_to_the_bit_and_in_order(start, tmp_path):
    log = start(deferred_values=65_536, text=False, jsonl=False)
    rng = np.random.default_rng(5)
    names = [f"norm/{i}" for i in range(1000)]
    blocks = [torch.zeros(1000, dtype=getattr(torch, DTYPES[i % len(DTYPES)])) for i in range(50)]
    tensors = [[on_gpu(value) for value in block.unbind()] for block in blocks]
    wanted = []
    for first in range(1, 1001, 50):
        for step, (block, values) in enumerate(zip(blocks, tensors, strict=True), first):
            block.copy_(random_values(rng, block.dtype, 1000))
            wanted.append(block.double().numpy().copy())
            log.log_metrics(dict(zip(names, values, strict=True)), step=step)
        assert log.flush(30.0)  # or the slab would be full, and the next values come before these were read
    assert log.health().gpu_values == {"launch": 1_000_000, "operators": 0}
    log.close(10.0)
    found = read_run(tmp_path, "run").metrics
    assert found["step"].to_pylist() == list(range(1, 1001))
    columns = np.stack([found[name].to_numpy() for name in names], axis=1)
    is_number = ~np.isnan(np.stack(wanted))
    assert np.array_equal(np.isnan(columns), ~is_number)
    assert np.array_equal(columns.view(np.int64)[is_number], np.stack(wanted).view(np.int64)[is_number])


def test_a_bool_is_true_whatever_byte_it_has(log, tmp_path):
    for step, value in enumerate(torch.tensor([0, 1, 2, 255], dtype=torch.uint8).view(torch.bool), 1):
        log.log_metrics({"value": on_gpu(value)}, step=step)
    found = [row["value"] for row in rows(log, tmp_path) if row["value"] is not None]
    assert found == [0.0, 1.0, 1.0, 1.0]
    assert log.health().gpu_values["operators"] == 0


def freed():
    tensor = torch.tensor(1.0)
    tensor.untyped_storage().resize_(0)
    return on_gpu(tensor)


def test_a_tensor_whose_storage_was_freed_is_left_out_and_nothing_reads_it(log, tmp_path):
    with pytest.warns(RuntimeWarning, match=r"Tensor\(shape=\(\), dtype=torch.float32"):
        log.log_metrics({"freed": freed(), "other": on_gpu(2.0)}, step=1)
    log.log_batch_progress(1, 2, 1 << 30, 0.5, freed=freed())
    log.log_validation({"freed": freed(), "one": on_gpu(2.0), "two": on_gpu(3.0)}, step=2)
    found = rows(log, tmp_path)
    assert found[1]["other"] == 2.0
    assert found[2]["loss"] == 0.5
    assert log.health().misuse["freed"].count == 3
    (validation,) = read_run(tmp_path, "run").validation.to_pylist()
    assert (validation["one"], validation["two"]) == (2.0, 3.0)


def test_what_is_said_of_a_misuse_waits_for_no_device(log, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "__repr__", stand_in.waited.append)
    pair = on_gpu(torch.tensor([1.0, 2.0]))
    with pytest.warns(RuntimeWarning, match=r"shape=\(2,\)"):
        log.log_metrics({"pair": pair, "list": [pair]}, step=1)
    log.log_batch_progress(1, 1, 1 << 30, pair, pair=pair)
    assert stand_in.waited == []


def test_a_logger_that_has_ended_keeps_no_descriptor(start):
    def used(number):
        log = start(f"run{number}")
        log.log_metrics({"value": on_gpu(1.0)}, step=1)
        assert log.close()
        return len(os.listdir("/proc/self/fd"))

    used(0)
    before = used(1)
    assert [used(number) for number in range(2, 6)] == [before] * 4


def test_values_of_two_devices_in_a_call_are_two_launches(log, tmp_path):
    log.log_metrics({"warm": on_gpu(1.0, index=1)}, step=0)
    before = driver.standin_launches()
    log.log_metrics({f"value{i}": on_gpu(float(i), index=i % 2) for i in range(10)}, step=1)
    assert driver.standin_launches() == before + 2
    found = rows(log, tmp_path)[-1]
    assert [found[f"value{i}"] for i in range(10)] == [float(i) for i in range(10)]
    assert log.health().gpu_values["operators"] == 0


def test_a_ctrl_c_while_a_device_is_opened_does_not_leave_it_unopened(start, monkeypatch):
    log = start()
    opened = Deferral._why_not_driven

    def interrupted(self, index):
        monkeypatch.setattr(Deferral, "_why_not_driven", opened)
        raise KeyboardInterrupt

    monkeypatch.setattr(Deferral, "_why_not_driven", interrupted)
    with pytest.raises(KeyboardInterrupt):
        log.log_metrics({"value": on_gpu(1.0)}, step=1)
    log.log_metrics({"value": on_gpu(1.0)}, step=2)
    assert log.health().gpu_values == {"launch": 1, "operators": 0}


def test_a_slab_that_is_full_leaves_values_out_and_says_so(log, tmp_path):
    with held():
        for step in range(1, 5001):
            log.log_batch_progress(1, step, 1 << 30, on_gpu(float(step)))
    found = rows(log, tmp_path)[1:]
    missing = [row for row in found if row["loss"] is None]
    assert len(missing) == 5000 - lib.ADVLOG_SLAB_ENTRIES == log.health().unresolved["slab_full"]
    assert all(row["loss"] in (None, float(row["step"])) for row in found)


def test_more_values_may_be_on_their_way_where_more_was_asked_for(start, tmp_path):
    log = start(deferred_values=5000)  # rounded up to 8,192
    log.log_batch_progress(1, 0, 1 << 30, on_gpu(0.5))
    assert log.flush(10.0)
    with held():
        for step in range(1, 9001):
            log.log_batch_progress(1, step, 1 << 30, on_gpu(float(step)))
    found = rows(log, tmp_path)[1:]
    assert [row["loss"] for row in found] == [float(step) for step in range(1, 8193)] + [None] * (9000 - 8192)
    assert log.health().unresolved["slab_full"] == 9000 - 8192


def test_a_launch_that_never_runs_leaves_a_null_with_its_reason(start, tmp_path):
    log = start(deferred_timeout_s=0.2)
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.0))
    driver.standin_never(1)
    log.log_batch_progress(1, 2, 1 << 30, on_gpu(2.0), lr=0.5)
    driver.standin_never(0)
    log.log_batch_progress(1, 3, 1 << 30, on_gpu(3.0))
    found = rows(log, tmp_path)
    assert [row["loss"] for row in found] == [1.0, None, 3.0]
    assert found[1]["lr"] == 0.5
    assert dict(found[1]["unresolved"]) == {"loss": "timeout"}


def test_in_a_capture_nothing_is_launched(log, tmp_path):
    before = driver.standin_launches()
    driver.standin_capture(stand_in.STREAM)
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.0), lr=0.5)
    log.log_metrics({"a": on_gpu(1.0)}, step=2)
    driver.standin_capture(2**64 - 1)
    log.log_batch_progress(1, 3, 1 << 30, on_gpu(3.0))
    assert driver.standin_launches() == before + 1
    found = rows(log, tmp_path)[1:]
    assert [row["loss"] for row in found] == [None, None, 3.0]
    assert log.health().unresolved["capture"] == 2


def test_the_first_value_ends_no_capture_of_another_thread(start, tmp_path):
    driver.standin_other_captures(1)
    ended = driver.standin_capture_ended()
    log = start("first")
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.0, index=3))
    assert log.health().gpu_values == {"launch": 1, "operators": 0}
    assert driver.standin_capture_ended() == ended


def test_another_context_is_current_again_after_the_call(log, tmp_path):
    """And in a thread that has not used CUDA there is none."""
    foreign = (1 << 20) + 1
    driver.standin_push(foreign)
    depth = driver.standin_depth()
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.0))
    assert driver.standin_depth() == depth
    thread = threading.Thread(target=lambda: log.log_batch_progress(1, 2, 1 << 30, on_gpu(2.0)))
    thread.start()
    thread.join()
    assert [row["loss"] for row in rows(log, tmp_path)] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("name", ["cuLaunchKernel", "cuStreamIsCapturing", "cuCtxGetCurrent"])
def test_a_driver_that_refuses_a_launch_costs_no_value(start, tmp_path, name, monkeypatch):
    log = start()
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.0))
    asked = []

    def operators(self, index, tensors):
        asked.append(len(tensors))
        return [self._producer._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors]

    monkeypatch.setattr("advlog_fast.engine.deferred.Deferral._ask", operators)
    fail(name, 700)
    log.log_batch_progress(1, 2, 1 << 30, on_gpu(2.0), acc=on_gpu(1.0))
    log.log_batch_progress(1, 3, 1 << 30, on_gpu(3.0))
    assert asked == [2, 1]  # from then on the other way
    rows(log, tmp_path)


@pytest.mark.parametrize(
    ("name", "error"),
    [("cuModuleLoadData", 222), ("cuDevicePrimaryCtxRetain", 2), ("cuFuncLoad", 3), ("cuMemHostGetDevicePointer", 1)],
)
def test_a_device_that_cannot_be_launched_on_is_said_once(start, tmp_path, monkeypatch, name, error):
    index = {"cuModuleLoadData": 10, "cuDevicePrimaryCtxRetain": 11, "cuFuncLoad": 12}.get(name, 0)
    asked = []

    def operators(self, index, tensors):
        asked.append(len(tensors))
        return [self._producer._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors]

    monkeypatch.setattr("advlog_fast.engine.deferred.Deferral._ask", operators)
    fail(name, error)
    log = start()
    for step in (1, 2):
        log.log_batch_progress(1, step, 1 << 30, on_gpu(1.0, index=index))
    assert asked == [1, 1]
    log.close()
    text = (tmp_path / "run_main.log").read_text()
    assert text.count("are copied by operators of torch") == 1
    assert error != 222 or "CUDA_ERROR_UNSUPPORTED_PTX_VERSION" in text


def test_a_device_that_sees_the_memory_elsewhere_is_not_launched_on(start, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "advlog_fast.engine.deferred.Deferral._ask",
        lambda self, index, tensors: [self._producer._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors],
    )
    driver.standin_shift(4096)
    log = start()
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.0))
    assert log.health().gpu_values["launch"] == 0


class Wrapped(torch.Tensor):
    pass


def resized():
    tensor = torch.ones(4)[2]
    tensor.untyped_storage().resize_(0)
    return tensor


def too_short():
    tensor = torch.ones(4)[3]
    tensor.untyped_storage().resize_(8)
    return tensor


def unaligned():
    raw = np.zeros(9, np.uint8)[1:5]
    array = np.frombuffer(raw.data, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(array)[0]


def of_few_bits():
    return torch.ones((), dtype=torch.uint8).view(torch.uint4)


def nested():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch._nested_view_from_buffer(
            torch.arange(4.0), torch.tensor([[1]]), torch.tensor([[1]]), torch.tensor([2])
        )


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.quint8)


OTHERS = {
    "subclass": lambda: torch.ones(()).as_subclass(Wrapped),
    "resized": resized,
    "too short": too_short,
    "copy on write": lambda: torch._lazy_clone(torch.ones(())),
    "negative": lambda: torch._neg_view(torch.ones(())),
    "complex": lambda: torch.ones((), dtype=torch.complex64),
    "conjugate": lambda: torch.ones((), dtype=torch.complex64).conj(),
    "quantised": quantised,
    "unaligned": unaligned,
    "of few bits": of_few_bits,
    "nested": nested,
    "sparse": lambda: torch.ones(1).to_sparse(),
    "two": lambda: torch.ones(2),
    "none": lambda: torch.ones(0),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_a_launch_may_not_read_is_not_launched(log, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(
        "advlog_fast.engine.deferred.Deferral._ask",
        lambda self, index, tensors: [self._producer._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors],
    )
    before = driver.standin_launches()
    tensor = on_gpu(OTHERS[kind]())
    assert log._launch([tensor]) is None
    assert log._launch([on_gpu(1.0), tensor]) is None
    assert driver.standin_launches() == before


def test_a_functorch_wrapper_is_not_launched(log):
    before = driver.standin_launches()
    found = []

    def body(x):
        _ = stand_in.on_gpu(x)
        found.append(log._launch([x]))
        return x * 2

    torch.func.vmap(body)(torch.ones(3))
    assert found == [None]
    assert driver.standin_launches() == before


def test_integers_in_a_mapping_are_read_and_the_rest_is_launched(log, tmp_path):
    place = {"epoch": on_gpu(2, torch.int64), "batch": on_gpu(3, torch.int64), "step": on_gpu(77, torch.int64)}
    log.log_metrics({**place, "loss": on_gpu(1.5)})
    found = rows(log, tmp_path)[-1]
    assert [found[name] for name in ("epoch", "batch", "step", "loss")] == [2, 3, 77, 1.5]
    assert log.health().misuse == {}


def test_a_tensor_of_another_accelerator_is_not_launched(log, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "get_device", lambda self: 0)
    before = driver.standin_launches()
    log.log_metrics({"loss": torch.tensor(1.0)}, step=1)
    assert driver.standin_launches() == before


def test_a_tensor_that_gets_other_data_meanwhile_is_read_all_the_same(log, tmp_path):
    """Another thread moves parameters while this one logs them: what was asked for its address lives on meanwhile."""
    parameters = [on_gpu(torch.nn.Parameter(torch.tensor(7.0))) for _ in range(60)]
    metrics = {f"p{at}": parameter for at, parameter in enumerate(parameters)}
    over = threading.Event()

    def move():
        while not over.is_set():
            for parameter in parameters:
                parameter.data = torch.full((1 << 16,), 7.0)[5]

    thread = threading.Thread(target=move)
    thread.start()
    try:
        for step in range(300):
            log.log_metrics(metrics, step=step)
            log.flush(10.0)
    finally:
        over.set()
        thread.join()
    found = rows(log, tmp_path)
    assert {row[name] for row in found for name in metrics} <= {7.0, None}


def test_a_refusal_is_said_once(start, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "advlog_fast.engine.deferred.Deferral._ask",
        lambda self, index, tensors: [self._producer._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors],
    )
    log = start()
    log.log_batch_progress(1, 1, 1 << 30, on_gpu(1.0))
    fail("cuLaunchKernel", 222)
    for step in range(2, 5):
        log.log_batch_progress(1, step, 1 << 30, on_gpu(1.0))
    log.close()
    text = (tmp_path / "run_main.log").read_text()
    assert text.count("a launch was refused: CUDA_ERROR_UNSUPPORTED_PTX_VERSION") == 1


def test_memory_that_cannot_be_page_locked_is_asked_for_later(start, monkeypatch):
    asked = []

    def operators(self, index, tensors):
        asked.append(self._host)
        self._host = self._slab_in(self._ring)  # as the other way gets its own
        return [self._producer._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors]

    monkeypatch.setattr("advlog_fast.engine.deferred.Deferral._ask", operators)
    fail("cuMemHostRegister", 1)
    log = start()
    for step in range(1, 4):
        log.log_batch_progress(1, step, 1 << 30, on_gpu(1.0))
    assert asked == [None]
    assert log.health().gpu_values["launch"] == 2


def test_views_and_parameters_are_launched(log, tmp_path):
    matrix = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    values = {
        "view": matrix[1, 2],
        "strided": matrix.t()[3, 1],
        "one of one": matrix[2:3, 1:2],
        "parameter": torch.nn.Parameter(torch.tensor(5.0)),
        "graph": (torch.nn.Parameter(torch.tensor(2.0)) * 3),
    }
    log.log_metrics({name: on_gpu(value) for name, value in values.items()}, step=1)
    found = rows(log, tmp_path)[-1]
    assert [found[name] for name in values] == [6.0, 7.0, 9.0, 5.0, 6.0]
    assert log.health().gpu_values["operators"] == 0


def test_a_record_that_is_not_pushed_gives_its_entries_back(log, tmp_path):
    ring = log._session.entry.ring if hasattr(log, "_session") else None
    for step in range(1, 200):
        log.log_metrics({"loss": on_gpu(1.0), 7: "not a name"}, step=step)
    log.flush(10.0)
    time.sleep(0.1)
    log.log_batch_progress(1, 500, 1 << 30, on_gpu(1.0))
    log.flush(10.0)
    if ring is not None:
        assert lib.advlog_slab_used(ring.handle) <= 1


def test_a_child_asks_no_device(log, tmp_path):
    before = driver.standin_launches()
    tensor = on_gpu(4.0)
    child = os.fork()
    if child == 0:
        log.log_metrics({"loss": tensor}, step=1)
        os._exit(0 if driver.standin_launches() == before else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [row["loss"] for row in rows(log, tmp_path)] == [0.5, 4.0]


def test_a_child_s_own_logger_asks_no_device(log, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "advlog_fast.engine.deferred.Deferral._ask",
        lambda self, index, tensors: [self._producer._unresolved(lib.ADVLOG_UNRESOLVED_TIMEOUT) for _ in tensors],
    )
    before = driver.standin_launches()
    child = os.fork()
    if child == 0:
        own = AdvancedLogger(tmp_path, "of_the_child", console="off", memory_interval_s=0)
        own.log_batch_progress(1, 1, 9, on_gpu(1.0))
        own.close()
        os._exit(0 if driver.standin_launches() == before else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_threads_log_beside_each_other(log, tmp_path):
    def work(rank):
        for step in range(300):
            log.log_metrics({f"of/{rank}": on_gpu(float(step)), f"also/{rank}": on_gpu(step, torch.int64)}, step=step)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = rows(log, tmp_path)
    unresolved = log.health().unresolved
    for rank in range(4):
        mine = [
            (row["step"], row[f"of/{rank}"], row[f"also/{rank}"]) for row in found if row[f"also/{rank}"] is not None
        ]
        assert all(step == of == also for step, of, also in mine)
        assert unresolved["slab_full"] or len(mine) == 300


def test_it_is_in_the_summary(log, tmp_path):
    log.close()
    summary = json.loads((tmp_path / "run_summary.json").read_text())
    assert summary["accounting"]["gpu_values"] == {"launch": 1, "operators": 0}
