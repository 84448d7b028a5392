"""Lightning's Trainer and Fabric, real trainings of a tiny model: every batch of every rank is in the run."""

from __future__ import annotations

import copy
import json
import math
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pl = pytest.importorskip("lightning.pytorch")

from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from advlog_fast import AdvancedLogger, cli, read_run
from advlog_fast.integrations.lightning import AdvlogCallback, AdvlogLogger

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # Lightning's advice
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}


class Model(pl.LightningModule):
    """Remembers each loss that its training step returned."""

    def __init__(self, lr: float = 0.01, fails_at: int | None = None, error: type[BaseException] = RuntimeError):
        super().__init__()
        self.save_hyperparameters("lr")
        self.layer = torch.nn.Linear(8, 1)
        self.fails_at, self.error = fails_at, error
        self.returned: list[float] = []

    def loss(self, batch):
        x, y = batch
        return ((self.layer(x) - y) ** 2).mean()

    def training_step(self, batch, index):
        if len(self.returned) == self.fails_at:
            raise self.error("at that batch")
        loss = self.loss(batch)
        self.returned.append(float(loss))
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch, index):
        self.log("test_loss", self.loss(batch))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.hparams.lr)


def data(batches: int = 6) -> DataLoader:
    generator = torch.Generator().manual_seed(1)
    rows = 8 * batches
    tensors = TensorDataset(torch.randn(rows, 8, generator=generator), torch.randn(rows, 1, generator=generator))
    return DataLoader(tensors, 8)


@pytest.fixture
def trainer(tmp_path):
    def make(*callbacks, **options):
        return pl.Trainer(
            **{**QUIET, "max_epochs": 1, "logger": False, "default_root_dir": tmp_path / "root", **options},
            callbacks=list(callbacks),
        )

    return make


def closed(*objects):
    for each in objects:
        each.run.close()


def raw(folder, name, **which):
    """The records of batches."""
    rows = read_run(folder, name, **which).metrics.to_pylist()
    return [row for row in rows if row["batch"] is not None]


def summary_of(folder, name):
    return json.loads((folder / f"{name}_summary.json").read_text())


def test_each_batch_has_the_loss_that_training_step_returned_though_gradients_accumulate(tmp_path, trainer):
    callback, model = AdvlogCallback(tmp_path, "run", on_misuse="raise"), Model()
    trainer(callback, accumulate_grad_batches=2, max_epochs=2).fit(model, data(), data(2))
    closed(callback)
    rows = raw(tmp_path, "run")
    assert [row["loss"] for row in rows] == pytest.approx(model.returned, rel=1e-6)
    assert [(row["epoch"], row["batch"], row["total_batches"]) for row in rows] == [
        (epoch, batch, 6) for epoch in (1, 2) for batch in range(1, 7)
    ]
    assert [row["step"] for row in rows] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert {row["learning_rate"] for row in rows} == {0.01}
    assert {row["samples"] for row in rows} == {8.0}
    assert all(0 < row["data_time"] < row["batch_time"] < 60 for row in rows)
    summary = summary_of(tmp_path, "run")
    assert summary["status"] == "completed"
    assert summary["config"] == {"lr": 0.01}
    assert [epoch["epoch"] for epoch in summary["epochs"]] == [1, 2]
    assert summary["contexts"]["validate"]["count"] == 3  # the sanity check too
    assert [row["epoch"] for row in read_run(tmp_path, "run").validation.to_pylist()] == [1, 2]


def test_what_a_validation_says_is_of_that_validation_alone(tmp_path, trainer):
    callback = AdvlogCallback(tmp_path, "run")
    trainer(callback).fit(Model(), data(), data(2))
    closed(callback)
    (row,) = read_run(tmp_path, "run").validation.to_pylist()
    assert row["epoch"] == 1
    assert row["val_loss"] > 0
    assert "train_loss" not in row


