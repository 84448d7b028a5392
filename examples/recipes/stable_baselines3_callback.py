"""Stable-Baselines3: what it records, at each dump of its own logger.

model.set_logger(Logger(None, [AdvlogWriter(log)]))   # from stable_baselines3.common.logger
"""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.logger import KVWriter

from advlog_fast import AdvancedLogger


class AdvlogWriter(KVWriter):
    def __init__(self, log: AdvancedLogger) -> None:
        self.log = log

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, Any], step: int = 0) -> None:
        numbers = {key: value for key, value in key_values.items() if not isinstance(value, str)}
        self.log.log_metrics(numbers, step)

    def close(self) -> None:
        self.log.flush()
