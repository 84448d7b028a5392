"""What a value on an accelerator is, told without importing torch: only who has imported it has such values."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any


def defers(kind: type) -> bool:
    """Whether values of this type can be copied by a device: tensors, but for those that wrap others (DTensor) and do
    with a call what they like."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if tensor is None or not issubclass(kind, tensor):
        return False
    return getattr(kind, "__torch_dispatch__", None) is tensor.__torch_dispatch__


def is_deferrable(value: object) -> bool:
    """Whether it is a tensor that lies on an accelerator, of CUDA or ROCm, and can be copied by it."""
    return getattr(value, "is_cuda", False) is True and defers(type(value)) and has_numbers(value)


def has_numbers(tensor: Any) -> bool:
    """Whether what it holds can be copied as float64; else it is asked for its `item()`."""
    return tensor.dtype in _numbers() and tensor.layout is sys.modules["torch"].strided


@cache
def _numbers() -> frozenset[Any]:
    """The dtypes in question."""
    torch = sys.modules["torch"]
    names = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
    return frozenset(getattr(torch, name) for name in names)
