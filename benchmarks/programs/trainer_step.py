"""Steps of a trainer with this package's integration, without it, and with the trainer's own loggers, in turn.

    trainer_step.py FRAMEWORK DIRECTORY STEP_MS BLOCKS

FRAMEWORK is lightning, transformers or accelerate. A step's work is matrix products on the CPU.
"""

from __future__ import annotations

import logging
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from workload import report

BLOCK_S = 1.5
"""What a block's steps are to take together."""
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
torch.set_num_threads(1)


class Work:
    """Matrix products that take so many milliseconds; when each step began."""

    def __init__(self, step_ms: float) -> None:
        self._matrix = torch.randn(96, 96)
        self.products = 100
        took = min(self._timed() for _ in range(20))
        self.products = max(1, round(self.products * step_ms / 1000 / took))
        self.steps = max(20, round(BLOCK_S / step_ms * 1000))
        self.began: list[float] = []

    def _timed(self) -> float:
        began = time.perf_counter()
        self.run()
        return time.perf_counter() - began

    def run(self) -> None:
        for _ in range(self.products):
            torch.mm(self._matrix, self._matrix)

    def step(self) -> None:
        """The work of one step."""
        self.began.append(time.perf_counter())
        self.run()

    def seconds(self) -> float:
        """The median time from a step's beginning to the next one's; forgets them."""
        times = [after - before for before, after in zip(self.began[5:], self.began[6:], strict=False)]
        self.began.clear()
        return statistics.median(times)


Fit = Callable[[str, Path], None]
"""Trains with one way to log, in a folder of its own."""


def lightning(work: Work) -> tuple[list[str], Fit]:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    from advlog_fast.integrations.lightning import AdvlogCallback

    class Model(pl.LightningModule):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def training_step(self, batch: Any, _: int) -> Any:
            work.step()
            loss = self.layer(batch[0]).square().mean()
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.01)

    def fit(way: str, folder: Path) -> None:
        callbacks = [AdvlogCallback(folder, "run")] if way == "advlog" else []
        kinds = {"csv": CSVLogger, "tensorboard": TensorBoardLogger}
        data = torch.utils.data.TensorDataset(torch.randn(work.steps * 4, 8))
        pl.Trainer(
            accelerator="cpu", max_epochs=1, enable_progress_bar=False, enable_model_summary=False,
            enable_checkpointing=False, log_every_n_steps=1, default_root_dir=folder, callbacks=callbacks,
            logger=kinds[way](folder) if way in kinds else False,
        ).fit(Model(), torch.utils.data.DataLoader(data, 4))  # fmt: skip
        for callback in callbacks:
            callback.run.close()

    return ["nothing", "advlog", "csv", "tensorboard"], fit


def transformers(work: Work) -> tuple[list[str], Fit]:
    from transformers import PrinterCallback, Trainer, TrainingArguments
    from transformers.utils import logging as own

    from advlog_fast.integrations.transformers import AdvlogCallback

    own.set_verbosity_error()

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(8, 1)

        def forward(self, x: Any, labels: Any = None) -> dict[str, Any]:
            work.step()
            return {"loss": (self.layer(x) - labels).square().mean()}

    def fit(way: str, folder: Path) -> None:
        callbacks = [AdvlogCallback(folder, "run")] if way == "advlog" else []
        rows = [{"x": torch.randn(8), "labels": torch.randn(1)} for _ in range(256)]
        arguments = TrainingArguments(
            output_dir=str(folder), use_cpu=True, disable_tqdm=True, save_strategy="no", max_steps=work.steps,
            per_device_train_batch_size=4, report_to="tensorboard" if way == "tensorboard" else "none",
            logging_steps=1 if way == "tensorboard" else 10**6,
        )  # fmt: skip
        trainer = Trainer(Model(), arguments, train_dataset=rows, callbacks=callbacks)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        for callback in callbacks:
            callback.run.close()

    return ["nothing", "advlog", "tensorboard"], fit


def accelerate(work: Work) -> tuple[list[str], Fit]:
    from accelerate import Accelerator

    from advlog_fast.integrations.accelerate import open_on_all_ranks

    def fit(way: str, folder: Path) -> None:
        own = way == "tensorboard"
        accelerator = Accelerator(cpu=True, project_dir=folder, log_with="tensorboard" if own else None)
        if own:
            accelerator.init_trackers("run")
        if way == "advlog":
            open_on_all_ranks(accelerator, "run", folder)
        model: Any = torch.nn.Linear(8, 1)
        data: Any = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(work.steps * 4, 8)), 4)
        model, optimizer, data = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.01), data)
        for step, (x,) in enumerate(data):
            work.step()
            loss = model(x).square().mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            if own:
                accelerator.log({"loss": loss.item()}, step)
        accelerator.end_training()

    return ["nothing", "advlog", "tensorboard"], fit


def main(framework: str, directory: Path, step_ms: float, blocks: int) -> None:
    work = Work(step_ms)
    ways, fit = {"lightning": lightning, "transformers": transformers, "accelerate": accelerate}[framework](work)
    if not find_spec("tensorboard"):
        ways.remove("tensorboard")
    took: dict[str, list[float]] = {way: [] for way in ways}
    for block in range(blocks + 1):
        for way in random.sample(ways, len(ways)):
            fit(way, directory / f"{way}-{block}")
            if block:  # the first warms up
                took[way].append(work.seconds())
            else:
                work.began.clear()
    figures = {}
    for way in ways:
        ratios = sorted(mine / without for mine, without in zip(took[way], took["nothing"], strict=True))
        figures[way] = {
            "step_ms": 1000 * statistics.median(took[way]),
            "ratio": statistics.median(ratios),
            "ratio_least": ratios[0],
            "ratio_most": ratios[-1],
        }
    report(framework=framework, step_ms=step_ms, blocks=blocks, steps=work.steps, ways=figures)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
