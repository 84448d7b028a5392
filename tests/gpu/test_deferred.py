"""Values on a GPU: no call waits for it, and what is read back is what it computed."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advlog_fast import AdvancedLogger, read_run
from advlog_fast.recovery import recover

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaStreamWaitEvent", "cudaMemcpy")
"""Of the runtime's calls, those that make the host wait, or a stream for another one."""


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AdvancedLogger]:
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0.2, text=False, jsonl=False) as made:
        yield made


@pytest.fixture
def errors_of_sync() -> Iterator[None]:
    """Whatever synchronises raises; what C++ only warns of goes to descriptor 2, which the test reads."""
    torch.cuda.synchronize()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls the mode a prototype
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def rows_of(log: AdvancedLogger) -> Any:
    assert log.close()
    return read_run(log.config.log_dir, "run").metrics


def work(size: int = 1024) -> Callable[[], Any]:
    """Some milliseconds of the GPU's; its result is a scalar there."""
    a = torch.randn(size, size, device="cuda")

    def run() -> Any:
        b = a
        for _ in range(8):
            b = (b @ a).clamp(-1, 1)
        return b.mean()

    return run


def test_a_thousand_steps_of_ten_values_synchronise_nothing(log, errors_of_sync, capfd):
    step_work = work()
    kept = []
    for step in range(1, 1001):
        values = [step_work() * scale for scale in range(10)]
        log.log_batch_progress(1, step, 1000, values[0], **{f"m{at}": value for at, value in enumerate(values[1:])})
        kept.append(torch.stack(values))
    torch.cuda.set_sync_debug_mode("default")
    expected = torch.stack(kept).double().cpu()
    table = rows_of(log)
    assert log.health().unresolved == {"timeout": 0, "slab_full": 0, "capture": 0, "killed": 0}
    for at, name in enumerate(["loss", *(f"m{at}" for at in range(9))]):
        assert table[name].to_pylist() == expected[:, at].tolist()
    assert "synchroniz" not in capfd.readouterr().err.lower()


def test_a_trace_has_no_call_that_waits_and_no_copy(log):
    from torch.profiler import ProfilerActivity, profile

    def traced(logged: bool) -> tuple[dict[str, int], list[str]]:
        step_work = work()
        log.log_batch_progress(1, 1, 100, step_work())  # what is done once
        torch.cuda.synchronize()
        with warnings.catch_warnings(), profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
            warnings.simplefilter("ignore")  # of the profiler, at its end
            for step in range(2, 52):
                loss = step_work()
                if logged:
                    log.log_batch_progress(1, step, 100, loss, other=loss * 2)
                else:
                    loss * 2
        names = [event.name for event in trace.events()]
        copies = [name for name in names if name.startswith("Memcpy DtoH")]
        return {wait: names.count(wait) for wait in WAITS}, copies

    without, none = traced(logged=False)
    waits, copies = traced(logged=True)
    assert waits == without
    assert none == copies == []
    assert log.health().gpu_values == {"launch": 2 + 100, "operators": 0}


@pytest.mark.parametrize("count", [20_000, pytest.param(200_000, marks=pytest.mark.stress)])
def test_every_value_is_what_item_says_though_its_tensor_changes_at_once(log, count):
    source = torch.randn(count, dtype=torch.float64, device="cuda")
    source[:4] = torch.tensor([float("nan"), float("inf"), -0.0, 5e-324], dtype=torch.float64)
    for step in range(count):
        loss = source[step].clone()
        log.log_batch_progress(1, step, 1 << 30, loss, step=step)
        loss.fill_(-1.0)
        del loss
    table = rows_of(log)
    assert sum(log.health().unresolved.values()) == 0
    assert table["step"].to_pylist() == list(range(count))
    found = b"".join(struct.pack("<d", value) for value in table["loss"].to_pylist()[1:])
    assert found == source[1:].cpu().numpy().tobytes()
    assert table["loss"][0].as_py() != table["loss"][0].as_py()  # NaN


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype(log, dtype):
    given = torch.tensor([0, 1, 1] if dtype == "bool" else [0, 1, 100]).to(getattr(torch, dtype))
    for step, value in enumerate(given, 1):
        log.log_batch_progress(
            1, step, 3, value.cuda(), group=value.cuda().reshape(1, 1), other=torch.ones((), device="cuda")
        )
    table = rows_of(log)
    for name in ("loss", "group"):
        assert table[name].to_pylist() == given.double().tolist()


