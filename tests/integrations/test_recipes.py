"""The recipes, each on the real library, where it is installed."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from advlog_fast import AdvancedLogger, read_run

RECIPES = Path(__file__).resolve().parents[2] / "examples" / "recipes"
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.filterwarnings("error::RuntimeWarning")]


@pytest.fixture
def log(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", on_misuse="raise") as made:
        yield made


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def rows(log):
    log.close()
    return read_run(log.config.log_dir, "run").metrics.to_pylist()


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(64, 4, generator=generator), torch.randn(64, 1, generator=generator)


def test_ignite(log):
    pytest.importorskip("ignite")
    from ignite.engine import Events, create_supervised_trainer

    ignite = recipe("ignite_handler")
    losses = []
    model = torch.nn.Linear(4, 1)
    trainer = create_supervised_trainer(
        model, torch.optim.SGD(model.parameters(), 0.1), torch.nn.functional.mse_loss, output_transform=ignite.loss_of
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output)))
    ignite.attach(log, trainer)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), 8)
    trainer.run(loader, 2)

    @trainer.on(Events.ITERATION_STARTED)
    def breaks(engine):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        trainer.run(loader, 3)
    found = rows(log)
    assert [row["loss"] for row in found] == pytest.approx(losses)
    assert [(row["epoch"], row["batch"]) for row in found] == [
        (epoch, batch) for epoch in (1, 2) for batch in range(1, 9)
    ]
    assert json.loads(log.paths["summary"].read_text())["status"] == "failed"


def test_keras(log, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    x, y = (each.numpy() for each in data())
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    model.fit(
        x, y, batch_size=16, epochs=2, verbose=0, shuffle=False, validation_split=0.25,
        callbacks=[recipe("keras_callback").AdvlogCallback(log)],
    )  # fmt: skip
    found = rows(log)
    expected = [((model.predict(x[at : at + 16], verbose=0) - y[at : at + 16]) ** 2).mean() for at in (0, 16, 32)]
    assert [row["loss"] for row in found] == pytest.approx(expected * 2, rel=1e-5)
    assert [(row["epoch"], row["batch"], row["total_batches"]) for row in found] == [
        (epoch, batch, 3) for epoch in (1, 2) for batch in (1, 2, 3)
    ]
    assert len(read_run(log.config.log_dir, "run").validation) == 2


def test_fastai(log, tmp_path):
    pytest.importorskip("fastai")
    import fastai.callback.progress  # noqa: F401 - no_bar
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner

    class Losses(torch.nn.MSELoss):
        def __init__(self):
            super().__init__()
            self.of_training = []

        def forward(self, predictions, targets):
            loss = super().forward(predictions, targets)
            if learner.training:
                self.of_training.append(float(loss))
            return loss

    loss = Losses()
    sets = [torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), 16) for _ in range(2)]
    learner = Learner(
        DataLoaders(*sets), torch.nn.Linear(4, 1), loss_func=loss, path=tmp_path,
        cbs=[recipe("fastai_callback").AdvlogCallback(log)],
    )  # fmt: skip
    with learner.no_bar(), learner.no_logging():
        learner.fit(2)
    found = rows(log)
    assert [row["loss"] for row in found] == pytest.approx(loss.of_training)
    assert [row["step"] for row in found] == list(range(1, 9))


def test_skorch(log):
    pytest.importorskip("skorch")
    from skorch import NeuralNetRegressor

    x, y = (each.numpy() for each in data())
    net = NeuralNetRegressor(
        torch.nn.Linear, module__in_features=4, module__out_features=1, max_epochs=2, batch_size=16, verbose=0,
        callbacks=[recipe("skorch_callback").AdvlogCallback(log)], train_split=None,
    )  # fmt: skip
    net.fit(x, y)
    found = rows(log)
    expected = [batch["train_loss"] for epoch in net.history for batch in epoch["batches"]]
    assert [row["loss"] for row in found] == pytest.approx(expected)
    assert {row["samples"] for row in found} == {16.0}


def test_stable_baselines3(log):
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import Logger

    logger = Logger(None, [recipe("stable_baselines3_callback").AdvlogWriter(log)])
    for step in (10, 20):
        logger.record("train/loss", step / 100)
        logger.record("time/name", "text")
        logger.record("hidden", 1, exclude="stdout")
        logger.dump(step)
    assert [(row["step"], row["train/loss"], row["hidden"]) for row in rows(log)] == [(10, 0.1, 1.0), (20, 0.2, 1.0)]


def test_structlog(log):
    structlog = pytest.importorskip("structlog")
    structlog.configure(
        processors=[recipe("structlog_processor").MainLog(log), structlog.processors.JSONRenderer()],
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    try:
        structlog.get_logger().warning("disk", free_gb=3)
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger().exception("failed", step=7)
    finally:
        structlog.reset_defaults()
    log.close()
    text = log.paths["main_log"].read_text()
    assert "disk free_gb=3" in text
    assert "failed step=7" in text
    assert "ValueError: broken" in log.paths["errors_log"].read_text()


def test_loguru(log):
    loguru = pytest.importorskip("loguru")
    number = loguru.logger.add(recipe("loguru_sink").main_log(log), format="{message}")
    try:
        loguru.logger.warning("disk has 3 GB")
        try:
            raise ValueError("broken")
        except ValueError:
            loguru.logger.exception("failed")
    finally:
        loguru.logger.remove(number)
    log.close()
    text = log.paths["main_log"].read_text()
    assert "disk has 3 GB" in text
    assert "ValueError: broken" in log.paths["errors_log"].read_text()


def test_the_librarys_handler_takes_a_programs_own_records(log):
    logger = logging.getLogger("a program's own")
    logger.addHandler(log.handler)
    try:
        logger.warning("disk has %d GB", 3)
    finally:
        logger.removeHandler(log.handler)
    log.close()
    assert "disk has 3 GB" in log.paths["main_log"].read_text()


def test_composer_and_torchtitan_have_the_classes_that_their_recipes_extend():
    for package, name in (("torchtitan", "torchtitan_logger"), ("composer", "composer_destination")):
        if importlib.util.find_spec(package) is None:
            continue
        recipe(name)
    assert {path.stem for path in RECIPES.glob("*.py")} >= {"torchtitan_logger", "composer_destination"}
    assert os.access(RECIPES / "README.md", os.R_OK)
