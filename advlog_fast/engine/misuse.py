"""What calls were given that they could not take: said once for each name, counted, and raised only if asked."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

from .._native import Guard
from ..checks import NAMES_FULL, Misuse
from ..exceptions import warn_user
from ..snapshots import MisuseCount

MAX_NAMES = 64
OTHERS = "others"
_OF_NAMES = {
    "names_full": "values of further names are left out",
    "no_room": "its value is left out, and the next one tried again",
}
_OUTCOMES = {"rounded": "its nearest float64 is logged", **_OF_NAMES}


class MisuseLog:
    """Any thread may call it, a signal handler and a destructor too.

    :param raises: whether a misuse raises, once the rest of its record is kept.
    :param say: writes a line to the main log.
    """

    def __init__(self, raises: bool, say: Callable[[str], object]) -> None:
        self.raises = raises
        self._say = say
        self._lock = Guard()
        self._counts: dict[str, MisuseCount] = {}
        self._said: set[tuple[str, str]] = set()

    def take(self, misuses: Sequence[Misuse], step: int | None = None) -> None:
        """Counts misuses, and warns of those whose name and kind are new.

        :param step: of their record, if it is known.
        :raises TypeError: a value had the wrong type, and misuses raise.
        :raises ValueError: another misuse, and misuses raise.
        """
        for misuse in misuses:
            if self._count(misuse, step):
                self._warn(misuse)
        if self.raises and misuses:
            raise misuses[0].error()

    def counts(self, skipped: int = 0) -> Mapping[str, MisuseCount]:
        """Returns the misuses so far, by name.

        :param skipped: values that C left out for want of room for their names.
        """
        with self._lock:
            counts = dict(self._counts)
        if skipped:
            full = counts.get(NAMES_FULL, MisuseCount(0, None, "names_full"))
            counts[NAMES_FULL] = dataclasses.replace(full, count=full.count + skipped)
        return counts

    def _count(self, misuse: Misuse, step: int | None) -> bool:
        """Returns whether it is new."""
        with self._lock:
            name, kind = misuse.name, misuse.kind
            if name in (NAMES_FULL, OTHERS) and kind not in _OF_NAMES:
                name = misuse.argument  # a metric that is called like one of our own counts
            if name not in self._counts and name != NAMES_FULL and len(self._counts) >= MAX_NAMES:
                name, kind = OTHERS, ""
            before = self._counts.get(name)
            if before is None:
                self._counts[name] = MisuseCount(1, step, misuse.kind)
            else:
                self._counts[name] = MisuseCount(before.count + 1, before.first_step, before.kind)
            new = (name, kind) not in self._said
            self._said.add((name, kind))
            return new

    def _warn(self, misuse: Misuse) -> None:
        outcome = _OUTCOMES.get(misuse.kind, "it is left out, the rest is logged")
        if self._others_are_said():
            outcome += f"; misuses of more than {MAX_NAMES} names are said no more"
        text = f"{misuse.message()}: {outcome} (said once; health().misuse counts)"
        self._say(text)
        if self.raises or sys.is_finalizing():
            return
        # A filter may make it an exception, or a hook of the user's fail: the main log has its text.
        with contextlib.suppress(Exception):
            warn_user(text)

    def _others_are_said(self) -> bool:
        return (OTHERS, "") in self._said
