"""Steps of a trainer with this package's integration, without it, and with the trainer's own loggers, in turn.

    trainer_step.py FRAMEWORK DIRECTORY STEP_MS

FRAMEWORK is lightning, transformers or accelerate. A step's work is matrix products on the CPU, of STEP_MS; 0 is a step
of the framework alone. Two trainers run in two threads and take turns step by step, one of them without any logger.
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before torch: each thread would have a pool of its own otherwise.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

import torch
from workload import report

STEPS = {0: 1500, 1: 1500, 5: 500}
"""Of each trainer, by the milliseconds of a step's work."""
_WARM = 50
"""Steps that are not counted, at the beginning."""
_CHUNKS = 10
"""Parts of a run whose ratios tell the noise."""
warnings.simplefilter("ignore")
logging.disable(logging.WARNING)


class Work:
    """Matrix products that take so many milliseconds, of two trainers that take turns step by step: what disturbs the
    machine disturbs both."""

    def __init__(self, step_ms: int) -> None:
        torch.set_num_threads(1)
        self._matrix = torch.randn(96, 96)
        self._products = 100
        took = min(self._timed() for _ in range(20))
        self._products = round(self._products * step_ms / 1000 / took)
        self.steps = STEPS[step_ms]
        self._turns = [threading.Semaphore(0), threading.Semaphore(0)]
        self._is_over = [False, False]
        self._began = [0.0, 0.0]
        self.took: list[list[float]] = [[], []]
        self._who = threading.local()

    def _timed(self) -> float:
        began = time.perf_counter()
        self._run()
        return time.perf_counter() - began

    def _run(self) -> None:
        for _ in range(self._products):
            torch.mm(self._matrix, self._matrix)

    def step(self) -> None:
        """Ends the step before, lets the other trainer make one, and does the work of the next."""
        who = self._who.number
        if self._began[who]:
            self.took[who].append(time.perf_counter() - self._began[who])
        self._turns[1 - who].release()
        if not self._is_over[1 - who]:
            self._turns[who].acquire()
        self._began[who] = time.perf_counter()
        self._run()

    def alternate(self, fits: list[Callable[[], None]]) -> tuple[list[float], list[float]]:
        """Runs two trainers, and returns the seconds of their steps, in pairs."""
        self._is_over, self._began, self.took = [False, False], [0.0, 0.0], [[], []]
        self._turns = [threading.Semaphore(1), threading.Semaphore(0)]
        threads = [threading.Thread(target=self._train, args=(number, fit)) for number, fit in enumerate(fits)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        count = min(map(len, self.took)) - 1
        return self.took[0][_WARM:count], self.took[1][_WARM:count]

    def _train(self, number: int, fit: Callable[[], None]) -> None:
        torch.set_num_threads(1)
        self._who.number = number
        self._turns[number].acquire()
        try:
            fit()
        finally:
            self._is_over[number] = True
            self._turns[1 - number].release()


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


def figures(without: list[float], with_: list[float]) -> dict[str, float]:
    """Of pairs of steps: the median step, the ratio of the medians, that of parts of the run, what one adds to the
    other."""
    size = len(without) // _CHUNKS
    chunks = [slice(at * size, (at + 1) * size) for at in range(_CHUNKS)]
    ratios = sorted(statistics.median(with_[each]) / statistics.median(without[each]) for each in chunks)
    added = [mine - other for mine, other in zip(with_, without, strict=True)]
    return {
        "step_ms": 1000 * statistics.median(with_),
        "without_ms": 1000 * statistics.median(without),
        "ratio": statistics.median(with_) / statistics.median(without),
        "ratio_least": ratios[0],
        "ratio_most": ratios[-1],
        "added_us": 1e6 * statistics.median(added),
    }


def main(framework: str, directory: Path, step_ms: int) -> None:
    work = Work(step_ms)
    ways, fit = {"lightning": lightning, "transformers": transformers, "accelerate": accelerate}[framework](work)
    if not find_spec("tensorboard"):
        ways.remove("tensorboard")
    found = {}
    for way in ways:  # "nothing" too: what two equal trainers differ by is the noise
        fits = [partial(fit, "nothing", directory / f"without-{way}"), partial(fit, way, directory / way)]
        found[way] = figures(*work.alternate(fits))
    report(framework=framework, step_ms=step_ms, steps=work.steps, ways=found)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