def test_logger_and_callback_are_one_run_and_nothing_is_said(tmp_path, trainer):
    logger, callback = AdvlogLogger(tmp_path, "run"), AdvlogCallback()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        trainer(callback, logger=logger).fit(Model(), data(), data(2))
    closed(callback, logger)
    run = read_run(tmp_path, "run")
    rows = run.metrics.to_pylist()
    averaged = [row for row in rows if row["batch"] is None]
    assert len(rows) - len(averaged) == 6
    assert [row["step"] for row in averaged if row["train_loss"] is not None] == list(range(6))
    assert {row["epoch"] for row in rows} == {1}
    assert {row["attempt"] for row in rows} == {1}
    assert not list(tmp_path.glob("*lightning*"))


def test_a_callback_and_a_logger_that_name_the_same_run_share_it(tmp_path, trainer):
    logger, callback = AdvlogLogger(tmp_path, "run"), AdvlogCallback(tmp_path, "run")
    trainer(callback, logger=logger).fit(Model(), data())
    closed(logger, callback)
    rows = read_run(tmp_path, "run").metrics.to_pylist()
    assert {row["attempt"] for row in rows} == {1}
    assert len(rows) == 12


def test_a_metric_called_loss_is_kept_apart_from_raw_ones(tmp_path, trainer):
    class Averages(Model):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            self.log("loss", loss, on_step=False, on_epoch=True)
            self.log("rank", 3.0)
            self.log("epoch", 0.5)
            return loss

    logger, callback, model = AdvlogLogger(tmp_path, "run"), AdvlogCallback(), Averages()
    trainer(callback, logger=logger).fit(model, data())
    closed(logger, callback)
    rows = read_run(tmp_path, "run").metrics.to_pylist()
    assert [row["loss"] for row in rows if row["batch"] is not None] == pytest.approx(model.returned)
    (mean,) = [row["train/loss"] for row in rows if row["train/loss"] is not None]
    assert mean == pytest.approx(sum(model.returned) / 6, rel=1e-5)
    assert {row["metric/rank"] for row in rows} == {None, 3.0}
    assert {row["epoch_progress"] for row in rows} == {None, 0.5}


def test_fit_and_then_test_are_one_attempt(tmp_path, trainer):
    logger, callback, model = AdvlogLogger(tmp_path, "run"), AdvlogCallback(), Model()
    made = trainer(callback, logger=logger)
    made.fit(model, data())
    made.test(model, data(2), verbose=False)
    closed(logger, callback)
    run = read_run(tmp_path, "run")
    rows = run.metrics.to_pylist()
    assert {row["attempt"] for row in rows} == {1}
    assert [row["test_loss"] for row in rows if row["test_loss"] is not None] != []
    assert [row["name"] for row in run.validation.to_pylist()] == ["test"]
    assert summary_of(tmp_path, "run")["status"] == "completed"


@pytest.mark.parametrize("ways", ["callback", "logger", "both"])
def test_an_exception_that_the_program_catches_outside_is_a_failure(tmp_path, trainer, ways):
    logger, callback = AdvlogLogger(tmp_path, "run"), AdvlogCallback(tmp_path, "run")
    callbacks = [] if ways == "logger" else [callback]
    made = trainer(*callbacks, logger=False if ways == "callback" else logger)
    with pytest.raises(RuntimeError, match="at that batch"):
        made.fit(Model(fails_at=3), data(), data(1))
    closed(logger, callback)
    summary = summary_of(tmp_path, "run")
    assert summary["status"] == "failed"
    assert summary["total_errors"] == 1
    assert "RuntimeError: at that batch" in (tmp_path / "run_errors.log").read_text()


