"""Samples the memory of the process and its GPUs in the background, without delaying the training."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from .._hooks import importing
from ..config import check_seconds
from ..exceptions import expected
from .gpu_memory import GB, GpuMemory
from .memory_trend import MemoryTrend

REFRESH_S = 0.1
"""The shortest time between two samples that `usage()` asks for: a call a batch costs no more than ten a
second."""

STALE_INTERVALS = 3

_COLUMNS = (
    "cpu_memory_gb",
    "system_memory_percent",
    "cpu_percent",
    "gpu_memory_allocated_gb",
    "gpu_memory_reserved_gb",
    "gpu_memory_max_allocated_gb",
    "gpu_memory_used_gb",
    "gpu_memory_process_gb",
    "gpu_utilization_percent",
)
_TREND = ("cpu_memory_gb", "gpu_memory_allocated_gb")


@dataclasses.dataclass(frozen=True)
class MemorySample:
    """Memory and CPU use at one moment; a GB is 1024**3 bytes. None means that a value could not be read, or was not
    requested."""

    time_ns: int
    """Nanoseconds since 1970, UTC."""
    cpu_memory_gb: float | None = None
    """Resident memory of this process."""
    system_memory_gb: float | None = None
    """Memory of the machine that is not available for use."""
    system_memory_percent: float | None = None
    cpu_percent: float | None = None
    """CPU time of this process since the sample before, 100 for each core kept busy."""
    gpu_memory_allocated_gb: float | None = None
    """Tensors, in torch's allocator, on all visible GPUs; None where torch has not started CUDA."""
    gpu_memory_reserved_gb: float | None = None
    """GPU memory that torch's allocator holds, the unused part included."""
    gpu_memory_max_allocated_gb: float | None = None
    """The sum of each GPU's highest `gpu_memory_allocated_gb` since the start or the user's last reset of the peak.
    """
    gpu_memory_used_gb: float | None = None
    """Used memory of the GPUs on which torch holds memory, over all processes. This field and the next two need
    nvidia-ml-py (for AMD: amdsmi)."""
    gpu_memory_process_gb: float | None = None
    """The part used by this process: allocator, context and libraries. Read every 10 s; None also if a container hides
    the driver's process numbers."""
    gpu_utilization_percent: float | None = None
    """The share of the latest second or less in which a kernel ran, as mean over these GPUs."""
    stale: bool = False
    """True if the sample is older than three intervals, because the sampler hangs in a probe."""

    def metrics(self) -> dict[str, float]:
        """The values there are, under the names of their columns."""
        return {name: value for name in _COLUMNS if (value := getattr(self, name)) is not None}


