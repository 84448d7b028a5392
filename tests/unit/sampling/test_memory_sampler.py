"""The memory sampler: true numbers, at once, whatever a probe, a fork or a missing GPU does."""

from __future__ import annotations

import itertools
import math
import mmap
import os
import subprocess
import sys
import textwrap
import threading
import time

import psutil
import pytest

from advlog_fast import AdvancedLogger
from advlog_fast.sampling import memory_sampler
from advlog_fast.sampling.memory_sampler import GB, MemorySample, MemorySampler


def wait_until(condition, timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def taken() -> list[MemorySample]:
    return []


@pytest.fixture
def sampler(taken):
    made = MemorySampler(0.05, taken.append)
    yield made
    assert made.stop(5.0)


def test_samples_come_each_interval_and_none_before_the_first(sampler, taken):
    began = time.time_ns()
    sampler.start()
    assert wait_until(lambda: len(taken) >= 4)
    assert taken[0].time_ns - began >= 0.05 * 1e9
    gaps = [(b.time_ns - a.time_ns) / 1e9 for a, b in itertools.pairwise(taken)]
    assert min(gaps) > 0.03, "samples came faster than asked for"


def test_the_numbers_are_those_of_this_process_and_machine(sampler, taken):
    sampler.start()
    assert wait_until(lambda: len(taken) >= 2)
    sample = taken[-1]
    assert sample.cpu_memory_gb == pytest.approx(psutil.Process().memory_info().rss / GB, rel=0.2)
    assert 0 < sample.system_memory_gb < psutil.virtual_memory().total / GB
    assert 0 < sample.system_memory_percent <= 100
    assert taken[0].cpu_percent is None, "there was no time before it to compare with"
    assert sample.cpu_percent >= 0
    assert abs(sample.time_ns - time.time_ns()) < 60e9


def test_memory_that_is_taken_shows(sampler):
    before = sampler.usage().cpu_memory_gb
    # Not from malloc: the tests before may have left as much there that is free and resident.
    with mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        for _ in range(64):
            held.write(b"\1" * (1 << 20))
        sampler_without_history = MemorySampler(0, lambda sample: None)
        assert sampler_without_history.usage().cpu_memory_gb - before == pytest.approx(len(held) / GB, abs=0.02)


def test_the_first_usage_reads_inline_and_only_what_is_cheap(sampler):
    sampler.start()
    sample = sampler.usage()
    assert sample.cpu_memory_gb > 0
    assert sample.system_memory_percent is None
    assert not sample.stale


def test_later_usages_return_the_latest_at_once_and_ask_for_a_fresh_one(taken):
    sampler = MemorySampler(3600, taken.append)
    sampler.start()
    first = sampler.usage()
    time.sleep(memory_sampler.REFRESH_S + 0.05)
    assert sampler.usage() is first
    assert wait_until(lambda: sampler.usage() is not first)
    assert sampler.usage().system_memory_percent is not None
    assert taken == [], "a sample that usage() asked for is not a periodic one"
    assert sampler.stop(5.0)


def test_usage_in_a_tight_loop_takes_at_most_ten_samples_a_second():
    sampler = MemorySampler(3600, lambda sample: None)
    sampler.start()
    began = time.monotonic()
    while time.monotonic() < began + 1.0:
        sampler.usage()
    assert 2 <= sampler.trend()["samples"] <= 10 * (time.monotonic() - began) + 3
    assert sampler.stop(5.0)


def test_interval_0_takes_no_samples_of_its_own_and_usage_reads_each_time(taken):
    sampler = MemorySampler(0, taken.append)
    before = threading.active_count()
    sampler.start()
    assert threading.active_count() == before
    assert sampler.usage().time_ns < sampler.usage().time_ns
    assert taken == []
    assert sampler.stop(0.0)


def test_a_probe_that_hangs_makes_the_sample_stale():
    release = threading.Event()
    sampler = MemorySampler(0.05, lambda sample: release.wait(20))
    sampler.start()
    assert wait_until(lambda: sampler.trend()["samples"] == 1)
    assert wait_until(lambda: sampler.usage().stale)
    began = time.monotonic()
    assert sampler.stop(0.1) is False
    assert time.monotonic() - began < 15
    release.set()
    assert sampler.stop(5.0)


def test_what_the_receiver_raises_is_counted_and_the_sampler_goes_on(taken):
    def receive(sample):
        taken.append(sample)
        raise ValueError("no")

    sampler = MemorySampler(0.02, receive)
    sampler.start()
    assert wait_until(lambda: len(taken) >= 3)
    assert sampler.stop(5.0)
    assert sampler.errors == len(taken)


def test_stop_ends_the_thread_and_usage_then_reads_inline(taken):
    sampler = MemorySampler(0.02, taken.append)
    before = threading.active_count()
    sampler.start()
    sampler.start()
    assert threading.active_count() == before + 1
    assert wait_until(lambda: taken)
    assert sampler.stop(5.0)
    assert threading.active_count() == before
    count = len(taken)
    last = sampler.usage()
    assert last.time_ns > taken[-1].time_ns
    time.sleep(0.1)
    assert len(taken) == count
    assert sampler.cpu_s > 0


def test_a_forked_child_reads_inline_its_own_memory():
    # A process of its own: forking one with threads warns, and this one's threads are pytest's affair.
    script = """
        import os, time
        from advlog_fast.sampling.memory_sampler import MemorySampler

        sampler = MemorySampler(0.02, lambda sample: None)
        sampler.start()
        while sampler.trend()["samples"] < 2:
            time.sleep(0.01)
        old = sampler.usage()
        pid = os.fork()
        if pid == 0:
            held = b"1" * (64 << 20)
            new = sampler.usage()
            grown = new.cpu_memory_gb - old.cpu_memory_gb
            sampler.start()
            os._exit(0 if new is not old and grown > 0.03 and sampler.stop(1.0) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert sampler.stop(5.0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=180)


def test_torch_is_neither_imported_nor_made_to_start_cuda():
    script = """
        import sys
        from advlog_fast.sampling.memory_sampler import MemorySampler

        assert "psutil" not in sys.modules
        sample = MemorySampler(0, print).usage()
        assert "torch" not in sys.modules
        assert sample.gpu_memory_allocated_gb is None
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=180)


