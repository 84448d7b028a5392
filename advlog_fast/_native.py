"""The only module that imports the compiled modules."""

from __future__ import annotations

try:
    from ._core import ffi, lib
    from ._producer import Deferred, Guard, Producer
except ModuleNotFoundError as error:
    if error.name not in (f"{__package__}._core", f"{__package__}._producer"):
        raise
    from pathlib import Path

    folder = Path(__file__).parent
    raise ImportError(
        f"{folder} holds the sources of {__package__}, not built for this Python. Run from another directory to import "
        f"the installed package, or build this one: cd {folder.parent} && python setup.py build_ext --inplace",
        name=error.name,
        path=error.path,
    ) from error

__all__ = ["Deferred", "Guard", "Producer", "ffi", "lib"]
