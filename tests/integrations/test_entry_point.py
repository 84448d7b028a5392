"""Lightning's entry point: with ADVLOG_DIR every Trainer logs, and nothing that is broken breaks a Trainer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning.pytorch")

from advlog_fast import read_run

CHECKOUT = Path(__file__).resolve().parents[2]
MORE_ARGUMENTS = """
from lightning.pytorch.trainer import call
call_hooks = call._call_callback_hooks
more = {"on_train_batch_end": ["more"], "setup": ["more"]}
call._call_callback_hooks = lambda trainer, name, *args, **named: call_hooks(
    trainer, name, *args, *more.get(name, []), **named)
"""
TRAINING = """
    import sys
    sys.path.insert(0, sys.argv[2])
    import torch, lightning.pytorch as pl

    class Model(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch, index):
            return self.layer(batch).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    MORE
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks)
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.randn(24, 4), 4))
    print("trained", trainer.global_step, "callbacks", [type(each).__name__ for each in trainer.callbacks])
"""


@pytest.fixture
def train(tmp_path):
    """Runs the training with the entry point as an installation has it, and nothing else of that."""
    installed = tmp_path / "installed"
    entry = installed / "advlog_fast_lightning"
    entry.mkdir(parents=True)
    shutil.copy(CHECKOUT / "advlog_fast" / "integrations" / "entry_points" / "__init__.py", entry)
    metadata = installed / "advlog_fast-0.dist-info"  # in place of the one that may be installed
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: advlog-fast\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text(
        "[lightning.pytorch.callbacks_factory]\nadvlog = advlog_fast_lightning:callbacks\n"
    )

    def run(more="callbacks = []", **environment):
        script = textwrap.dedent(TRAINING).replace("MORE", textwrap.dedent(more))
        given = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ADVLOG_"))}
        given["PYTHONPATH"] = os.pathsep.join([str(installed), *filter(None, sys.path)])
        return subprocess.run(
            [sys.executable, "-c", script, str(tmp_path), str(CHECKOUT / "tests")],
            env={**given, **environment}, capture_output=True, text=True, timeout=240, cwd=tmp_path,
        )  # fmt: skip

    return run


def test_where_the_environment_has_a_folder_every_trainer_logs(train, tmp_path):
    done = train(ADVLOG_DIR=str(tmp_path / "logs"), ADVLOG_NAME="mine")
    assert "trained 6" in done.stdout, done.stderr
    assert [row["step"] for row in read_run(tmp_path / "logs", "mine").metrics.to_pylist()] == list(range(6))


def test_without_a_folder_there_is_no_callback_and_no_import(train):
    done = train(
        "callbacks = []\nimport atexit\natexit.register(lambda: print('imported', 'advlog_fast' in sys.modules))"
    )
    assert "trained 6" in done.stdout, done.stderr
    assert "imported False" in done.stdout
    assert "AdvlogCallback" not in done.stdout


def test_a_trainer_that_has_the_callback_is_logged_once(train, tmp_path):
    more = """
        from advlog_fast.integrations.lightning import AdvlogCallback

        callbacks = [AdvlogCallback(sys.argv[1] + "/logs", "lightning")]
    """
    done = train(more, ADVLOG_DIR=str(tmp_path / "logs"))
    assert "trained 6" in done.stdout, done.stderr
    assert len(read_run(tmp_path / "logs", "lightning").metrics.to_pylist()) == 6


@pytest.mark.parametrize(
    "broken",
    [
        "sys.modules['advlog_fast'] = None",
        "sys.modules['advlog_fast._native'] = None",
        "sys.modules['advlog_fast.integrations.lightning'] = None",
        # Another version: classes that have moved, hooks that are given something else.
        "import lightning.pytorch.loggers.logger as m\ndel m.Logger",
        MORE_ARGUMENTS,
    ],
)
def test_nothing_that_is_broken_breaks_a_trainer(train, tmp_path, broken):
    done = train(f"callbacks = []\n{broken}", ADVLOG_DIR=str(tmp_path / "logs"))
    assert "trained 6" in done.stdout, done.stderr


def test_a_folder_that_cannot_be_written_breaks_no_trainer(train, tmp_path):
    (tmp_path / "file").write_text("")
    done = train(ADVLOG_DIR=str(tmp_path / "file" / "logs"))
    assert "trained 6" in done.stdout, done.stderr
    assert "setup" in done.stderr


def test_the_package_imports_no_framework(tmp_path):
    script = """
        import sys
        import advlog_fast, advlog_fast.cli, advlog_fast.integrations

        advlog_fast.AdvancedLogger("logs", "run", console="off").close()
        heavy = {"torch", "lightning", "transformers", "accelerate", "ray", "tensorboard", "wandb", "mlflow", "fsspec"}
        print(sorted(heavy & set(sys.modules)))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=environment, capture_output=True, text=True, timeout=240, cwd=tmp_path,
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
