"""torchtitan: what its MetricsProcessor logs, every `log_freq` steps, on every rank.

trainer.metrics_processor.logger = AdvlogLogger(log)
"""

from __future__ import annotations

from typing import Any

from torchtitan.components.metrics import BaseLogger

from advlog_fast import AdvancedLogger


class AdvlogLogger(BaseLogger):  # type: ignore[misc, unused-ignore]
    def __init__(self, log: AdvancedLogger) -> None:
        self._log = log

    def log(self, metrics: dict[str, Any], step: int) -> None:
        self._log.log_metrics(metrics, step)

    def close(self) -> None:
        self._log.end_training()
        self._log.close()
