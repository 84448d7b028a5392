"""Builds the two compiled modules; everything else is in pyproject.toml.

Switches in the environment: ADVLOG_SANITIZE=address,undefined (or thread), ADVLOG_COVERAGE=1, ADVLOG_DEBUG=1,
ADVLOG_FAILPOINTS=1 (tests/stress: csrc/failpoint.h).
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    # Before minutes of building; what was built all the same refuses to be imported (csrc/producer_type.c).
    sys.exit("advlog_fast needs the GIL: free-threaded builds of Python are not supported yet")

from setuptools import Extension, find_packages, setup

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
import build_ffi

producer = Extension(
    "advlog_fast._producer",
    sources=[f"csrc/{name}" for name in build_ffi.PRODUCER_SOURCES],
    include_dirs=["csrc"],
    depends=build_ffi.HEADERS,
    extra_compile_args=build_ffi.COMPILE_ARGS,
    extra_link_args=build_ffi.LINK_ARGS,
    libraries=["dl"],  # a part of the C library from glibc 2.34 on
    language="c",
)

# Lightning imports its entry points for every Trainer, so this one is a package of its own, which stands when the other
# is broken.
ENTRY_POINTS = "advlog_fast.integrations.entry_points"
packages = find_packages(include=["advlog_fast", "advlog_fast.*"], exclude=[ENTRY_POINTS])

setup(
    packages=[*packages, "advlog_fast_lightning"],
    package_dir={"advlog_fast_lightning": ENTRY_POINTS.replace(".", "/")},
    cffi_modules=["csrc/build_ffi.py:ffi"],
    ext_modules=[producer],
)
