"""PyTorch-Ignite: each iteration, each epoch, and the exception that ends a run.

Give `create_supervised_trainer` the `output_transform` below, which returns the loss as it is: the default reads it
with `item()`, and waits for the device.
"""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events

from advlog_fast import AdvancedLogger


def attach(log: AdvancedLogger, trainer: Engine) -> None:
    def iteration(engine: Engine) -> None:
        state = engine.state
        length = state.epoch_length  # None while data without a length are passed for the first time
        batch = (state.iteration - 1) % length + 1 if length else state.iteration
        log.log_batch_progress(state.epoch, batch, length, state.output, step=state.iteration)

    def failed(engine: Engine, error: BaseException) -> None:
        log.log_error(error, "train")
        log.end_training(status="failed")
        raise error  # a handler that returns would swallow it

    def ended(engine: Engine) -> None:
        log.end_training()

    trainer.add_event_handler(Events.EPOCH_STARTED, lambda engine: log.start_epoch(engine.state.epoch))
    trainer.add_event_handler(Events.ITERATION_COMPLETED, iteration)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: log.end_epoch(engine.state.epoch))
    trainer.add_event_handler(Events.EXCEPTION_RAISED, failed)
    trainer.add_event_handler(Events.COMPLETED, ended)


def loss_of(x: Any, y: Any, y_pred: Any, loss: Any) -> Any:
    """The `output_transform` for `create_supervised_trainer`."""
    return loss.detach()
