"""Loads the stand-in for a GPU's driver (libcuda.c). The process believes in a driver from then on."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_folder = tempfile.TemporaryDirectory()
_path = Path(_folder.name) / "libcuda.so.1"
subprocess.run(
    [
        "cc", "-shared", "-fPIC", "-O1", "-pthread", "-Wl,-soname,libcuda.so.1", "-o", _path,
        Path(__file__).with_name("libcuda.c"),
    ],
    check=True,
)  # fmt: skip
driver = ctypes.CDLL(str(_path), mode=ctypes.RTLD_GLOBAL)


@contextmanager
def held() -> Iterator[None]:
    """Launches made meanwhile run afterwards."""
    driver.standin_hold(1)
    try:
        yield
    finally:
        driver.standin_hold(0)


def fail(name: str, error: int, times: int = 1) -> None:
    """The next calls of that function fail."""
    driver.standin_fail(name.encode(), error, times)
