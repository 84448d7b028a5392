"""Feeds the C API to cffi: the headers that end in `_api.h` declare it, once, for C and for Python."""

from __future__ import annotations

import os
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
SOURCES = (
    "buckets.c",
    "child_ring.c",
    "columns.c",
    "descriptors.c",
    "drain.c",
    "format.c",
    "format_jsonl.c",
    "format_record.c",
    "format_text.c",
    "names.c",
    "number.c",
    "repair.c",
    "ring.c",
    "scan.c",
    "sink.c",
    "sink_kinds.c",
    "slab.c",
    "stats.c",
    "epochs.c",
    "totals.c",
)
PRODUCER_SOURCES = (
    "device.c",
    "guard.c",
    "names.c",
    "producer.c",
    "producer_args.c",
    "producer_deferred.c",
    "producer_device.c",
    "producer_type.c",
    "ring.c",
    "slab.c",
)
"""Of the module that is not cffi's."""
HEADERS = [f"csrc/{path.name}" for path in sorted(HERE.glob("*.h"))]
"""What both modules are built again for, where it changed."""


def _switch(name: str) -> bool:
    """Whether a variable of the environment is set, and does not say no."""
    return os.environ.get(name, "").strip().lower() not in ("", "0", "false", "f", "no", "n", "off")


_SANITIZERS = os.environ.get("ADVLOG_SANITIZE", "")
_DEBUG = _switch("ADVLOG_DEBUG")

COMPILE_ARGS = ["-std=gnu11", "-Wall", "-Wextra", "-fvisibility=hidden", "-fno-math-errno"]
LINK_ARGS: list[str] = []
COMPILE_ARGS += ["-O0", "-g3"] if _DEBUG else ["-O3", "-g1"]
if _SANITIZERS:
    COMPILE_ARGS += [f"-fsanitize={_SANITIZERS}", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all"]
    LINK_ARGS += [f"-fsanitize={_SANITIZERS}"]
if _switch("ADVLOG_FAILPOINTS"):
    COMPILE_ARGS += ["-DADVLOG_FAILPOINTS"]
if _switch("ADVLOG_COVERAGE"):
    # Several threads count at once; and what both modules are made of is compiled twice, but is one file to gcov.
    COMPILE_ARGS += ["--coverage", "-fprofile-update=atomic", "-frandom-seed=advlog"]
    LINK_ARGS += ["--coverage"]

ffi = FFI()
for api in ("advlog_api.h", "stats_api.h", "spool_api.h", "buckets_api.h"):
    ffi.cdef((HERE / api).read_text())
ffi.set_source(
    "advlog_fast._core",
    '#include "compiler.h"',
    sources=[f"csrc/{name}" for name in SOURCES],
    depends=HEADERS,
    include_dirs=["csrc"],
    extra_compile_args=COMPILE_ARGS,
    extra_link_args=LINK_ARGS,
    source_extension=".c",
)

if __name__ == "__main__":
    ffi.compile(verbose=True)
