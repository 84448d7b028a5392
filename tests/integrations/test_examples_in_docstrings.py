"""The examples in the integrations' docstrings run as they stand."""

from __future__ import annotations

import doctest
import importlib

import pytest

pytestmark = [pytest.mark.filterwarnings("ignore")]
PACKAGE = "advlog_fast.integrations"


def run(name, **names):
    module = importlib.import_module(f"{PACKAGE}.{name}")
    finder, runner = doctest.DocTestFinder(exclude_empty=True), doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    tests = [test for test in finder.find(module, globs={**vars(module), **names}) if test.examples]
    assert tests
    for test in tests:
        runner.run(test)
    assert runner.failures == 0


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_lightning():
    pytest.importorskip("lightning.pytorch")
    run("lightning")


def test_transformers():
    pytest.importorskip("transformers")
    from pathlib import Path

    from integrations import test_transformers as hf

    trainer = hf.Trainer(hf.model(), hf.arguments(Path(), max_steps=2), train_dataset=hf.Tokens(16))
    run("transformers", trainer=trainer)


def test_accelerate():
    pytest.importorskip("accelerate")
    from integrations import test_accelerate as own

    accelerator = own.Accelerator(cpu=True)
    run("accelerate", Accelerator=lambda **options: own.Accelerator(cpu=True, **options), accelerator=accelerator)
    for state in (own.AcceleratorState, own.GradientState, own.PartialState):
        state._reset_state()


@pytest.mark.parametrize("name", ["tensorboard", "wandb_style"])
def test_habits(name):
    run(name)
