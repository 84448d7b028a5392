"""examples/ddp_torchrun.py with a logger that says what it has acknowledged: the program of test_torchrun.py.

The environment has a JSON object in `ADVLOG_TEST_TORCHRUN`: `acknowledged`, the file of the test, and `until_killed`:
in each attempt but the last, the records after which a rank waits to be killed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

from stress.zygote import SLOT, Acknowledged

import advlog_fast

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "ddp_torchrun.py"
VARIABLE = "ADVLOG_TEST_TORCHRUN"
RANKS = 4
RESTARTS = 2
FILE_BYTES = 2 * RANKS * (RESTARTS + 1) * SLOT


def number_place(restart: int, rank: int) -> int:
    """Where the last record whose call has returned is stored; with `pid_place`, slots of :class:`Acknowledged`."""
    return 2 * (restart * RANKS + rank)


def pid_place(restart: int, rank: int) -> int:
    return number_place(restart, rank) + 1


class AcknowledgingLogger(advlog_fast.AdvancedLogger):
    """Stores its pid when it is made, and a number after each record."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        task = json.loads(os.environ[VARIABLE])
        self.told = Acknowledged(task["acknowledged"])
        self.restart, self.rank = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), int(os.environ["RANK"])
        self.until_killed = task["until_killed"] if self.restart < RESTARTS else None
        self.number = 0
        self.told.store(pid_place(self.restart, self.rank), os.getpid())

    def log_batch_progress(self, *args: Any, **kwargs: Any) -> None:
        super().log_batch_progress(*args, **kwargs)
        self.number += 1
        self.told.store(number_place(self.restart, self.rank), self.number)
        if self.number == self.until_killed:
            signal.pause()


def main() -> None:
    spec = importlib.util.spec_from_file_location("ddp_torchrun", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.AdvancedLogger = AcknowledgingLogger
    example.main()


if __name__ == "__main__":
    main()
