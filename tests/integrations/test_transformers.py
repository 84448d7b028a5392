"""Hugging Face's Trainer on a tiny GPT-2: every optimizer step of every rank is in the run, as it was."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.data import Dataset, IterableDataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from advlog_fast import read_run
from advlog_fast.integrations.transformers import AdvlogCallback, register

transformers.logging.set_verbosity_error()
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Tokens(Dataset):
    def __init__(self, count: int):
        self.ids = torch.randint(0, 50, (count, 16), generator=torch.Generator().manual_seed(3))

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, at):
        return {"input_ids": self.ids[at], "labels": self.ids[at]}


def model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))


def arguments(folder, **options):
    defaults = {
        "report_to": "none", "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 4,
        "num_train_epochs": 2, "logging_steps": 1, "save_strategy": "no", "seed": 7,
    }  # fmt: skip
    return TrainingArguments(output_dir=str(folder / "out"), **{**defaults, **options})


class Reported(TrainerCallback):
    """What the Trainer itself reports."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append((state.global_step, dict(logs)))

    def series(self, name):
        return [logs[name] for _, logs in self.logs if name in logs]


def raw(folder, name="run"):
    return [row for row in read_run(folder, name).metrics.to_pylist() if row["batch"] is not None]


def summary_of(folder, name="run"):
    return json.loads((folder / f"{name}_summary.json").read_text())


def run_script(script, folder, *arguments, ranks=1):
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    environment["CUDA_VISIBLE_DEVICES"] = ""
    file = folder / "train.py"
    file.write_text("import sys\nsys.path[:0] = [sys.argv[2]]\n" + textwrap.dedent(script))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return subprocess.run(
        [sys.executable, *launch, str(file), str(folder), str(tests), *arguments],
        env=environment, capture_output=True, text=True, timeout=240, check=False, cwd=folder,
    )  # fmt: skip


def test_two_micro_batches_are_one_row_with_the_loss_that_the_trainer_reports(tmp_path):
    callback, reported = AdvlogCallback(tmp_path, "run", on_misuse="raise"), Reported()
    options = {"gradient_accumulation_steps": 2, "learning_rate": 0.001, "eval_strategy": "epoch"}
    trainer = Trainer(
        model(), arguments(tmp_path, **options), train_dataset=Tokens(40), eval_dataset=Tokens(8),
        callbacks=[callback, reported],
    )  # fmt: skip
    trainer.train()
    callback.run.close()
    rows = raw(tmp_path)
    assert [row["loss"] for row in rows] == pytest.approx(reported.series("loss"), rel=1e-5)
    assert [row["gradient_norm"] for row in rows] == pytest.approx(reported.series("grad_norm"), rel=1e-6)
    assert [row["learning_rate"] for row in rows] == pytest.approx(reported.series("learning_rate"), rel=1e-9)
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert [(row["epoch"], row["batch"], row["total_batches"]) for row in rows] == [
        (epoch, batch, 5) for epoch in (1, 2) for batch in range(1, 6)
    ]
    assert {row["samples"] for row in rows} == {8.0}
    assert all(0 <= row["data_time"] < row["batch_time"] for row in rows)
    run = read_run(tmp_path, "run")
    averaged = [row for row in run.metrics.to_pylist() if row["batch"] is None]
    assert [row["train/loss"] for row in averaged if row["train/loss"] is not None] == reported.series("loss")
    assert {row["loss"] for row in averaged} == {None}
    assert [(row["epoch"], row["step"]) for row in run.validation.to_pylist()] == [(1, 5), (2, 10)]
    summary = summary_of(tmp_path)
    assert summary["status"] == "completed"
    assert summary["contexts"]["evaluate"]["count"] == 2
    assert summary["config"]["gradient_accumulation_steps"] == 2


def test_a_step_that_is_nan_is_nan_though_the_trainer_says_otherwise(tmp_path):
    class Breaks(Trainer):
        def compute_loss(self, *args, **kwargs):
            loss = super().compute_loss(*args, **kwargs)
            return loss * float("nan") if self.state.global_step == 1 else loss

    callback, reported = AdvlogCallback(tmp_path, "run"), Reported()
    Breaks(
        model(), arguments(tmp_path, max_steps=2, learning_rate=0.0), train_dataset=Tokens(40),
        callbacks=[callback, reported],
    ).train()  # fmt: skip
    callback.run.close()
    first, second = raw(tmp_path)
    assert first["loss"] == pytest.approx(reported.series("loss")[0])
    assert math.isnan(second["loss"])
    assert not math.isnan(reported.series("loss")[1])
    assert "logging_nan_inf_filter is on" in (tmp_path / "run_main.log").read_text()