def test_losses_with_a_graph_keep_no_memory(log):
    weight = torch.randn(1 << 16, device="cuda", requires_grad=True)

    def step(number: int) -> None:
        log.log_batch_progress(1, number, 10_100, (weight * weight).sum(), other=weight.mean())

    for number in range(100):
        step(number)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    reserved = torch.cuda.memory_reserved()
    for number in range(100, 10_100):
        step(number)
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() == before
    assert torch.cuda.memory_reserved() == reserved


def test_streams_each_keep_their_order(log):
    streams = [torch.cuda.Stream() for _ in range(4)]
    step_work = work(512)
    for step in range(1, 401):
        with torch.cuda.stream(streams[step % 4]):
            value = torch.full((), float(step), device="cuda")
            value += 0 * step_work().nan_to_num()
            log.log_batch_progress(1, step, 400, value)
    assert rows_of(log)["loss"].to_pylist() == [float(step) for step in range(1, 401)]


def test_the_first_value_may_come_in_a_stream_that_is_far_behind(log):
    busy, other = torch.cuda.Stream(), torch.cuda.Stream()
    step_work = work(2048)
    with torch.cuda.stream(busy):
        for _ in range(20):
            step_work()
        log.log_batch_progress(1, 1, 101, torch.full((), 1.0, device="cuda"))
    with torch.cuda.stream(other):
        for step in range(2, 102):
            log.log_batch_progress(1, step, 101, torch.full((), float(step), device="cuda"))
    assert rows_of(log)["loss"].to_pylist() == [float(step) for step in range(1, 102)]


def test_a_second_device(log):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two devices")
    for step in range(1, 101):
        here, there = (torch.full((), float(step * at), device=f"cuda:{at - 1}") for at in (1, 2))
        log.log_batch_progress(1, step, 100, here, there=there)
    table = rows_of(log)
    assert table["there"].to_pylist() == [2.0 * step for step in range(1, 101)]


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.stress)])
def test_captures_of_graphs_go_on_beside_the_drain_and_the_sampler(log, count):
    static = torch.zeros((), device="cuda")
    step_work = work(256)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        step_work()
    torch.cuda.synchronize()
    for number in range(1, count + 1):
        log.log_batch_progress(1, 2 * number - 1, 2 * count, torch.full((), float(number), device="cuda"))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # in the default mode any thread's unsafe call ends it
            static.copy_(step_work() * 0 + number)
        graph.replay()
        log.log_batch_progress(1, 2 * number, 2 * count, static)
    table = rows_of(log)
    assert table["loss"].to_pylist() == [float((at + 2) // 2) for at in range(2 * count)]
    assert sum(log.health().unresolved.values()) == 0


@pytest.mark.parametrize("count", [50, pytest.param(1000, marks=pytest.mark.stress)])
def test_captures_of_graphs_go_on_beside_threads_that_log(log, count):
    static, side, over = torch.zeros((), device="cuda"), torch.cuda.Stream(), threading.Event()
    step_work = work(256)
    with torch.cuda.stream(side):
        step_work()
    torch.cuda.synchronize()
    given = torch.arange(1 << 16, device="cuda", dtype=torch.float32).unbind()  # a kernel's launch, and nothing else

    def log_on() -> None:
        for at in range(1 << 16):
            if over.is_set():
                return
            log.log_metrics({"value": given[at]}, step=at)
            if at % 1000 == 999:
                log.flush(10.0)  # or the slab would be full

    thread = threading.Thread(target=log_on)
    thread.start()
    try:
        for number in range(count):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                static.copy_(step_work() * 0 + number)
            graph.replay()
            assert static.item() == number
    finally:
        over.set()
        thread.join()
    assert sum(log.health().unresolved.values()) == 0
    table = rows_of(log)
    assert table["value"].to_pylist() == table["step"].to_pylist()


@pytest.mark.parametrize("count", [3, pytest.param(200, marks=pytest.mark.stress)])
def test_the_first_value_may_come_within_another_threads_capture(tmp_path, count):
    script = """
        import sys, threading, torch
        from advlog_fast import AdvancedLogger

        value, static = torch.full((), 2.5, device="cuda"), torch.zeros((), device="cuda")
        torch.cuda.synchronize()
        capturing, logged = threading.Event(), threading.Event()

        def first():
            capturing.wait()
            log.log_batch_progress(1, 1, 1, value)
            logged.set()

        log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0)
        thread = threading.Thread(target=first)
        thread.start()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # in the default mode any thread's unsafe call ends it
            static += 1
            capturing.set()
            assert logged.wait(60)
            static += 1
        thread.join()
        graph.replay()
        assert static.item() == 2.0
        assert log.close()
    """
    for number in range(count):
        folder = tmp_path / str(number)
        subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(folder)], check=True, timeout=300)
        (row,) = read_run(folder, "run").metrics.to_pylist()
        assert (row["loss"], row["unresolved"]) == (2.5, None)


