"""The memory of this process's GPUs, from torch's allocator and from the driver.

Only the sampler's thread asks the driver, and only after the user's program has started CUDA: after an earlier question
the process could not fork a child that uses a GPU.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from .._hooks import importing

GB = 1024**3
"""Bytes of the `gb` in every name here: binary, as torch and nvidia-smi count."""

PROCESSES_S = 10.0
"""The shortest time between two looks at the processes on a device: each takes milliseconds of the driver's lock."""

_log = logging.getLogger("advlog_fast.gpu_memory")


class GpuMemory:
    """The GPUs that torch sees. Empty answers where there is no torch, or CUDA was not started."""

    def __init__(self) -> None:
        self._driver: _Nvml | _RocmSmi | None = None
        self._asked_for_driver = False

    def allocator(self) -> dict[str, float]:
        """Returns torch's own counters, summed over the devices. Any thread may call it; it makes no CUDA call."""
        cuda = _started_cuda()
        if cuda is None:
            return {}
        allocated = reserved = peak = 0
        for device in range(cuda.device_count()):
            stats = cuda.memory_stats_as_nested_dict(device)
            allocated += stats["allocated_bytes"]["all"]["current"]
            peak += stats["allocated_bytes"]["all"]["peak"]
            reserved += stats["reserved_bytes"]["all"]["current"]
        return {
            "gpu_memory_allocated_gb": allocated / GB,
            "gpu_memory_reserved_gb": reserved / GB,
            "gpu_memory_max_allocated_gb": peak / GB,
        }

    def driver(self) -> dict[str, float]:
        """Returns what the driver reports about the devices on which torch holds memory. Only the sampler's thread may
        call it."""
        cuda = _started_cuda()
        if cuda is None:
            return {}
        if not self._asked_for_driver:
            self._asked_for_driver = True
            self._driver = _open_driver()
        devices = [
            device
            for device in range(cuda.device_count())
            if cuda.memory_stats_as_nested_dict(device)["reserved_bytes"]["all"]["current"]
        ]
        if self._driver is None or not devices:
            return {}
        driver = self._driver
        asked: dict[str, tuple[Callable[[int], float | None], Callable[[list[float]], float]]] = {
            "gpu_memory_used_gb": (driver.used_gb, sum),
            "gpu_memory_process_gb": (driver.process_gb, sum),
            "gpu_utilization_percent": (driver.utilization_percent, _mean),
        }
        figures = {}
        for name, (ask, together) in asked.items():
            values = [value for device in devices if (value := ask(device)) is not None]
            if values:
                figures[name] = together(values)
        return figures


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _started_cuda() -> Any:
    """Returns torch.cuda if the user's program has started it; any other question would start it."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    started = getattr(cuda, "is_initialized", None)
    return cuda if started is not None and started() else None


def _open_driver() -> _Nvml | _RocmSmi | None:
    try:
        return _RocmSmi() if getattr(sys.modules["torch"].version, "hip", None) else _Nvml()
    except Exception as error:  # noqa: BLE001 - no package, no library, no driver: each has an error of its own
        _log.debug("no numbers of the GPU's driver: %s: %s", type(error).__name__, error)
        return None


class _Nvml:
    """NVIDIA's library. A device that cannot answer, or is gone, answers None.

    :raises ImportError: nvidia-ml-py is not installed.
    :raises Exception: the library cannot be loaded, or has no driver.
    """

    def __init__(self) -> None:
        with importing():
            import pynvml

        pynvml.nvmlInit()  # once a process, and never shut down: others of the process may use it
        self._nvml: Any = pynvml
        self._handles: dict[int, Any] = {}
        self._process_gb: dict[int, tuple[float, float | None]] = {}

    def used_gb(self, device: int) -> float | None:
        """Returns the used memory of the device, over all processes."""
        answer = self._ask("nvmlDeviceGetMemoryInfo", device)
        return None if answer is None else answer.used / GB

    def utilization_percent(self, device: int) -> float | None:
        """The share of the latest second or less in which something ran on the device."""
        answer = self._ask("nvmlDeviceGetUtilizationRates", device)
        return None if answer is None else float(answer.gpu)

    def process_gb(self, device: int) -> float | None:
        """Returns the device memory of this process, with the context and all libraries; None if the driver uses pids
        of another namespace, as in some containers."""
        now = time.monotonic()
        asked_at, latest = self._process_gb.get(device, (-PROCESSES_S, None))
        if now - asked_at >= PROCESSES_S:
            processes = self._ask("nvmlDeviceGetComputeRunningProcesses", device) or []
            mine = [each.usedGpuMemory for each in processes if each.pid == os.getpid()]
            latest = mine[0] / GB if mine and mine[0] is not None else None
            self._process_gb[device] = now, latest
        return latest

    def _ask(self, question: str, device: int) -> Any:
        try:
            return getattr(self._nvml, question)(self._handle(device))
        except self._nvml.NVMLError:
            return None

    def _handle(self, device: int) -> Any:
        """Finds the device by its UUID, since CUDA_VISIBLE_DEVICES changes the order and the numbers."""
        if device not in self._handles:
            uuid = str(sys.modules["torch"].cuda.get_device_properties(device).uuid)
            by_uuid = self._nvml.nvmlDeviceGetHandleByUUID
            try:
                self._handles[device] = by_uuid(uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}")
            except self._nvml.NVMLError:
                self._handles[device] = by_uuid(f"MIG-{uuid}")  # a part of a device, where torch names it without
        return self._handles[device]


class _RocmSmi:
    """AMD's library, as torch asks it.

    :raises Exception: it is not there.
    """

    def __init__(self) -> None:
        self._cuda: Any = sys.modules["torch"].cuda
        self._cuda.device_memory_used()

    def used_gb(self, device: int) -> float | None:
        """As :meth:`_Nvml.used_gb`."""
        return float(self._cuda.device_memory_used(device)) / GB

    def utilization_percent(self, device: int) -> float | None:
        """As :meth:`_Nvml.utilization_percent`."""
        return float(self._cuda.utilization(device))

    def process_gb(self, device: int) -> float | None:  # noqa: ARG002 - torch has no such question
        """Returns None."""
        return None
