"""Values on an accelerator: its stream copies them later, and the training never waits for them.

A call enqueues, on the current stream, one copy of all its values into the slab of the ring (csrc/slab.h), and returns.
Later work on that stream, such as an in-place change or a free of the tensor, comes after the copy. The drain finds the
values in memory. Only the caller's own thread calls the device, since a call from another thread can break the capture
of a CUDA graph.

On an NVIDIA GPU the copy is one launch through the driver, which the producer makes by itself (csrc/producer_device.c)
once the device was opened here. What a launch may not read, and other devices, go through a `DeviceQueue`, by operators
of torch.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .._native import Deferred, Producer, ffi, lib
from .._tensors import has_memory, has_numbers
from .ring import Ring

Tensor = Any
"""A torch.Tensor: torch is the user's to import."""

_ENTRY_BYTES = 16
_KEPT_PLACES = 4096
_PORTABLE = 1
"""cudaHostRegisterPortable: page-locked for every device of the process."""

_KERNEL = Path(__file__).with_name("put.ptx")
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
"""What `Producer._meet_torch` wants, in its order."""

_SLOWER = "values on GPU {} are copied by operators of torch, which takes longer"

_kept: list[object] = []
"""Memory that devices may write into or copy from. It stays for the life of the process, since releasing it may wait
for all work of a device."""


class DeviceQueue:
    """Copies from one device, in the order of its current stream.

    :param index: the device's number.
    :param host: the slab, int64, an entry a row: a value's bits, and these XORed with the key of its copy.
    """

    def __init__(self, index: int, host: Tensor) -> None:
        torch = self._torch = sys.modules["torch"]
        self._host = host
        self._places: dict[tuple[int, int], tuple[Tensor, ...]] = {}
        self._index = index
        # A copy is made of a pair, and the pair on the device, in a place that is kept: nothing is allocated there for
        # a call, and the call's tensors may go at once.
        with torch.inference_mode(False):
            self._pairs = torch.zeros(tuple(host.shape), dtype=torch.int64, device=self.device(index))
        self._made, first = self.moment(index)
        self._streams = {first}

    @staticmethod
    def device(index: int) -> Any:
        """The device of that number."""
        return sys.modules["torch"].device("cuda", index)

    @staticmethod
    def moment(index: int) -> tuple[Any, int]:
        """Returns an event for now in the device's current stream, and that stream's address."""
        stream = sys.modules["torch"].cuda.current_stream(index)
        return stream.record_event(), stream.cuda_stream

    @staticmethod
    def stream(index: int) -> int:
        """The device's current stream by its address."""
        torch = sys.modules["torch"]
        # What torch's own compiler asks at each launch. A Stream made to be asked costs as much as a launch.
        address = getattr(torch._C, "_cuda_getCurrentRawStream", None)
        return int(address(index) if address is not None else torch.cuda.current_stream(index).cuda_stream)

    def _come_after(self) -> None:
        """Makes a stream that is used for the first time wait for the stream in which the pairs were allocated: earlier
        work there may still use their memory."""
        stream = self.stream(self._index)
        if stream not in self._streams:
            self._torch.cuda.current_stream(self._index).wait_event(self._made)
            self._streams.add(stream)

    @staticmethod
    def page_lock(address: int, size: int) -> bool:
        """Page-locks host memory, so that devices can write into it; returns False if that fails."""
        cudart = sys.modules["torch"].cuda.cudart()
        return int(cudart.cudaHostRegister(address, size, _PORTABLE)) == 0

    @staticmethod
    def page_locked(numbers: int) -> Tensor:
        """Returns page-locked memory of torch for int64 values, after page-locking the ring's memory failed."""
        torch = sys.modules["torch"]
        # CUDA keeps this error until the next launch is checked, and that launch would then fail instead.
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device="cuda").fill_(0)
        return torch.zeros(numbers, dtype=torch.int64, pin_memory=True, device="cpu")

    @classmethod
    def is_capturing(cls, index: int) -> bool:
        """Returns whether the device's current stream is being captured: what is enqueued now would run at each
        replay."""
        cuda = sys.modules["torch"].cuda
        if cuda.current_device() == index:
            return bool(cuda.is_current_stream_capturing())
        with cuda.device(index):
            return bool(cuda.is_current_stream_capturing())

    def copy(self, tensors: list[Tensor], first: int, key: int) -> None:
        """Enqueues the copy of the tensors, one number each, into the slab's entries from `first` on."""
        torch = self._torch
        count = len(tensors)
        self._come_after()
        values, bits, checks, pairs, host = self._places.get((first, count)) or self._place(first, count)
        if count == 1:
            value = tensors[0].detach()  # or the graph behind it would live as long as its place here
            values.copy_(value if value.dim() < 2 else value.reshape(1))
        else:
            scalars = [tensor.detach() for tensor in tensors]
            scalars = [tensor if tensor.dim() == 0 else tensor.reshape(()) for tensor in scalars]
            # Each by itself: what different dtypes promote to together need not hold every number.
            if any(tensor.dtype is not scalars[0].dtype for tensor in scalars):
                scalars = [tensor.double() for tensor in scalars]
            values.copy_(torch.stack(scalars))
        torch.bitwise_xor(bits, key, out=checks)
        host.copy_(pairs, non_blocking=True)

    def _place(self, first: int, count: int) -> tuple[Tensor, ...]:
        torch = self._torch
        with torch.inference_mode(False):
            pairs, host = (table[first : first + count] for table in (self._pairs, self._host))
            place = pairs.view(torch.float64)[:, 0], pairs[:, 0], pairs[:, 1], pairs, host
        if len(self._places) < _KEPT_PLACES:
            self._places[first, count] = place
        return place


