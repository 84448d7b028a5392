"""What a GPU's driver says beside torch's allocator: asked late, by one thread, seldom, and of the right device.

torch's and the driver's answers are stood in for, as their documentation has them: few machines have a GPU.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from advlog_fast.sampling import gpu_memory
from advlog_fast.sampling.gpu_memory import GB, GpuMemory
from advlog_fast.sampling.memory_sampler import MemorySampler

UUIDS = ["aaaaaaaa-0000", "bbbbbbbb-1111", "cccccccc-2222"]


class Torch:
    """Three devices, numbered as CUDA_VISIBLE_DEVICES has them; memory is held on the second and the third."""

    def __init__(self) -> None:
        self.started = True
        self.held_gb = [0, 2, 3]
        self.module = ModuleType("torch")
        self.module.version = SimpleNamespace(hip=None)
        self.module.cuda = SimpleNamespace(
            is_initialized=lambda: self.started,
            device_count=lambda: len(self.held_gb),
            memory_stats_as_nested_dict=self._stats,
            get_device_properties=lambda device: SimpleNamespace(uuid=UUIDS[device]),
        )

    def _stats(self, device):
        size = self.held_gb[device] * GB
        counters = {"all": {"current": size, "peak": size, "allocated": size, "freed": 0}}
        return {"allocated_bytes": counters, "reserved_bytes": counters}


class Driver:
    """nvidia-ml-py's module, over a driver whose devices lie in another order than torch's."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        self.questions: list[tuple[str, object]] = []
        self.threads: set[str] = set()
        self.gates: list[threading.Event] = []
        self.held = threading.Event()
        self.unsupported: set[str] = set()
        self.pid = os.getpid()
        self.names = {"GPU-cccccccc-2222": 30, "MIG-bbbbbbbb-1111": 20, "GPU-aaaaaaaa-0000": 10}
        self.module = ModuleType("pynvml")
        self.module.NVMLError = self.Error
        self.module.nvmlInit = lambda: self._note("init", None)
        self.module.nvmlDeviceGetHandleByUUID = self._handle
        self.module.nvmlDeviceGetMemoryInfo = lambda h: self._answer("memory", h, SimpleNamespace(used=h * GB))
        self.module.nvmlDeviceGetUtilizationRates = lambda h: self._answer("busy", h, SimpleNamespace(gpu=h, memory=0))
        self.module.nvmlDeviceGetComputeRunningProcesses = lambda h: self._answer("processes", h, self._processes(h))

    def _processes(self, handle):
        return [
            SimpleNamespace(pid=1, usedGpuMemory=GB),
            SimpleNamespace(pid=self.pid, usedGpuMemory=handle * GB // 10),
        ]

    def _handle(self, uuid):
        if uuid not in self.names:
            raise self.Error("Not Found")
        return self.names[uuid]

    def _note(self, what, of):
        self.questions.append((what, of))
        self.threads.add(threading.current_thread().name)
        for gate in self.gates:
            self.held.set()
            gate.wait(20)

    def _answer(self, what, handle, answer):
        self._note(what, handle)
        if what in self.unsupported:
            raise self.Error("Not Supported")
        return answer


@pytest.fixture
def torch(monkeypatch):
    made = Torch()
    monkeypatch.setitem(sys.modules, "torch", made.module)
    return made


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", made.module)
    return made


def test_the_devices_are_those_of_torch_by_their_uuids(torch, driver):
    found = GpuMemory().driver()
    # The first device has nothing of this process; the driver's own numbers are never used.
    assert found == {"gpu_memory_used_gb": 50.0, "gpu_memory_process_gb": 5.0, "gpu_utilization_percent": 25.0}


def test_nothing_is_asked_before_cuda_is_started(torch, driver):
    torch.started = False
    gpus = GpuMemory()
    assert (gpus.driver(), gpus.allocator(), driver.questions) == ({}, {}, [])
    torch.started = True
    assert gpus.driver()["gpu_memory_used_gb"] == 50.0
    assert driver.questions[0] == ("init", None)
    gpus.driver()
    assert driver.questions.count(("init", None)) == 1


def test_a_process_that_holds_nothing_asks_nothing_of_a_device(torch, driver):
    torch.held_gb = [0, 0, 0]
    assert GpuMemory().driver() == {}
    assert driver.questions == [("init", None)]


def test_processes_are_looked_for_each_ten_seconds_at_most(torch, driver, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(gpu_memory.time, "monotonic", lambda: now[0])
    gpus = GpuMemory()
    for second in range(25):
        now[0] = 1000.0 + second
        assert gpus.driver()["gpu_memory_process_gb"] == 5.0
    asked = [what for what, _ in driver.questions]
    assert (asked.count("processes"), asked.count("memory")) == (3 * 2, 25 * 2)


def test_a_process_that_the_driver_names_otherwise_has_no_number(torch, driver):
    driver.pid = 424242
    assert GpuMemory().driver() == {"gpu_memory_used_gb": 50.0, "gpu_utilization_percent": 25.0}


def test_what_a_device_does_not_support_is_left_out(torch, driver):
    driver.unsupported = {"busy", "processes"}
    assert GpuMemory().driver() == {"gpu_memory_used_gb": 50.0}
    driver.names.clear()
    assert GpuMemory().driver() == {}


def test_the_sampler_asks_the_driver_in_its_thread_and_nobody_else_does(torch, driver):
    taken = []
    sampler = MemorySampler(0.02, taken.append)
    assert sampler.usage().gpu_memory_allocated_gb == 5.0
    assert driver.questions == []
    sampler.start()
    deadline = time.monotonic() + 120
    while len(taken) < 3 and time.monotonic() < deadline:
        sampler.usage()
    assert sampler.stop(5.0)
    assert driver.threads == {"advlog-sampler"}
    assert taken[0].metrics()["gpu_memory_process_gb"] == 5.0
    assert sampler.errors == 0


def test_a_driver_that_hangs_makes_samples_stale_and_holds_nobody(torch, driver):
    sampler = MemorySampler(0.02, lambda sample: None)
    gate = threading.Event()
    sampler.start()
    first = sampler.usage()
    driver.gates.append(gate)
    assert driver.held.wait(120)
    deadline = time.monotonic() + 120
    while not sampler.usage().stale:
        assert time.monotonic() < deadline
    assert sampler.usage().time_ns >= first.time_ns
    assert sampler.usage().stale
    assert sampler.stop(0.1) is False
    gate.set()
    assert sampler.stop(5.0)


def test_amd_is_asked_through_torch(torch, driver):
    torch.module.version.hip = "6.2"
    torch.module.cuda.device_memory_used = lambda device=0: device * GB
    torch.module.cuda.utilization = lambda device: 10 * device
    assert GpuMemory().driver() == {"gpu_memory_used_gb": 3.0, "gpu_utilization_percent": 15.0}
    assert driver.questions == []


@pytest.mark.parametrize("missing", ["the package", "the library"])
def test_without_a_driver_there_are_no_numbers_and_one_line_for_who_looks(torch, missing, monkeypatch, caplog):
    caplog.set_level("DEBUG", "advlog_fast.gpu_memory")
    if missing == "the package":
        monkeypatch.setitem(sys.modules, "pynvml", None)
    else:
        pynvml = pytest.importorskip("pynvml")
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            pass
        else:
            pytest.skip("this machine has NVIDIA's driver")
    gpus = GpuMemory()
    assert [gpus.driver() for _ in range(3)] == [{}, {}, {}]
    assert gpus.allocator()["gpu_memory_allocated_gb"] == 5.0
    assert len(caplog.records) == 1


def test_a_logger_imports_no_driver():
    script = """
        import sys, tempfile
        from advlog_fast import AdvancedLogger

        with AdvancedLogger(tempfile.mkdtemp(), "run", console="off", memory_interval_s=0.02) as log:
            log.log_memory_usage()
            while not log.get_training_summary()["memory"]["samples"] > 2:
                pass
        assert "pynvml" not in sys.modules and "torch" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=180)