def test_torch_without_a_started_gpu_gives_no_gpu_values():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_initialized():
        pytest.skip("a GPU is in use here")
    sampler = MemorySampler(0, print)
    sample = sampler.usage()
    assert (sample.gpu_memory_allocated_gb, sample.gpu_memory_reserved_gb, sample.gpu_memory_max_allocated_gb) == (
        None,
        None,
        None,
    )
    assert sampler.errors == 0
    assert not torch.cuda.is_initialized()


def test_the_gpu_values_are_those_of_torchs_allocator():
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    held = torch.ones(64 << 18, device="cuda")
    sample = MemorySampler(0, print).usage()
    devices = range(torch.cuda.device_count())
    assert sample.gpu_memory_allocated_gb == sum(map(torch.cuda.memory_allocated, devices)) / GB >= 64 / 1024
    assert sample.gpu_memory_reserved_gb == sum(map(torch.cuda.memory_reserved, devices)) / GB
    assert sample.gpu_memory_max_allocated_gb == sum(map(torch.cuda.max_memory_allocated, devices)) / GB
    assert held.numel() == 64 << 18


def test_the_gpus_are_summed(monkeypatch):
    """With torch's answers as its documentation has them, for machines that have no GPU."""

    class Cuda:
        @staticmethod
        def is_initialized():
            return True

        @staticmethod
        def device_count():
            return 2

        @staticmethod
        def memory_stats_as_nested_dict(device):
            gb = (device + 1) * GB
            return {
                "allocated_bytes": {"all": {"current": gb, "peak": 3 * gb, "allocated": 9 * gb, "freed": 8 * gb}},
                "reserved_bytes": {"all": {"current": 2 * gb, "peak": 4 * gb, "allocated": 0, "freed": 0}},
            }

    torch = type(sys)("torch")
    torch.cuda = Cuda
    monkeypatch.setitem(sys.modules, "torch", torch)
    sampler = MemorySampler(0, print)
    sample = sampler.usage()
    assert (sample.gpu_memory_allocated_gb, sample.gpu_memory_reserved_gb, sample.gpu_memory_max_allocated_gb) == (
        3.0,
        6.0,
        9.0,
    )
    assert sampler.trend()["gpu_memory_allocated_gb"]["last"] == 3.0

    Cuda.memory_stats_as_nested_dict = staticmethod(lambda device: {})
    assert sampler.usage().gpu_memory_allocated_gb is None
    assert sampler.errors == 1


