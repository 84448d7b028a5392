"""Builds the two compiled modules; everything else is in pyproject.toml.

Switches in the environment: ADVLOG_SANITIZE=address,undefined (or thread), ADVLOG_COVERAGE=1, ADVLOG_DEBUG=1,
ADVLOG_FAILPOINTS=1 (tests/stress: csrc/failpoint.h).
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent / "csrc"))
import build_ffi


class BuildExt(build_ext):
    """Gives each language its standard: the C files are C11, number.cpp is C++17."""

    def build_extensions(self) -> None:
        compile_ = self.compiler._compile

        def with_standard(obj, src, ext, cc_args, extra_postargs, pp_opts):
            standard = "-std=c++17" if src.endswith(".cpp") else "-std=gnu11"
            compile_(obj, src, ext, cc_args, [standard, *extra_postargs], pp_opts)

        self.compiler._compile = with_standard
        super().build_extensions()


producer = Extension(
    "advlog_fast._producer",
    sources=["csrc/producer.c", "csrc/ring.c", "csrc/names.c"],
    include_dirs=["csrc"],
    depends=build_ffi.HEADERS,
    extra_compile_args=build_ffi.COMPILE_ARGS,
    extra_link_args=build_ffi.LINK_ARGS,
    language="c",
)

setup(
    cffi_modules=["csrc/build_ffi.py:ffi"],
    ext_modules=[producer],
    cmdclass={"build_ext": BuildExt},
)
