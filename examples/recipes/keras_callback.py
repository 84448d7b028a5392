"""Keras 3 on torch: the loss of each batch. Keras itself gives callbacks the mean over the epoch so far."""

from __future__ import annotations

from typing import Any

import keras

from advlog_fast import AdvancedLogger


class AdvlogCallback(keras.callbacks.Callback):  # type: ignore[misc, unused-ignore]
    def __init__(self, log: AdvancedLogger) -> None:
        super().__init__()
        self.log, self.epoch, self.step, self.loss = log, 0, 0, None

    def on_train_begin(self, logs: Any = None) -> None:
        self.log.start_training(self.params)
        compute = self.compute = self.model.compute_loss

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            self.loss = compute(*args, **kwargs)
            return self.loss

        self.model.compute_loss = compute_loss

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch + 1
        self.log.start_epoch(self.epoch, self.params.get("epochs"))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.step += 1
        loss = self.loss.detach() if hasattr(self.loss, "detach") else self.loss
        self.log.log_batch_progress(self.epoch, batch + 1, self.params.get("steps"), loss, step=self.step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        validation = {name: value for name, value in (logs or {}).items() if name.startswith("val_")}
        if validation:
            self.log.log_validation(self.epoch, validation, step=self.step)
        self.log.end_epoch(self.epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        self.model.compute_loss = self.compute
        self.log.end_training()
