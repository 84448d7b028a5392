"""The one door to the compiled modules."""

from __future__ import annotations

from ._core import ffi, lib
from ._producer import Producer

__all__ = ["Producer", "ffi", "lib"]
