"""Places where a test kills the process: `ADVLOG_FAILPOINT=name:n` makes the n-th passing of a point its last.

The C half is csrc/failpoint.h, which a release build leaves out. Nothing else reads the variable, and it stands in no
environment but that of tests/stress.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "ADVLOG_FAILPOINT"

_left: dict[str, int] = {}
"""The one point that is set, and how often it is still to be passed."""


def arm(setting: str | None) -> None:
    """Sets the point that `setting`, such as "rotated:2", names; None: none."""
    _left.clear()
    name, colon, count = (setting or "").partition(":")
    if colon:
        _left[name] = int(count)


def failpoint(name: str) -> None:
    """The process's end, where a test wants it here."""
    if not _left or name not in _left:
        return
    _left[name] -= 1
    if _left[name] == 0:
        os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE))
