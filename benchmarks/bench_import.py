"""What `import advlog_fast` adds to the start of a process."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from runs import HERE, Record, Rounds


def start_ms(code: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=HERE)
    return (time.perf_counter() - began) * 1000


def bench_import(rounds: Rounds, record: Record) -> None:
    # In turn, so that a slow moment of the machine hits both.
    pairs = rounds(lambda: (start_ms("pass"), start_ms("import advlog_fast")), 30)
    record(
        pass_ms=statistics.median(bare for bare, _ in pairs),
        import_ms=statistics.median(full - bare for bare, full in pairs),
        fastest_ms=min(full for _, full in pairs) - min(bare for bare, _ in pairs),
    )
