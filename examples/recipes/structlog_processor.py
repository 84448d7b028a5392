"""structlog: each entry also in the run's main log, key-values and all.

structlog.configure(processors=[..., MainLog(log), structlog.dev.ConsoleRenderer()])
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from advlog_fast import AdvancedLogger


class MainLog:
    def __init__(self, log: AdvancedLogger) -> None:
        self.log = log

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        level = logging.getLevelName("WARNING" if method == "warn" else method.upper())
        fields = {key: value for key, value in event.items() if key not in ("event", "exc_info", "level", "timestamp")}
        text = " ".join([str(event.get("event", "")), *(f"{key}={value!r}" for key, value in fields.items())])
        number = level if isinstance(level, int) else logging.INFO
        self.log.logger.log(number, "%s", text, exc_info=event.get("exc_info"))
        return event