@pytest.mark.parametrize("ways", ["callback", "logger"])
def test_a_ctrl_c_is_an_interruption_and_no_error(tmp_path, ways):
    script = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from integrations.test_lightning import *

        logger, callback = AdvlogLogger(sys.argv[1], "run"), AdvlogCallback(sys.argv[1], "run")
        log = {"logger": logger} if sys.argv[3] == "logger" else {"logger": False, "callbacks": [callback]}
        pl.Trainer(**QUIET, max_epochs=1, default_root_dir=sys.argv[1], **log).fit(
            Model(fails_at=3, error=KeyboardInterrupt), data())
    """
    done = run_script(script, tmp_path, ways)
    assert done.returncode == 1, done.stderr
    summary = summary_of(tmp_path, "run")
    assert summary["status"] == "interrupted"
    assert summary["total_errors"] == 0


def run_script(script, folder, *arguments):
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(folder), str(tests), *arguments],
        env=environment, capture_output=True, text=True, timeout=240, check=False, cwd=folder,
    )  # fmt: skip


@pytest.mark.parametrize("strategy", ["ddp", "ddp_spawn"])
def test_two_ranks_are_in_one_attempt(tmp_path, strategy):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        sys.path[:0] = [sys.argv[2]]
        from integrations.test_lightning import *

        if __name__ == "__main__":
            logger, callback = AdvlogLogger(sys.argv[1], "run"), AdvlogCallback()
            pl.Trainer(**QUIET, max_epochs=1, default_root_dir=sys.argv[1], logger=logger, callbacks=[callback],
                       devices=2, strategy=sys.argv[3], enable_checkpointing=False).fit(Model(), data(8), data(2))
        """)
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, script, str(tmp_path), str(tests), strategy],
        env=environment, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = raw(tmp_path, "run")
    assert {row["attempt"] for row in rows} == {1}
    assert {row["worker"] for row in rows} == {0}
    assert sorted((row["rank"], row["step"]) for row in rows) == [(rank, step) for rank in (0, 1) for step in range(4)]
    averaged = [row for row in read_run(tmp_path, "run").metrics.to_pylist() if row["batch"] is None]
    assert {row["rank"] for row in averaged} == {0}


