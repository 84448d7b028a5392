"""A GPU that is none: tensors of the CPU that say they lie on one, and a driver that copies them late (libcuda.c).

The process that imports it believes in a driver from then on, so it runs nothing else.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch

from .driver import driver

STREAM = 7
_on_device: dict[int, int] = {}
"""The devices of tensors, by their ids. They live as long as the process."""
_kept: list[Any] = []


def on_gpu(value: Any, dtype: Any = None, index: int = 0) -> Any:
    """A tensor that says it lies on a GPU: exactly a torch.Tensor, or what it is given."""
    tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=dtype)
    _on_device[id(tensor)] = index
    driver.standin_place(ctypes.c_void_p(id(tensor)), index)
    _kept.append(tensor)
    return tensor


def _exchange() -> Any:
    """torch's exchange API, in which these tensors lie on the device."""
    python = ctypes.pythonapi
    python.PyCapsule_GetPointer.restype = driver.standin_exchange.restype = ctypes.c_void_p
    python.PyCapsule_New.restype = ctypes.py_object
    name = ctypes.c_char_p(b"dlpack_exchange_api")
    of_torch = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if of_torch is None:
        return None
    pointer = python.PyCapsule_GetPointer(ctypes.py_object(of_torch), name)
    _kept.append(name)
    return python.PyCapsule_New(ctypes.c_void_p(driver.standin_exchange(ctypes.c_void_p(pointer))), name, None)


exchange = _exchange()
torch.Tensor.__dlpack_c_exchange_api__ = exchange  # type: ignore[attr-defined]

_item, _get_device = torch.Tensor.item, torch.Tensor.get_device
waited: list[Any] = []
"""The tensors that were asked for their item(), which waits for the device."""


def _waits(self: Any) -> Any:
    if id(self) in _on_device:
        waited.append(self)
    return _item(self)


torch.Tensor.is_cuda = property(lambda self: id(self) in _on_device)  # type: ignore[assignment]
torch.Tensor.get_device = lambda self: _on_device.get(id(self), -1)  # type: ignore[method-assign]
torch.Tensor.item = _waits  # type: ignore[method-assign]
torch._C._cuda_getCurrentRawStream = lambda index: STREAM + index