class MemorySampler:
    """Takes a sample each `interval_s` seconds in a daemon thread, and hands it to `on_sample` there.

    The thread keeps `on_sample` alive, and everything that it refers to. `errors` counts its exceptions. With
    `interval_s` 0 there is no thread, and :meth:`usage` reads inline.

    :param steps: returns the number of steps so far.
    :raises TypeError: `interval_s` is no number, or `on_sample` cannot be called.
    :raises ValueError: `interval_s` is negative or not finite.
    """

    def __init__(
        self, interval_s: float, on_sample: Callable[[MemorySample], None], steps: Callable[[], int] = int
    ) -> None:
        check_seconds("interval_s", interval_s, 0.0)
        if not callable(on_sample):
            raise TypeError(expected("on_sample", "a function of a MemorySample", on_sample))
        self.interval_s = float(interval_s)
        self.errors = 0
        """Probes that failed, and samples that `on_sample` failed to take."""
        self.cpu_s = 0.0
        """CPU seconds that the thread has used."""
        self._on_sample, self._steps = on_sample, steps
        self._latest: MemorySample | None = None
        self._trend = MemoryTrend()
        self._gpus = GpuMemory()
        self._process: Any = None
        self._cpu_percent_primed = False
        # No `threading.Event`: a signal handler may ask for a sample while this thread does, and its lock is held.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def start(self) -> None:
        """Starts the thread, unless `interval_s` is 0. The first sample comes an interval later."""
        if self.interval_s == 0 or self._thread is not None or os.getpid() != self._pid:
            return
        self._stopping = False
        thread = threading.Thread(target=self._run, name="advlog-sampler", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No thread to be had (the limit of the container, or the interpreter is ending): usage() reads
            # inline.
            self.errors += 1
            return
        self._thread = thread

    def usage(self) -> MemorySample:
        """Returns the latest sample at once; the thread then takes a fresh one.

        The first call, and every call where no thread runs (in a forked child too), reads inline: resident
        memory and torch's allocator, and nothing slower. Never raises.
        """
        # A forked child has no thread, and its copy of the queue may hold a lock that nobody will release.
        if os.getpid() != self._pid:
            return self._read(whole=False)
        latest = self._latest
        thread = self._thread
        if latest is None or thread is None or not thread.is_alive():
            sample = self._read(whole=False)
            self._keep(sample)
            return sample
        age_s = (time.time_ns() - latest.time_ns) / 1e9
        if age_s > REFRESH_S:
            self._wake.put(None)
        if age_s > STALE_INTERVALS * self.interval_s:
            return dataclasses.replace(latest, stale=True)
        return latest

    def trend(self) -> dict[str, Any]:
        """Returns how memory developed over all samples: for `cpu_memory_gb`, and for `gpu_memory_allocated_gb` where
        there was a GPU, its first, last, min, max (GB), growth_gb_per_hour and growth_gb_per_step, slopes that outliers
        do not move (None below two samples, or two steps), and whether a leak is suspected; beside them `samples`,
        `errors` and the sampler's own `cpu_s`.

        A leak is suspected if memory grew steadily after the first quarter of the time, which may be a warm-up: over at
        least 10 minutes, by at least 5 % and 100 MB, and by a good share of that in each part of the time."""
        return {
            "samples": self._trend.count,
            "errors": self.errors,
            "cpu_s": self.cpu_s,
            **self._trend.series(),
        }

    def leaks(self) -> list[str]:
        """Returns the names for which a leak is suspected."""
        return [name for name in _TREND if self._trend.is_leak(name)]

    def stop(self, timeout_s: float) -> bool:
        """Ends the thread, waiting at most `timeout_s` seconds; False where a probe still hangs then."""
        thread = self._thread
        if thread is None or os.getpid() != self._pid:
            return True
        self._stopping = True
        self._wake.put(None)
        if thread is not threading.current_thread():
            thread.join(timeout_s)
        if thread.is_alive():
            return False
        self._thread = None
        return True

    def _run(self) -> None:
        due = time.monotonic() + self.interval_s
        while not self._stopping:
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=max(due - time.monotonic(), 0.0))
                while True:
                    self._wake.get_nowait()
            if self._stopping:
                return
            latest = self._latest
            if time.monotonic() < due and latest is not None and time.time_ns() - latest.time_ns < REFRESH_S * 1e9:
                continue  # who asked had not yet seen the sample just taken
            sample = self._read(whole=True)
            self._keep(sample)
            now = time.monotonic()
            if now >= due and not self._stopping:
                # The next one counts from now: after a suspended machine wakes there is no burst to catch up.
                due = now + self.interval_s
                try:
                    self._on_sample(sample)
                except Exception:  # noqa: BLE001 - the sampler outlives what one sample meets
                    self.errors += 1
            self.cpu_s = time.thread_time()

    def _keep(self, sample: MemorySample) -> None:
        self._latest = sample
        values = {name: value for name in _TREND if (value := getattr(sample, name)) is not None}
        self._trend.add(sample.time_ns, self._steps(), values)

    def _read(self, whole: bool) -> MemorySample:
        probes = [self._probe_memory, self._gpus.allocator]
        if whole:
            probes += [self._probe_cpu, self._probe_system, self._gpus.driver]
        values: dict[str, Any] = {}
        for probe in probes:
            try:
                values.update(probe())
            except Exception:  # noqa: BLE001 - a probe that fails costs its own values only
                self.errors += 1
        return MemorySample(time.time_ns(), **values)

    def _probe_memory(self) -> dict[str, float]:
        return {"cpu_memory_gb": self._own_process().memory_info().rss / GB}

    def _probe_cpu(self) -> dict[str, float]:
        percent = self._own_process().cpu_percent(interval=None)
        primed, self._cpu_percent_primed = self._cpu_percent_primed, True
        # psutil's first answer is 0.0 and means nothing: there is no time before it to compare with.
        return {"cpu_percent": percent} if primed else {}

    def _own_process(self) -> Any:
        if self._process is None or self._process.pid != os.getpid():
            with importing():
                import psutil

            self._process = psutil.Process()
        return self._process

    def _probe_system(self) -> dict[str, float]:
        with importing():
            import psutil

        memory = psutil.virtual_memory()
        return {
            "system_memory_gb": (memory.total - memory.available) / GB,
            "system_memory_percent": float(memory.percent),
        }
