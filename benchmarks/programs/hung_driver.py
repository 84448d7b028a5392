"""The calls while the GPU's driver answers the memory sampler, while it hangs, and after.

    hung_driver.py DIRECTORY SECONDS

Of torch and of the driver there are stand-ins, so that the program runs without a GPU.
"""

from __future__ import annotations

import sys
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

from hung_sink import paced, quantiles
from workload import report

import advlog_fast

GB = 1024**3


def stand_ins(answers: threading.Event) -> dict[str, ModuleType]:
    """A torch with one device in use, and a driver that hangs while `answers` is not set."""
    counters = {"all": {"current": GB, "peak": GB}}
    torch: Any = ModuleType("torch")
    torch.version = SimpleNamespace(hip=None)
    torch.cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 1,
        memory_stats_as_nested_dict=lambda _device: {"allocated_bytes": counters, "reserved_bytes": counters},
        get_device_properties=lambda _device: SimpleNamespace(uuid="0"),
    )

    def answer(_handle: object) -> Any:
        answers.wait()
        return SimpleNamespace(used=GB, gpu=50)

    pynvml: Any = ModuleType("pynvml")
    pynvml.NVMLError = RuntimeError
    pynvml.nvmlInit = lambda: None
    pynvml.nvmlDeviceGetHandleByUUID = lambda _uuid: 0
    pynvml.nvmlDeviceGetMemoryInfo = pynvml.nvmlDeviceGetUtilizationRates = answer
    pynvml.nvmlDeviceGetComputeRunningProcesses = lambda _handle: []
    return {"torch": torch, "pynvml": pynvml}


def main(directory: str, seconds: float) -> None:
    answers = threading.Event()
    answers.set()
    sys.modules.update(stand_ins(answers))
    log = advlog_fast.AdvancedLogger(directory, "run", console="off", memory_interval_s=1.0)
    figures: dict[str, Any] = {}
    for name, lasts in (("before", seconds / 2), ("hanging", seconds), ("after", seconds / 2)):
        if name == "hanging":
            answers.clear()
        else:
            answers.set()
        figures[name] = quantiles(paced(log, lasts))
        usage = log.log_memory_usage()
        assert usage is not None
        figures[f"{name}_stale"] = usage.stale
    time.sleep(1.5)
    samples = log.get_training_summary()["memory"]["samples"]
    closed = log.close()
    report(seconds=seconds, samples=samples, closed=closed, **figures)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
