"""MosaicML Composer: the loss of each micro-batch, as this rank has it: `Trainer(callbacks=[AdvlogCallback(log)])`."""

from __future__ import annotations

from typing import Any

from composer import Callback, Logger, State

from advlog_fast import AdvancedLogger


class AdvlogCallback(Callback):  # type: ignore[misc, unused-ignore]
    def __init__(self, log: AdvancedLogger) -> None:
        self.log = log

    def after_loss(self, state: State, logger: Logger) -> None:
        loss = state.loss.detach() if hasattr(state.loss, "detach") else None
        at = state.timestamp
        self.log.log_batch_progress(int(at.epoch) + 1, int(at.batch_in_epoch) + 1, None, loss, step=int(at.batch))

    def state_dict(self) -> dict[str, Any]:
        return self.log.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.log.load_state_dict(state)

    def close(self, state: State, logger: Logger) -> None:
        self.log.end_training()
        self.log.close()
