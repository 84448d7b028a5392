"""Recognizes values on an accelerator without importing torch: only a program that has imported it has such values."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any


def defers(kind: type) -> bool:
    """Returns whether a device can copy values of this type: tensors, except those that wrap others (DTensor) and
    override what operators do."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if tensor is None or not issubclass(kind, tensor):
        return False
    return getattr(kind, "__torch_dispatch__", None) is tensor.__torch_dispatch__


def is_deferrable(value: object) -> bool:
    """Returns whether a value is a tensor on a CUDA or ROCm device that the device can copy."""
    return getattr(value, "is_cuda", False) is True and defers(type(value)) and has_numbers(value)


def read_together(entries: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Returns the entries with numbers in place of the tensors on accelerators: those of a device are waited for once,
    by one copy, and not one after the other. What cannot be read so stays as it is."""
    places: dict[Any, list[int]] = {}
    for at, (_, value) in enumerate(entries):
        if is_deferrable(value) and value.numel() == 1 and has_memory(value):
            # An int64 may be none that float64 holds.
            places.setdefault((value.get_device(), value.dtype is sys.modules["torch"].int64), []).append(at)
    found = list(entries)
    for (_, is_wide), of in places.items():
        if len(of) > 1:
            scalars = [entries[at][1].detach().reshape(()) for at in of]
            stacked = sys.modules["torch"].stack(scalars if is_wide else [scalar.double() for scalar in scalars])
            for at, number in zip(of, stacked.tolist(), strict=True):
                found[at] = entries[at][0], number
    return found


def has_numbers(tensor: Any) -> bool:
    """Returns whether a tensor's values can be copied as float64; for others, call its `item()`."""
    return tensor.dtype in _numbers() and tensor.layout is sys.modules["torch"].strided


def has_memory(tensor: Any) -> bool:
    """Returns whether a tensor's storage covers its one value. One that was freed, as FSDP does, ends the process in
    torch's own operators; where a tensor has no storage, they say so."""
    try:
        needed = (tensor.storage_offset() + 1) * tensor.element_size()
        return bool(tensor.untyped_storage().nbytes() >= needed)
    except Exception:  # noqa: BLE001 - a wrapper of functorch, a fake tensor
        return True


@cache
def _numbers() -> frozenset[Any]:
    """Returns the dtypes that can be copied as float64."""
    torch = sys.modules["torch"]
    names = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
    return frozenset(getattr(torch, name) for name in names)
