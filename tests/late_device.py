"""A device queue in the CPU's memory: copies land when a test says so, in any order, and half by half.

It stands in for a GPU, which few machines have. What enqueues is the package's own code, on tensors that say that they
lie on a GPU; only the last hop, from the device to the slab, is delayed.
"""

from __future__ import annotations

import random
import struct
import threading
from collections.abc import Iterator
from typing import Any

import torch

from advlog_fast.engine import deferred


class OnDevice(torch.Tensor):
    """A tensor that says it lies on a GPU, and must not be read from the host."""

    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    may_wait = False

    def item(self) -> Any:
        assert self.may_wait, "item() waits for the device"
        return self.as_subclass(torch.Tensor).item()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def on_device(value: Any, dtype: torch.dtype | None = None) -> OnDevice:
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
    return tensor.as_subclass(OnDevice)


class LateDevice:
    """What was enqueued and has not landed: (slab, entry, value, check) each, by call."""

    def __init__(self) -> None:
        self.calls: list[list[tuple[torch.Tensor, int, int, int]]] = []
        self.lock = threading.Lock()
        self.enqueued = threading.Event()
        self.capturing = False
        self.locks_pages = True
        self.locked: list[int] = []
        self.threads: set[int] = set()
        self.fault: Exception | None = None

    def land(self, calls: int | None = None, *, at: int = 0) -> None:
        """The copies of so many calls, all that there are without a number, from the one at `at` on."""
        with self.lock:
            count = len(self.calls) if calls is None else calls
            landing, self.calls[at : at + count] = self.calls[at : at + count], []
        for copies in landing:
            for slab, entry, value, check in copies:
                slab[entry, 0], slab[entry, 1] = value, check

    def land_torn(self, seed: int) -> Iterator[None]:
        """Everything in flight, half by half, in a random order; a step at each half."""
        with self.lock:
            halves = [(c[0], c[1], at, c[2 + at]) for copies in self.calls for c in copies for at in (0, 1)]
            self.calls.clear()
        random.Random(seed).shuffle(halves)
        for slab, entry, at, bits in halves:
            slab[entry, at] = bits
            yield


def queue_on(device: LateDevice) -> type[deferred.DeviceQueue]:
    """The package's queue, on that device."""

    class LateQueue(deferred.DeviceQueue):
        def __init__(self, index: int, host: torch.Tensor) -> None:
            with torch.inference_mode(False):
                super().__init__(index, torch.zeros_like(host))
            self._slab = host

        @staticmethod
        def device(index: int) -> Any:
            return torch.device("cpu")

        @staticmethod
        def moment(index: int) -> tuple[Any, int]:
            return None, 0

        @staticmethod
        def stream(index: int) -> int:
            return 0

        @staticmethod
        def page_lock(address: int, size: int) -> bool:
            if device.locks_pages:
                device.locked.append(address)
            return device.locks_pages

        @staticmethod
        def page_locked(numbers: int) -> torch.Tensor:
            return torch.zeros(numbers, dtype=torch.int64)

        @classmethod
        def is_capturing(cls, index: int) -> bool:
            return device.capturing

        def copy(self, tensors: list[torch.Tensor], first: int, key: int) -> None:
            device.threads.add(threading.get_ident())
            if device.fault is not None:
                raise device.fault
            super().copy([tensor.as_subclass(torch.Tensor) for tensor in tensors], first, key)
            rows = self._host[first : first + len(tensors)].tolist()
            copies = [(self._slab, first + at, value, check) for at, (value, check) in enumerate(rows)]
            with device.lock:
                device.calls.append(copies)
            device.enqueued.set()

    return LateQueue


def bits_of(value: float) -> bytes:
    return struct.pack("<d", value)
