"""Accelerate: every optimizer step of every rank, beside what `accelerator.log` gets."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
accelerate = pytest.importorskip("accelerate")

from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.utils.data import DataLoader, TensorDataset

from advlog_fast import read_jsonl, read_run
from advlog_fast.integrations.accelerate import AdvlogTracker, open_on_all_ranks, register

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def fresh():
    """Accelerate's own states are the process's: a Trainer of another test leaves its data loaders in them."""
    forget_states()
    yield
    forget_states()


def forget_states():
    for state in (AcceleratorState, GradientState, PartialState):
        state._reset_state()


def parts():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    data = DataLoader(TensorDataset(torch.randn(64, 4), torch.randn(64, 1)), 8)
    return model, torch.optim.SGD(model.parameters(), 0.1), data


def train(accelerator, model, optimizer, data, epochs=1, scheduler=None, clip=None):
    """Returns the loss of each batch."""
    losses = []
    for _ in range(epochs):
        for x, y in data:
            with accelerator.accumulate(model):
                loss = ((model(x) - y) ** 2).mean()
                accelerator.backward(loss)
                if clip and accelerator.sync_gradients:
                    clip.append(accelerator.clip_grad_norm_(model.parameters(), 1.0).item())
                optimizer.step()
                if scheduler is not None:
                    scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    return losses


def raw(folder, name):
    return [row for row in read_run(folder, name).metrics.to_pylist() if row["batch_time"] is not None]


def summary_of(folder, name):
    return json.loads((folder / f"{name}_summary.json").read_text())


def run_script(script, folder, *arguments, ranks=1):
    tests = Path(__file__).parents[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    environment["ACCELERATE_USE_CPU"] = "true"
    file = folder / "train.py"
    file.write_text("import sys\nsys.path[:0] = [sys.argv[2]]\n" + textwrap.dedent(script))
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return subprocess.run(
        [sys.executable, *launch, str(file), str(folder), str(tests), *arguments],
        env=environment, capture_output=True, text=True, timeout=240, check=False, cwd=folder,
    )  # fmt: skip


def test_each_step_has_its_mean_loss_its_gradient_norm_and_its_learning_rate(tmp_path):
    register()
    accelerator = Accelerator(log_with="advlog", project_dir=tmp_path, cpu=True, gradient_accumulation_steps=2)
    accelerator.init_trackers("my project", {"lr": 0.1, "api_key": "x"}, {"advlog": {"on_misuse": "raise"}})
    log = open_on_all_ranks(accelerator)
    model, optimizer, data = accelerator.prepare(*parts())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)  # it patches the optimizer's step
    norms = [0.0]
    losses = train(accelerator, model, optimizer, data, scheduler=scheduler, clip=norms)
    assert log.health().hook_faults == {}
    accelerator.end_training()
    rows = raw(tmp_path, "my_project")
    assert [row["loss"] for row in rows] == pytest.approx(
        [(one + two) / 2 for one, two in zip(losses[::2], losses[1::2], strict=True)], rel=1e-6
    )
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert [row["gradient_norm"] for row in rows] == pytest.approx(norms[1:], rel=1e-6)
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.05, 0.0125, 0.003125, 0.00078125])
    assert {row["samples"] for row in rows} == {16.0}
    assert all(0 <= row["data_time"] < row["batch_time"] for row in rows)


def test_a_string_costs_no_row_and_nothing_ends_the_training(tmp_path):
    accelerator = Accelerator(log_with=[AdvlogTracker("run", tmp_path)], cpu=True)
    accelerator.init_trackers("ignored", {"lr": 0.1})
    accelerator.log({"note": "text", "loss": 1.0, "epoch": 0.5, "list": [1, 2], "rank": 3}, step=9)
    accelerator.log({"loss": torch.tensor(2.0), "nothing": None}, step=10)
    accelerator.end_training()
    first, second = read_run(tmp_path, "run").metrics.to_pylist()
    assert (first["loss"], first["epoch_progress"], first["metric/rank"], first["step"]) == (1.0, 0.5, 3.0, 9)
    assert (second["loss"], second["step"]) == (2.0, 10)
    (event,) = [event for event in read_jsonl(tmp_path / "run_events.jsonl") if event["event"] == "logged"]
    assert event["values"] == {"note": "text", "list": "[1, 2]"}
    assert summary_of(tmp_path, "run")["status"] == "completed"


def test_what_the_program_averages_is_kept_apart_from_raw_losses(tmp_path):
    accelerator = Accelerator(log_with=[AdvlogTracker("run", tmp_path)], cpu=True)
    accelerator.init_trackers("ignored")
    open_on_all_ranks(accelerator)
    model, optimizer, data = accelerator.prepare(*parts())
    losses = train(accelerator, model, optimizer, data)
    accelerator.log({"loss": sum(losses) / 8}, step=8)
    accelerator.end_training()
    rows = read_run(tmp_path, "run").metrics.to_pylist()
    assert [row["loss"] for row in rows] == pytest.approx([*losses, None])
    assert rows[-1]["train/loss"] == pytest.approx(sum(losses) / 8)


def test_two_ranks_have_rows_of_both_and_of_rank_0_what_is_logged(tmp_path):
    script = """
        from integrations.test_accelerate import *

        register()
        accelerator = Accelerator(log_with="advlog", project_dir=sys.argv[1], cpu=True)
        accelerator.init_trackers("run", {"lr": 0.1})
        open_on_all_ranks(accelerator, "run")
        model, optimizer, data = accelerator.prepare(*parts())
        train(accelerator, model, optimizer, data)
        accelerator.log({"accuracy": 0.5}, step=4)
        accelerator.end_training()
    """
    done = run_script(script, tmp_path, ranks=2)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = raw(tmp_path, "run")
    assert sorted((row["rank"], row["step"]) for row in rows) == [
        (rank, step) for rank in (0, 1) for step in range(1, 5)
    ]
    assert {row["attempt"] for row in rows} == {1}
    logged = [row for row in read_run(tmp_path, "run").metrics.to_pylist() if row["accuracy"] is not None]
    assert [(row["rank"], row["step"]) for row in logged] == [(0, 4)]


def test_a_loaded_state_goes_on_in_one_series(tmp_path):
    for attempt in (1, 2):
        accelerator = Accelerator(log_with=[AdvlogTracker("run", tmp_path)], project_dir=tmp_path, cpu=True)
        accelerator.init_trackers("ignored")
        log = open_on_all_ranks(accelerator)
        accelerator.register_for_checkpointing(log)
        model, optimizer, data = accelerator.prepare(*parts())
        if attempt == 2:
            accelerator.load_state(tmp_path / "saved")
        train(accelerator, model, optimizer, data)
        if attempt == 1:
            accelerator.save_state(tmp_path / "saved")
            train(accelerator, model, optimizer, data)  # to be superseded
        accelerator.end_training()
        forget_states()
    rows = raw(tmp_path, "run")
    assert [(row["attempt"], row["step"]) for row in rows] == [(1 + (step > 8), step) for step in range(1, 17)]


def test_a_model_is_saved_as_before(tmp_path):
    accelerator = Accelerator(cpu=True, project_dir=tmp_path)
    log = open_on_all_ranks(accelerator, "run", tmp_path)
    model, optimizer, data = accelerator.prepare(*parts())
    train(accelerator, model, optimizer, data)
    torch.save(accelerator.unwrap_model(model), tmp_path / "model.pt")
    assert b"advlog" not in (tmp_path / "model.pt").read_bytes()
    assert type(copy.copy(data)) is not type(data)  # a copy is of the class that Accelerate made
    log.close()


def test_several_losses_of_a_batch_are_one_step_and_loaders_that_are_made_anew_are_watched(tmp_path):
    accelerator = Accelerator(cpu=True, project_dir=tmp_path)
    log = open_on_all_ranks(accelerator, "run", tmp_path)
    sums = []
    for _ in range(3):
        accelerator.free_memory()
        model, optimizer, data = accelerator.prepare(*parts())
        for x, y in data:
            error = model(x) - y
            squared, absolute = (error**2).mean(), error.abs().mean()
            sums.append(squared.item() + absolute.item())
            accelerator.backward(squared, retain_graph=True)
            accelerator.backward(absolute)
            optimizer.step()
            optimizer.zero_grad()
    log.close()
    rows = raw(tmp_path, "run")
    assert [row["loss"] for row in rows] == pytest.approx(sums, rel=1e-6)
    assert {row["samples"] for row in rows} == {8.0}
    assert {row["learning_rate"] for row in rows} == {0.1}


def test_a_program_that_counts_otherwise_goes_on_in_the_steps_of_its_optimizer(tmp_path):
    for attempt in (1, 2):
        accelerator = Accelerator(log_with=[AdvlogTracker("run", tmp_path)], project_dir=tmp_path, cpu=True)
        accelerator.init_trackers("ignored")
        log = open_on_all_ranks(accelerator)
        accelerator.register_for_checkpointing(log)
        model, optimizer, data = accelerator.prepare(*parts())
        if attempt == 2:
            accelerator.load_state(tmp_path / "saved")
        train(accelerator, model, optimizer, data)
        accelerator.log({"accuracy": 0.5}, step=attempt)
        accelerator.save_state(tmp_path / "saved")
        accelerator.end_training()
        forget_states()
    assert [row["step"] for row in raw(tmp_path, "run")] == list(range(1, 17))


def test_steps_without_a_loss_are_a_fault(tmp_path):
    accelerator = Accelerator(log_with=[AdvlogTracker("run", tmp_path)], cpu=True)
    accelerator.init_trackers("ignored")
    log = open_on_all_ranks(accelerator)
    model, optimizer, data = accelerator.prepare(*parts())
    for x, y in data:
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    with pytest.warns(RuntimeWarning, match="backward"):
        accelerator.end_training()
    assert log.health().hook_faults == {"backward": 1}


def test_a_rank_without_a_name_is_told_what_to_give(tmp_path):
    accelerator = Accelerator(cpu=True, project_dir=tmp_path)
    with pytest.raises(TypeError, match="the name that init_trackers was given"):
        open_on_all_ranks(accelerator)
    with pytest.raises(TypeError):
        open_on_all_ranks(accelerator, "run", no_such_option=1)


def test_the_import_without_accelerate_names_the_extra(tmp_path):
    script = """
        sys.modules["accelerate"] = None
        try:
            import advlog_fast.integrations.accelerate
        except ModuleNotFoundError as error:
            print(error)
    """
    done = run_script(script, tmp_path)
    assert "pip install 'advlog-fast[accelerate]'" in done.stdout, done.stderr
