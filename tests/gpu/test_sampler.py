"""What is sampled of a GPU is what torch and the driver say, and costs next to nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest

from advlog_fast.sampling.gpu_memory import GB, GpuMemory
from advlog_fast.sampling.memory_sampler import MemorySampler

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu


@pytest.fixture
def held():
    return torch.ones(512 << 18, device="cuda")


def test_the_driver_says_at_least_what_the_allocator_holds(held):
    pytest.importorskip("pynvml")
    gpus = GpuMemory()
    allocator, driver = gpus.allocator(), gpus.driver()
    assert allocator["gpu_memory_allocated_gb"] >= held.numel() * 4 / GB
    assert driver["gpu_memory_used_gb"] >= allocator["gpu_memory_reserved_gb"]
    if "gpu_memory_process_gb" in driver:
        assert allocator["gpu_memory_reserved_gb"] <= driver["gpu_memory_process_gb"] <= driver["gpu_memory_used_gb"]
    assert 0 <= driver["gpu_utilization_percent"] <= 100


def test_peaks_are_the_users_own(held):
    torch.cuda.reset_peak_memory_stats()
    big = torch.ones(1 << 28, device="cuda")
    del big
    peak = torch.cuda.max_memory_allocated()
    sampler = MemorySampler(0.02, lambda sample: None)
    sampler.start()
    time.sleep(0.3)
    assert sampler.stop(5.0)
    assert torch.cuda.max_memory_allocated() == peak


@pytest.mark.parametrize("visible", ["0", "uuid", "1,0"])
def test_the_device_is_the_one_that_torch_uses(visible):
    pynvml = pytest.importorskip("pynvml")
    pynvml.nvmlInit()
    count = pynvml.nvmlDeviceGetCount()
    if visible == "1,0" and count < 2:
        pytest.skip("needs two devices")
    if visible == "uuid":
        visible = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(count - 1))[:12]
    script = """
        import torch
        from advlog_fast.sampling.gpu_memory import GB, _Nvml

        nvml = _Nvml()
        last = torch.cuda.device_count() - 1
        before = nvml.used_gb(last)
        held = torch.ones(1 << 28, device=f"cuda:{last}")
        torch.cuda.synchronize()
        assert nvml.used_gb(last) - before > 0.9, (before, nvml.used_gb(last))
        found = nvml._nvml.nvmlDeviceGetUUID(nvml._handle(last))
        assert str(torch.cuda.get_device_properties(last).uuid) in found, found
    """
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300, env=environment)


def test_a_fork_after_a_sample_without_cuda_can_use_it():
    script = """
        import os, time
        import torch
        from advlog_fast.sampling.memory_sampler import MemorySampler

        sampler = MemorySampler(0.05, lambda sample: None)
        sampler.start()
        while sampler.trend()["samples"] < 3:
            time.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            torch.rand(1, device="cuda").item()
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=300)
