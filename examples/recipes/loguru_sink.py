"""loguru: each entry also in the run's main log, with its traceback.

loguru.logger.add(main_log(log), format="{message}")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from advlog_fast import AdvancedLogger


def main_log(log: AdvancedLogger) -> Callable[[Any], None]:
    def sink(message: Any) -> None:
        record = message.record
        error = record["exception"]
        exc_info = None if error is None else (error.type, error.value, error.traceback)
        log.logger.log(record["level"].no, "%s", record["message"], exc_info=exc_info)

    return sink
