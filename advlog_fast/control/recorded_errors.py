"""Which exceptions were recorded already, on their way out through contexts or by the user."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict

from .error_text import attribute, is_text
from .errors import RecordedError

_MAX_RECORDED = 100
_MARK = "_advlog_fast_recorded"


class RecordedErrors:
    """Which exception objects were recorded already, so that one error on its way out counts once.

    The exception carries a number. This object holds no exception, which would keep the frames and tensors of its
    traceback alive. If an exception leaves a context that was entered after it was recorded, it was raised again and
    counts as another error.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._by_context: OrderedDict[int, RecordedError] = OrderedDict()
        self._token = f"{id(self):x}-{time.time_ns():x}"

    def tick(self) -> int:
        """A number larger than all before: when something happened."""
        return next(self._numbers)

    def remember(self, error: BaseException | str, recorded: RecordedError, by_context: bool) -> None:
        """Marks the exception as recorded, by a context or by the user."""
        if is_text(error):
            return
        number = self.tick()
        try:
            # Past a __setattr__ of its own, as a frozen dataclass has.
            object.__setattr__(error, _MARK, (self._token, number))
        except Exception:  # noqa: BLE001 - a class of the user's
            return
        if by_context:
            self._by_context[number] = recorded
            while len(self._by_context) > _MAX_RECORDED:
                self._by_context.popitem(last=False)

    def since(self, error: BaseException, number: int) -> bool:
        """Returns whether the exception was recorded after that number was given."""
        return self._number(error) > number

    def take(self, error: object) -> RecordedError | None:
        """Returns a context's record of this exception, once: the user's first report adds to that record, a second
        report is an error of its own."""
        return self._by_context.pop(self._number(error), None)

    def _number(self, error: object) -> int:
        marks = attribute(error, "__dict__")
        mark = marks.get(_MARK) if isinstance(marks, dict) else None
        return mark[1] if isinstance(mark, tuple) and mark[0] == self._token else 0