def test_a_logger_that_was_used_before_the_ranks_started_joins_them(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        sys.path[:0] = [sys.argv[2]]
        from integrations.test_lightning import *

        logger = AdvlogLogger(sys.argv[1], "run")
        if "LOCAL_RANK" not in os.environ:
            logger.experiment.log_event("before")
        pl.Trainer(**QUIET, max_epochs=1, default_root_dir=sys.argv[1], logger=logger, callbacks=[AdvlogCallback()],
                   devices=2, strategy="ddp", enable_checkpointing=False).fit(Model(), data(8))
        """)
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, script, str(tmp_path), str(Path(__file__).parents[1])],
        env=environment, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    rows = raw(tmp_path, "run")
    assert len({row["attempt"] for row in rows}) == 1
    assert {row["rank"] for row in rows} == {0, 1}


def test_data_without_a_length_and_a_training_without_an_end(tmp_path, trainer):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield torch.ones(8), torch.ones(1)

    callback = AdvlogCallback(tmp_path, "run", on_misuse="raise")
    trainer(callback, max_epochs=-1, max_steps=6).fit(Model(), DataLoader(Endless(), 8))
    closed(callback)
    rows = raw(tmp_path, "run")
    assert [(row["batch"], row["total_batches"], row["step"]) for row in rows] == [(i + 1, None, i) for i in range(6)]


def test_a_resumed_training_is_one_series_without_gaps(tmp_path, trainer):
    whole, callback = Model(), AdvlogCallback(tmp_path, "run")
    saver = pl.callbacks.ModelCheckpoint(tmp_path / "saved", every_n_train_steps=4, save_top_k=-1, filename="{step}")
    with pytest.raises(RuntimeError):
        trainer(callback, saver, max_epochs=2).fit(Model(fails_at=6), data())
    closed(callback)
    (checkpoint,) = (tmp_path / "saved").iterdir()
    again, model = AdvlogCallback(tmp_path, "run"), Model()
    trainer(again, max_epochs=2).fit(model, data(), ckpt_path=checkpoint, weights_only=False)
    closed(again)
    rows = raw(tmp_path, "run")
    assert [row["step"] for row in rows] == list(range(12))
    assert [row["attempt"] for row in rows] == [1] * 4 + [2] * 8
    assert len(whole.returned) == 0
    assert summary_of(tmp_path, "run")["resumed_from"]["attempt"] == 1
    assert summary_of(tmp_path, "run")["contexts"].keys() >= {"checkpoint"}


def test_several_numbers_of_a_step_and_manual_optimization(tmp_path, trainer):
    class Several(Model):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            return {"loss": loss, "accuracy": loss.detach() * 0, "predictions": batch[1], "note": "text", "rank": 1}

    class Manual(Model):
        automatic_optimization = False

        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    one, two = AdvlogCallback(tmp_path, "several", on_misuse="raise"), AdvlogCallback(tmp_path, "manual")
    model = Several()
    trainer(one, accumulate_grad_batches=3).fit(model, data())
    trainer(two).fit(Manual(), data())
    closed(one, two)
    rows = raw(tmp_path, "several")
    assert [row["loss"] for row in rows] == pytest.approx(model.returned, rel=1e-6)
    assert {row["accuracy"] for row in rows} == {0.0}
    assert {row["metric/rank"] for row in rows} == {1.0}
    assert [(row["step"], row["loss"]) for row in raw(tmp_path, "manual")] == [(step, None) for step in range(6)]


def test_nan_and_every_tenth_batch_and_no_batch_of_a_trial(tmp_path, trainer):
    class NotANumber(Model):
        def training_step(self, batch, index):
            return super().training_step(batch, index) * float("nan")

    callback, trial = AdvlogCallback(tmp_path, "run", every_n_batches=3), AdvlogCallback(tmp_path, "trial")
    trainer(callback).fit(NotANumber(), data())
    trainer(trial, fast_dev_run=True).fit(Model(), data())
    closed(callback, trial)
    rows = raw(tmp_path, "run")
    assert [row["batch"] for row in rows] == [1, 4]
    assert all(math.isnan(row["loss"]) for row in rows)
    assert not (tmp_path / "trial_main.log").exists()


def test_a_fault_of_a_hook_leaves_the_training_alone_and_is_counted(tmp_path, trainer, monkeypatch):
    callback = AdvlogCallback(tmp_path, "run")
    monkeypatch.setattr("advlog_fast.integrations.lightning.samples_in", lambda batch: 1 / 0)
    with pytest.warns(RuntimeWarning, match="on_train_batch_end: ZeroDivisionError"):
        trainer(callback).fit(Model(), data())
    health = callback.run.log.health()
    assert health.hook_faults == {"on_train_batch_end": 6}
    closed(callback)
    assert summary_of(tmp_path, "run")["status"] == "completed"


def test_a_hook_that_never_comes_is_an_error_and_is_counted(tmp_path, trainer, capsys):
    class Newer(AdvlogCallback):
        """As a Trainer would have it that calls the hook by another name."""

        on_train_batch_end = pl.Callback.on_train_batch_end

    callback = Newer(tmp_path, "run")
    with pytest.warns(RuntimeWarning, match="on_train_batch_end: the trainer has trained"):
        trainer(callback).fit(Model(), data())
    assert callback.run.log.health().hook_faults == {"on_train_batch_end": 1}
    closed(callback)
    assert "on_train_batch_end" in (tmp_path / "run_errors.log").read_text()
    assert cli.main(["show", str(tmp_path)]) == 0
    assert "faults of the integration, by hook: on_train_batch_end 1 (the errors have each)" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_ends_no_training(tmp_path, trainer):
    (tmp_path / "file").write_text("")
    callback, model = AdvlogCallback(tmp_path / "file" / "logs", "run"), Model()
    with pytest.warns(RuntimeWarning, match="setup"):
        trainer(callback).fit(model, data())
    assert len(model.returned) == 6


def test_wrong_options_raise_at_once(tmp_path):
    with pytest.raises(TypeError):
        AdvlogCallback(tmp_path, "run", no_such_option=1)
    with pytest.raises(ValueError, match="text_digits"):
        AdvlogLogger(tmp_path, "run", text_digits=0)
    with pytest.raises(ValueError, match="every_n_batches"):
        AdvlogCallback(tmp_path, "run", every_n_batches=0)


def test_an_open_logger_of_the_program_is_used_and_stays_open(tmp_path, trainer):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        callback = AdvlogCallback(logger=log)
        trainer(callback).fit(Model(), data())
        callback.run.close()
        log.log_metrics({"after": 1.0}, step=9)
    rows = read_run(tmp_path, "run").metrics.to_pylist()
    assert len(rows) == 7
    assert rows[-1]["after"] == 1.0


def test_fabric_logs_by_its_own_calls_and_the_exit_closes(tmp_path):
    script = """
        import sys
        sys.path.insert(0, sys.argv[2])
        from integrations.test_lightning import *
        from lightning.fabric import Fabric

        fabric = Fabric(accelerator="cpu", loggers=AdvlogLogger(sys.argv[1], "run"))
        for step in range(5):
            fabric.log("loss", torch.tensor(step / 2), step)
            fabric.log_dict({"accuracy": 0.5, "note": 7}, step)
            fabric.logger.experiment.log_batch_progress(1, step + 1, 5, torch.tensor(2.0), step=step)
    """
    done = run_script(script, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_run(tmp_path, "run").metrics.to_pylist()
    assert len(rows) == 15
    assert [row["loss"] for row in rows[::3]] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert summary_of(tmp_path, "run")["status"] == "completed"


def test_the_import_without_lightning_names_the_extra(tmp_path):
    script = """
        import sys
        sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None
        try:
            import advlog_fast.integrations.lightning
        except ModuleNotFoundError as error:
            print(error)
    """
    done = run_script(script, tmp_path)
    assert "pip install 'advlog-fast[lightning]'" in done.stdout


def test_a_returned_epoch_costs_no_row_and_a_batch_without_a_shape_only_its_samples(tmp_path, trainer):
    class Shapeless:
        @property
        def shape(self):
            raise RuntimeError("no shape")

    class Returns(Model):
        def training_step(self, batch, index):
            return {"loss": super().training_step(batch["rows"], index), "epoch": self.current_epoch, "batch": index}

    rows_of = list(data())
    batches = [{"other": Shapeless(), "rows": rows} for rows in rows_of]
    callback, model = AdvlogCallback(tmp_path, "run"), Returns()
    trainer(callback).fit(model, DataLoader(batches, batch_size=None))
    assert callback.run.log.health().hook_faults == {}
    closed(callback)
    rows = raw(tmp_path, "run")
    assert [row["loss"] for row in rows] == pytest.approx(model.returned)
    assert [row["metric/batch"] for row in rows] == list(range(6))
    assert [row["batch"] for row in rows] == list(range(1, 7))


def test_objects_that_name_one_run_keep_raw_and_averaged_losses_apart(tmp_path, trainer):
    class Logs(Model):
        def training_step(self, batch, index):
            loss = super().training_step(batch, index)
            self.log("loss", loss)
            return loss

    model = Logs()
    logger, callback = AdvlogLogger(tmp_path, "run"), AdvlogCallback(tmp_path, "run")
    trainer(callback, logger=logger).fit(model, data())
    closed(logger, callback)
    rows = read_run(tmp_path, "run").metrics.to_pylist()
    assert [row["loss"] for row in rows if row["loss"] is not None] == pytest.approx(model.returned)
    assert [row["train/loss"] for row in rows if row["train/loss"] is not None] == pytest.approx(model.returned)
    assert {row["epoch"] for row in rows} == {1}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda callback: pickle.loads(pickle.dumps(callback))])
def test_a_copy_of_a_callback_logs_into_the_loggers_run(tmp_path, trainer, copied, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with AdvancedLogger(tmp_path, "mine", console="off") as log:
        trainer(copied(AdvlogCallback(logger=log))).fit(Model(), data())
    assert len(raw(tmp_path, "mine")) == 6
    assert not (tmp_path / "logs").exists()


def test_a_logger_that_cannot_write_ends_no_training(tmp_path, trainer):
    (tmp_path / "file").write_text("")
    model = Model()
    with pytest.warns(RuntimeWarning, match="experiment"):
        options = {"logger": AdvlogLogger(tmp_path / "file" / "logs", "run"), "enable_checkpointing": False}
        trainer(**options).fit(model, data())
    assert len(model.returned) == 6


def test_two_callbacks_of_two_runs_each_have_theirs(tmp_path, trainer):
    one, two = AdvlogCallback(tmp_path, "one"), AdvlogCallback(tmp_path, "two", every_n_batches=2)
    trainer(one, two).fit(Model(), data())
    closed(one, two)
    assert (len(raw(tmp_path, "one")), len(raw(tmp_path, "two"))) == (6, 3)


def test_a_resume_in_the_same_process_is_an_attempt_of_its_own(tmp_path, trainer):
    def made():
        saver = pl.callbacks.ModelCheckpoint(tmp_path / "saved", every_n_train_steps=4, save_top_k=-1, save_last=True)
        return trainer(AdvlogCallback(tmp_path, "run"), saver, max_epochs=2)

    with pytest.raises(RuntimeError):
        made().fit(Model(fails_at=6), data())
    again = made()
    again.fit(Model(), data(), ckpt_path="last", weights_only=False)
    closed(*(each for each in again.callbacks if isinstance(each, AdvlogCallback)))
    assert [(row["attempt"], row["step"]) for row in raw(tmp_path, "run")] == [
        *((1, step) for step in range(4)),
        *((2, step) for step in range(4, 12)),
    ]


def test_a_programs_own_save_checkpoint_is_its_own_again(tmp_path, trainer):
    calls = []
    made = trainer(AdvlogCallback(tmp_path, "run"))
    save = made.save_checkpoint
    made.save_checkpoint = lambda *args, **kwargs: (calls.append(1), save(*args, **kwargs))
    made.fit(Model(), data())
    within = len(calls)
    made.save_checkpoint(tmp_path / "last.ckpt")
    assert len(calls) == within + 1
    broken = trainer(AdvlogCallback(tmp_path, "broken"))
    with pytest.raises(RuntimeError):
        broken.fit(Model(fails_at=1), data())
    assert "save_checkpoint" not in vars(broken)


def test_a_batch_has_the_learning_rate_that_it_was_trained_with(tmp_path, trainer):
    class Scheduled(Model):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    callback = AdvlogCallback(tmp_path, "run")
    trainer(callback).fit(Scheduled(lr=0.1), data(4))
    closed(callback)
    assert [row["learning_rate"] for row in raw(tmp_path, "run")] == pytest.approx([0.1, 0.05, 0.025, 0.0125])


def test_another_training_of_the_process_is_another_attempt_and_one_that_continues_is_one_series(tmp_path, trainer):
    for _ in range(2):
        trainer(AdvlogCallback(tmp_path, "folds")).fit(Model(), data(4))
    made = trainer(AdvlogCallback(tmp_path, "longer"))
    model = Model()
    made.fit(model, data(4))
    made.fit_loop.max_epochs = 2
    made.fit(model, data(4))
    for each in made.callbacks:
        if isinstance(each, AdvlogCallback):
            each.run.close()
    AdvancedLogger.shared(tmp_path, "folds").close()
    folds = raw(tmp_path, "folds", attempts="all")
    assert [(row["attempt"], row["step"]) for row in folds] == [
        (attempt, step) for attempt in (1, 2) for step in range(4)
    ]
    assert [row["step"] for row in raw(tmp_path, "longer")] == list(range(8))