def test_metrics_hold_the_values_there_are_under_the_columns_names():
    sample = MemorySample(1, 0.5, 3.0, 40.0, None, 1.0, 2.0, 1.5)
    assert sample.metrics() == {
        "cpu_memory_gb": 0.5,
        "system_memory_percent": 40.0,
        "gpu_memory_allocated_gb": 1.0,
        "gpu_memory_reserved_gb": 2.0,
        "gpu_memory_max_allocated_gb": 1.5,
    }


def test_a_trend_of_one_sample_or_none_claims_no_growth():
    sampler = MemorySampler(0, print)
    assert sampler.trend() == {"samples": 0, "errors": 0, "cpu_s": 0.0}
    sampler.usage()
    found = sampler.trend()["cpu_memory_gb"]
    assert found["growth_gb_per_hour"] is None
    assert found["growth_gb_per_step"] is None
    assert found["leak_suspected"] is False
    assert found["first"] == found["last"] > 0


def test_a_leak_is_told_once_in_the_main_log(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=3600) as log:
        sampler = log._session.parts.sampler
        for i in range(200):
            sampler._trend.add(i * 30 * 10**9, i, {"cpu_memory_gb": 4.0 + i / 100})
        for _ in range(3):
            sampler._on_sample(MemorySample(time.time_ns(), cpu_memory_gb=6.0))
        assert sampler.leaks() == ["cpu_memory_gb"]
        assert wait_until(lambda: "grows" in log.paths["main_log"].read_text())
    said = [line for line in log.paths["main_log"].read_text().splitlines() if "grows without an end" in line]
    assert len(said) == 1
    assert "WARNING cpu_memory_gb" in said[0]
    assert log.get_training_summary()["memory"]["cpu_memory_gb"]["leak_suspected"] is True


def test_growth_is_told_by_step_too(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        held = []
        for step in range(1, 21):
            held.append(mmap.mmap(-1, 4 << 20))  # fresh pages: what malloc gives may be resident already
            held[-1].write(b"\1" * (4 << 20))
            log.log_batch_progress(1, step, 20, 0.5)
            log.log_memory_usage()
        found = log.get_training_summary()["memory"]["cpu_memory_gb"]
    assert found["growth_gb_per_step"] == pytest.approx(4 / 1024, rel=0.3)


@pytest.mark.parametrize(
    ("interval", "receiver", "error", "message"),
    [
        ("5", print, TypeError, "interval_s: expected seconds"),
        (-1, print, ValueError, "interval_s: expected seconds, from 0"),
        (math.nan, print, ValueError, "interval_s: expected seconds, from 0"),
        (5, None, TypeError, "on_sample: expected a function"),
    ],
)
def test_misuse_names_the_argument(interval, receiver, error, message):
    with pytest.raises(error, match=message):
        MemorySampler(interval, receiver)


def test_no_thread_is_left_when_the_process_ends_without_stop():
    script = (
        "from advlog_fast.sampling.memory_sampler import MemorySampler; MemorySampler(0.01, print).start(); import os"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=180,
        env=dict(os.environ),
    )
    assert (done.returncode, done.stderr) == (0, "")