class Deferral:
    """Copies the values on accelerators that a session receives. Any thread may call it.

    :param producer: bound to the ring.
    :param on_fault: called with a sentence for each device whose values go by operators because the driver cannot take
        them, and once when a copy fails.
    """

    queue_type = DeviceQueue

    def __init__(self, ring: Ring, producer: Producer, on_fault: Callable[[str], None]) -> None:
        self._ring: Ring | None = ring
        self._producer, self._on_fault = producer, on_fault
        self._opening = threading.RLock()  # a signal handler may close inside
        self._host: Tensor | None = None
        self._queues: dict[int, DeviceQueue] = {}
        self._opened: set[int] = set()
        """The devices that were opened, or could not be."""
        self._cannot_lock = False
        """The ring's memory could not be page-locked."""
        self._told = False
        self.by_operators = 0
        """Values that were copied by operators of torch."""

    def defer(self, tensors: list[Tensor]) -> list[Deferred] | None:
        """Returns the placeholder that the record holds for each tensor; None if one of the tensors is not a single
        number."""
        try:
            if any(tensor.numel() != 1 or not has_numbers(tensor) or not has_memory(tensor) for tensor in tensors):
                return None
            places: dict[int, list[int]] = {}
            for at, tensor in enumerate(tensors):
                places.setdefault(tensor.get_device(), []).append(at)
        except Exception:  # noqa: BLE001 - a mode of the user's that sees each call of torch
            return None
        values: dict[int, Deferred] = {}
        for index, of in places.items():
            copied = self._defer_of(index, [tensors[at] for at in of])
            if copied is None:
                return None
            values.update(zip(of, copied, strict=True))
        return [values[at] for at in range(len(tensors))]

    def _defer_of(self, index: int, tensors: list[Tensor]) -> list[Deferred] | None:
        """The same for the tensors of one device."""
        try:
            self._open_driver(index)
            launched = self._producer._launch(tensors)
        except Exception:  # noqa: BLE001 - likewise
            return None
        if launched is not None:
            return launched
        if refusal := self._producer._take_refusal():
            self._on_fault(f"{_SLOWER.format(index)}: a launch was refused: {refusal}")
        return self._ask(index, tensors)

    def _ask(self, index: int, tensors: list[Tensor]) -> list[Deferred]:
        try:
            if self.queue_type.is_capturing(index):
                return self._never(len(tensors), lib.ADVLOG_UNRESOLVED_CAPTURE)
            queue = self._queues.get(index) or self._open(index)
            reserved = self._producer._reserve(len(tensors))
            if reserved is None:
                return self._never(len(tensors), lib.ADVLOG_UNRESOLVED_SLAB_FULL)
            first, key, values = reserved
            queue.copy(tensors, first, key)
            self.by_operators += len(tensors)
        except Exception as error:  # noqa: BLE001 - the device's fault: torch itself reports it at the next use
            if not self._told:
                self._told = True
                self._on_fault(f"a value on an accelerator could not be copied: {type(error).__name__}: {error}")
            # What was reserved for it goes with `values`, and is free again if its copy comes all the same.
            return self._never(len(tensors), lib.ADVLOG_UNRESOLVED_TIMEOUT)
        return values

    @staticmethod
    def _never(count: int, reason: int) -> list[Deferred]:
        return [Producer._unresolved(reason) for _ in range(count)]

    def _open_driver(self, index: int) -> None:
        """Has values on a device copied by launches from now on, where its driver can."""
        if index in self._opened or (self._host is None and self._cannot_lock):
            return
        with self._opening:
            if self._ring is None or index in self._opened:
                return
            self._opened.add(index)
            try:
                trouble = self._why_not_driven(index)
            except Exception as error:  # noqa: BLE001 - torch as it is not known here: the other way remains
                trouble = f"{type(error).__name__}: {error}"
            except BaseException:  # a Ctrl-C meanwhile: the next value tries again
                self._opened.discard(index)
                raise
        if trouble:
            self._on_fault(f"{_SLOWER.format(index)}: {trouble}")

    def _why_not_driven(self, index: int) -> str:
        """Opens a device; returns why its values cannot be copied by launches, or nothing."""
        torch = sys.modules["torch"]
        stream_of = getattr(torch._C, "_cuda_getCurrentRawStream", None)
        if stream_of is None or getattr(torch.version, "hip", None) is not None:
            return ""
        dtypes = tuple(getattr(torch, name) for name in _DTYPES)
        is_cow = getattr(torch._C, "_is_cow_tensor", None)
        exchange = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
        Producer._meet_torch(torch.Tensor, torch.nn.Parameter, is_cow, stream_of, exchange, dtypes)
        trouble = Producer._open_device(index, _KERNEL.read_bytes())
        if trouble:
            return trouble
        if self._host is None and self._ring is not None:
            if not self._producer._page_lock(index):
                # Looked at again once there is memory of torch's, which is asked for in no capture.
                self._cannot_lock = True
                self._opened.discard(index)
                return ""
            self._host = self._slab_in(self._ring)
        return self._producer._use_device(index)

    def _open(self, index: int) -> DeviceQueue:
        with self._opening:
            if self._ring is None:
                raise RuntimeError("the logger was closed meanwhile")
            if self._host is None:
                self._host = self._page_locked(self._ring)
            queue = self._queues.get(index)
            if queue is None:
                queue = self._queues[index] = self.queue_type(index, self._host)
            return queue

    def _page_locked(self, ring: Ring) -> Tensor:
        """Returns the slab as a tensor: in the ring's memory, which outlives the process, or in memory of torch if the
        ring's cannot be page-locked."""
        address = int(ffi.cast("uintptr_t", lib.advlog_slab_memory(ring.handle)))
        entries = int(lib.advlog_slab_entries(ring.handle))
        if self.queue_type.page_lock(address, entries * _ENTRY_BYTES):
            return self._slab_in(ring)
        with sys.modules["torch"].inference_mode(False):
            host = self.queue_type.page_locked(entries * 2)
        lib.advlog_slab_move(ring.handle, ffi.cast("void *", host.data_ptr()))
        return host.view(entries, 2)

    @staticmethod
    def _slab_in(ring: Ring) -> Tensor:
        """The slab in the ring's memory as a tensor."""
        torch = sys.modules["torch"]
        entries = int(lib.advlog_slab_entries(ring.handle))
        buffer = ffi.buffer(lib.advlog_slab_memory(ring.handle), entries * _ENTRY_BYTES)
        with torch.inference_mode(False):
            return torch.frombuffer(buffer, dtype=torch.int64).view(entries, 2)

    def close(self, *, written: bool) -> None:
        """Stops deferring; keeps what a device may still write to until the process ends.

        :param written: whether every record is written; if not, the rest stays in the ring, for a recovery.
        """
        with self._opening:
            ring, self._ring = self._ring, None
            self._on_fault = _nobody  # it leads back to the session, which is to go
            if ring is not None and self._host is not None:
                _kept.append((ring, self._host, dict(self._queues)))
                if written:
                    ring.forget_records()
            self._host = None
            self._queues.clear()


def _nobody(_message: str) -> None: ...