def test_report_to_advlog_trains(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLOG_DIR", str(tmp_path / "logs"))
    register()
    trainer = Trainer(model(), arguments(tmp_path, report_to="advlog", max_steps=3), train_dataset=Tokens(40))
    trainer.train()
    (callback,) = [each for each in trainer.callback_handler.callbacks if isinstance(each, AdvlogCallback)]
    callback.run.close()
    assert [row["step"] for row in raw(tmp_path / "logs")] == [1, 2, 3]


def test_without_a_folder_the_run_lies_beside_the_checkpoints(tmp_path):
    callback = AdvlogCallback()
    Trainer(model(), arguments(tmp_path, max_steps=2), train_dataset=Tokens(40), callbacks=[callback]).train()
    callback.run.close()
    assert len(raw(tmp_path / "out" / "advlog")) == 2


@pytest.mark.parametrize("restores", [False, True])
def test_a_resumed_training_is_one_series(tmp_path, restores):
    class Breaks(Trainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 6:
                raise RuntimeError("at that step")
            return super().training_step(*args, **kwargs)

    saving = {"save_strategy": "steps", "save_steps": 4}
    callback = AdvlogCallback(tmp_path, "run")
    with pytest.raises(RuntimeError):
        Breaks(model(), arguments(tmp_path, **saving), train_dataset=Tokens(40), callbacks=[callback]).train()
    callback.run.close()
    assert summary_of(tmp_path)["status"] == "failed"
    assert summary_of(tmp_path)["contexts"]["checkpoint"]["count"] == 1
    again = AdvlogCallback(tmp_path, "run")
    trainer = Trainer(
        model(), arguments(tmp_path, restore_callback_states_from_checkpoint=restores), train_dataset=Tokens(40),
        callbacks=[again],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    for each in trainer.callback_handler.callbacks:
        if isinstance(each, AdvlogCallback):
            each.run.close()
    rows = raw(tmp_path)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert [row["attempt"] for row in rows] == [1] * 4 + [2] * 16
    assert [row["epoch"] for row in rows] == [1] * 10 + [2] * 10
    assert [row["batch"] for row in rows] == [*range(1, 11)] * 2


@pytest.mark.parametrize("way", ["constructor", "attach"])
def test_an_exception_that_the_program_catches_is_a_failure(tmp_path, way):
    class Breaks(Trainer):
        def training_step(self, *args, **kwargs):
            if self.state.global_step == 2:
                raise RuntimeError("at that step")
            return super().training_step(*args, **kwargs)

    callback = AdvlogCallback(tmp_path, "run")
    callbacks = [callback] if way == "constructor" else []
    trainer = Breaks(model(), arguments(tmp_path), train_dataset=Tokens(40), callbacks=callbacks)
    if way == "attach":
        assert callback.attach(trainer) is trainer
    with pytest.raises(RuntimeError, match="at that step"):
        trainer.train()
    callback.run.close()
    summary = summary_of(tmp_path)
    assert (summary["status"], summary["total_errors"]) == ("failed", 1)
    assert len(raw(tmp_path)) == 2


def test_data_without_a_length(tmp_path):
    class Endless(IterableDataset):
        def __iter__(self):
            while True:
                yield Tokens(1)[0]

    callback = AdvlogCallback(tmp_path, "run", on_misuse="raise")
    Trainer(model(), arguments(tmp_path, max_steps=3), train_dataset=Endless(), callbacks=[callback]).train()
    callback.run.close()
    assert [(row["epoch"], row["batch"], row["total_batches"]) for row in raw(tmp_path)] == [
        (1, batch, None) for batch in (1, 2, 3)
    ]


def test_two_ranks_have_their_own_losses_in_one_attempt(tmp_path):
    script = """
        from integrations.test_transformers import *

        callback = AdvlogCallback(sys.argv[1], "run")
        options = arguments(Path(sys.argv[1]), max_steps=4, ddp_backend="gloo")
        Trainer(model(), options, train_dataset=Tokens(64), callbacks=[callback]).train()
    """
    done = run_script(script, tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = raw(tmp_path)
    assert sorted((row["rank"], row["step"]) for row in rows) == [
        (rank, step) for rank in (0, 1) for step in range(1, 5)
    ]
    assert {row["attempt"] for row in rows} == {1}
    of = {rank: [row["loss"] for row in rows if row["rank"] == rank] for rank in (0, 1)}
    assert of[0] != of[1]
    averaged = [row for row in read_run(tmp_path, "run").metrics.to_pylist() if row["train/loss"] is not None]
    assert {row["rank"] for row in averaged} == {0}
    assert [row["train/loss"] for row in averaged] == pytest.approx(
        [(one + two) / 2 for one, two in zip(of[0], of[1], strict=True)], rel=1e-4
    )


def test_a_callback_that_is_added_later_says_that_it_is_not_attached(tmp_path, monkeypatch):
    monkeypatch.setattr("advlog_fast.integrations.transformers._trainer_above", lambda callback: None)
    callback = AdvlogCallback(tmp_path, "run")
    trainer = Trainer(model(), arguments(tmp_path, max_steps=2), train_dataset=Tokens(40), callbacks=[callback])
    with pytest.warns(RuntimeWarning, match="attach"):
        trainer.train()
    assert callback.run.log.health().hook_faults == {"training_step": 1}
    callback.run.close()


def test_each_trial_of_a_search_is_a_run_of_its_own(tmp_path):
    callback = AdvlogCallback(tmp_path, "run")
    trainer = Trainer(
        args=arguments(tmp_path, max_steps=2), train_dataset=Tokens(40), model_init=lambda trial=None: model(),
        callbacks=[callback],
    )  # fmt: skip
    for number in (1, 2):
        trainer.state.is_hyper_param_search = True
        trainer.state.trial_name, trainer.state.trial_params = f"trial{number}", {"learning_rate": number / 1000}
        state = trainer.state
        callback.on_train_begin(trainer.args, state, trainer.control)
        callback.run.log.log_metrics({"x": number}, step=1)
    callback.run.close()
    for number in (1, 2):
        assert summary_of(tmp_path, f"run-trial{number}")["hyperparameters"] == {"learning_rate": number / 1000}


def test_a_fault_of_a_hook_leaves_the_training_alone(tmp_path, monkeypatch):
    callback = AdvlogCallback(tmp_path, "run")
    monkeypatch.setattr("advlog_fast.integrations.transformers.samples_in", lambda inputs: 1 / 0)
    trainer = Trainer(model(), arguments(tmp_path, max_steps=2), train_dataset=Tokens(40), callbacks=[callback])
    with pytest.warns(RuntimeWarning, match="training_step: ZeroDivisionError"):
        trainer.train()
    callback.run.close()
    assert len(raw(tmp_path)) == 2


def test_the_import_without_transformers_names_the_extra(tmp_path):
    script = """
        sys.modules["transformers"] = None
        try:
            import advlog_fast.integrations.transformers
        except ModuleNotFoundError as error:
            print(error)
    """
    done = run_script(script, tmp_path)
    assert "pip install 'advlog-fast[transformers]'" in done.stdout, done.stderr


def test_an_option_that_json_cannot_hold_ends_no_training(tmp_path):
    callback = AdvlogCallback(tmp_path, "run", ring_dir=tmp_path / "rings")
    arguments_ = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=1)
    Trainer(model(), arguments_, train_dataset=Tokens(40), callbacks=[callback]).train()
    callback.run.close()
    state = json.loads((tmp_path / "out" / "checkpoint-1" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["AdvlogCallback"]["args"] == {"log_dir": str(tmp_path), "name": "run"}


def test_a_copied_trainer_trains_its_own_model(tmp_path):
    original = Trainer(
        model(), arguments(tmp_path, max_steps=2), train_dataset=Tokens(40), callbacks=[AdvlogCallback(tmp_path, "run")]
    )
    copied = copy.deepcopy(original)
    before = [parameter.detach().clone() for parameter in original.model.parameters()]
    copied.train()
    assert all(map(torch.equal, before, original.model.parameters()))
    assert not all(map(torch.equal, before, copied.model.parameters()))
    next(each for each in copied.callback_handler.callbacks if isinstance(each, AdvlogCallback)).run.close()
    assert len(raw(tmp_path)) == 2


def test_passes_over_data_without_a_length_are_epochs(tmp_path):
    class Few(IterableDataset):
        def __iter__(self):
            return iter([Tokens(1)[0]] * 12)

    callback = AdvlogCallback(tmp_path, "run")
    Trainer(model(), arguments(tmp_path, max_steps=7), train_dataset=Few(), callbacks=[callback]).train()
    callback.run.close()
    places = [(row["epoch"], row["batch"]) for row in raw(tmp_path)]
    assert places == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3), (3, 1)]


def test_two_callbacks_of_one_run_log_once_and_one_of_two_trainers_keeps_them_apart(tmp_path):
    one, two = AdvlogCallback(tmp_path, "run"), AdvlogCallback(tmp_path, "run")
    Trainer(model(), arguments(tmp_path, max_steps=2), train_dataset=Tokens(40), callbacks=[one, two]).train()
    one.run.close()
    assert len(raw(tmp_path)) == 2
    callback = AdvlogCallback()
    first, second = (
        Trainer(model(), arguments(tmp_path / name, max_steps=2), train_dataset=Tokens(40), callbacks=[callback])
        for name in "ab"
    )
    first.train()
    second.train()
    first.evaluate(Tokens(8))
    validations = [read_run(tmp_path / name / "out" / "advlog", "run").validation.num_rows for name in "ab"]
    assert validations == [1, 0]


def test_another_training_of_the_process_is_another_attempt_and_its_mean_losses_stay_apart(tmp_path):
    callback = AdvlogCallback(tmp_path, "run")
    trainer = Trainer(model(), arguments(tmp_path, max_steps=2), train_dataset=Tokens(40), callbacks=[callback])
    trainer.train()
    trainer.train()
    assert callback.run.has_raw
    callback.run.close()
    assert not callback.run.has_raw
    rows = read_run(tmp_path, "run", attempts="all").metrics.to_pylist()
    assert [(row["attempt"], row["step"]) for row in rows if row["batch"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
