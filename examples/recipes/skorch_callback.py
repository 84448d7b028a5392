"""skorch: the loss of each training batch."""

from __future__ import annotations

from typing import Any

from skorch.callbacks import Callback

from advlog_fast import AdvancedLogger


class AdvlogCallback(Callback):  # type: ignore[misc, unused-ignore]
    def __init__(self, log: AdvancedLogger) -> None:
        self.log, self.step = log, 0

    def on_epoch_begin(self, net: Any, **_: Any) -> None:
        self.log.start_epoch(len(net.history), net.max_epochs)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, loss: Any = None, **_: Any) -> None:
        if training:
            self.step += 1
            epoch, batch_number = len(net.history), len(net.history[-1]["batches"])
            self.log.log_batch_progress(epoch, batch_number, None, loss.detach(), step=self.step, samples=len(batch[0]))

    def on_epoch_end(self, net: Any, **_: Any) -> None:
        self.log.end_epoch(len(net.history))
