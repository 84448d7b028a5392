"""skorch: the loss of each training batch."""

from __future__ import annotations

from typing import Any

from skorch.callbacks import Callback

from advlog_fast import AdvancedLogger


class AdvlogCallback(Callback):  # type: ignore[misc, unused-ignore]
    def __init__(self, log: AdvancedLogger) -> None:
        self.log = log

    def initialize(self) -> Any:
        self.step_ = 0
        return self

    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        self.log.start_epoch(len(net.history), net.max_epochs)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, loss: Any = None, **_: Any) -> None:
        if training:
            self.step_ += 1
            place = (len(net.history), len(net.history[-1]["batches"]), None)
            self.log.log_batch_progress(*place, loss.detach(), step=self.step_, samples=len(batch[0]))

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        self.log.end_epoch(len(net.history))
