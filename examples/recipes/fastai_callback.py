"""fastai: the loss of each batch."""

from __future__ import annotations

from fastai.callback.core import Callback

from advlog_fast import AdvancedLogger


class AdvlogCallback(Callback):  # type: ignore[misc, unused-ignore]
    def __init__(self, log: AdvancedLogger) -> None:
        super().__init__()
        self.run, self.step = True, 0  # `run` is fastai's own switch
        self.advlog = log

    def before_epoch(self) -> None:
        self.advlog.start_epoch(self.epoch + 1, self.n_epoch)

    def after_batch(self) -> None:
        if not self.training:
            return
        self.step += 1  # fastai's own counter begins again with each fit
        place = (self.epoch + 1, self.iter + 1, self.n_iter)
        rate = self.opt.hypers[-1]["lr"]
        self.advlog.log_batch_progress(*place, self.loss.detach(), learning_rate=rate, step=self.step)

    def after_epoch(self) -> None:
        names, values = self.recorder.metric_names[1:-1], self.recorder.log[1:]  # without the epoch and the time
        metrics = {name: value for name, value in zip(names, values, strict=False) if value is not None}
        self.advlog.log_validation(self.epoch + 1, metrics, step=self.step)
        self.advlog.end_epoch(self.epoch + 1)