def test_a_call_inside_a_capture_copies_nothing_and_harms_it_not(log):
    static = torch.zeros((), device="cuda")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        static += 1
        log.log_batch_progress(1, 1, 2, static)
    graph.replay()
    graph.replay()
    log.log_batch_progress(1, 2, 2, static)
    table = rows_of(log)
    assert table["loss"].to_pylist() == [None, 2.0]
    assert table["unresolved"].to_pylist() == [[("loss", "capture")], None]


def test_threads_that_log_and_one_that_trains(log):
    def log_some(of: int) -> None:
        for step in range(200):
            log.log_metrics({"value": torch.full((), float(of * 1000 + step), device="cuda"), "of": of}, step=step)

    threads = [threading.Thread(target=log_some, args=(of,)) for of in range(4)]
    for thread in threads:
        thread.start()
    step_work = work()
    while any(thread.is_alive() for thread in threads):
        step_work()
    table = rows_of(log)
    assert sorted(table["value"].to_pylist()) == [float(of * 1000 + step) for of in range(4) for step in range(200)]


def test_the_last_value_is_there_after_close_and_a_slow_gpu_lets_it_return(tmp_path):
    log = AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0)
    step_work = work(4096)
    for step in range(1, 21):
        log.log_batch_progress(1, step, 20, step_work())
    last = step_work()
    log.log_batch_progress(1, 21, 21, last, step=21)
    assert log.close()
    assert read_run(tmp_path, "run").metrics["loss"].to_pylist()[-1] == last.item()
    second = AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0)
    for _ in range(200):
        step_work()
    second.log_batch_progress(1, 1, 1, step_work())
    began = time.monotonic()
    second.close(0.2)
    assert time.monotonic() - began < 3
    torch.cuda.synchronize()


def test_after_a_kill_what_the_gpu_had_written_is_there(tmp_path):
    script = """
        import os, signal, sys, torch
        from advlog_fast import AdvancedLogger

        log = AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0)
        for step in range(1, 501):
            log.log_batch_progress(1, step, 500, torch.full((), float(step), device="cuda"))
        torch.cuda.synchronize()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert [found.outcome for found in recover(tmp_path, "run")] == ["recovered"]
    assert read_run(tmp_path, "run").metrics["loss"].to_pylist() == [float(step) for step in range(1, 501)]


def test_a_fork_after_the_logger_was_made_can_use_the_gpu(tmp_path):
    script = """
        import os, sys
        import advlog_fast

        log = advlog_fast.AdvancedLogger(sys.argv[1], "run", console="off", memory_interval_s=0.05)
        while log.get_training_summary()["memory"]["samples"] < 3:
            log.log_memory_usage()
        pid = os.fork()
        if pid == 0:
            import torch

            torch.rand(1, device="cuda").item()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], check=True, timeout=300)


def test_the_process_has_one_context(log):
    pynvml = pytest.importorskip("pynvml")
    log.log_batch_progress(1, 1, 1, torch.ones((), device="cuda"))
    log.log_memory_usage()
    time.sleep(0.5)
    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    mine = [
        process
        for handle in handles
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        if process.pid == os.getpid()
    ]
    if not mine:
        pytest.skip("the driver names processes as another namespace does")
    assert len(mine) == 1
