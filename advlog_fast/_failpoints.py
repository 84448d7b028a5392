"""Points at which a test kills the process: with `ADVLOG_FAILPOINT=name:n`, it dies when it reaches a point the n-th
time.

The C half is csrc/failpoint.h, which a release build leaves out. Only tests/stress sets the variable.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "ADVLOG_FAILPOINT"

_remaining: dict[str, int] = {}
"""The armed point, and how many times the process still has to reach it."""


def arm(setting: str | None) -> None:
    """Arms the point in `setting`, such as "rotated:2"; None arms none."""
    _remaining.clear()
    name, colon, count = (setting or "").partition(":")
    if colon:
        _remaining[name] = int(count)


def failpoint(name: str) -> None:
    """Kills the process if a test has armed this point and its count is used up."""
    if not _remaining or name not in _remaining:
        return
    _remaining[name] -= 1
    if _remaining[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE))
