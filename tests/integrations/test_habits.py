"""What programs that log elsewhere already do: TensorBoard's writer, and `init`, `log`, `finish`."""

from __future__ import annotations

import argparse
import json
import math
import pickle
import sys
import threading

import pytest

from advlog_fast import read_jsonl, read_run
from advlog_fast.integrations import wandb_style
from advlog_fast.integrations.tensorboard import SummaryWriter


def rows(folder, name="run"):
    return read_run(folder, name).metrics.to_pylist()


def summary_of(folder, name="run"):
    return json.loads((folder / f"{name}_summary.json").read_text())


def test_every_scalar_and_step_of_a_writer_is_a_record_also_where_steps_go_back(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        for step in (1, 2, 3, 2, 3, 4):
            writer.add_scalar("Loss/train", step / 8, step)
        writer.add_scalar("nan", float("nan"), global_step=5)
        writer.add_scalar("no/step", 1)
        writer.add_scalars("both", {"one": 1, "two": 2.5}, 7)
        writer.add_scalar("rank", 3, 8)
        writer.add_scalar("x" * 300, 4, 9)
        writer.add_text("note", "some text", 3)
        writer.add_hparams({"lr": 0.1}, {"hparam/accuracy": 0.5})
    found = rows(tmp_path)
    assert [(row["step"], row["Loss/train"]) for row in found if row["Loss/train"] is not None] == [
        (1, 0.125), (2, 0.25), (3, 0.375), (2, 0.25), (3, 0.375), (4, 0.5),
    ]  # fmt: skip
    assert math.isnan(found[6]["nan"])
    assert found[7]["no/step"] == 1.0
    assert (found[8]["both/one"], found[8]["both/two"], found[8]["step"]) == (1.0, 2.5, 7)
    assert (found[9]["metric/rank"], found[10]["x" * 255], found[11]["hparam/accuracy"]) == (3.0, 4.0, 0.5)
    (text,) = [event for event in read_jsonl(tmp_path / "run_events.jsonl") if event["event"] == "text"]
    assert (text["tag"], text["text"]) == ("note", "some text")
    assert summary_of(tmp_path)["hyperparameters"] == {"lr": 0.1}


def test_a_record_has_the_time_that_the_writer_was_given(tmp_path):
    with SummaryWriter(tmp_path) as writer:
        writer.add_scalar("loss", 0.5, 1, walltime=1_700_000_000.25)
        writer.add_scalar("loss", 0.25, 2, 1_700_000_001)
    assert [row["timestamp"].timestamp() for row in rows(tmp_path)] == [1_700_000_000.25, 1_700_000_001.0]
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_images_are_left_out_with_one_warning_a_kind_or_go_to_another_writer(tmp_path):
    class Other:
        def __init__(self):
            self.calls = []

        def __getattr__(self, name):
            return lambda *args, **kwargs: self.calls.append(name)

    with SummaryWriter(tmp_path / "one") as writer:
        with pytest.warns(RuntimeWarning, match="add_image"):
            writer.add_image("i", None)
        writer.add_image("i", None)
        with pytest.warns(RuntimeWarning, match="add_histogram"):
            writer.add_histogram("h", None, 1)
        with pytest.raises(AttributeError):
            writer.add_no_such_thing("x")
    other = Other()
    with SummaryWriter(tmp_path / "two", also=other) as writer:
        writer.add_scalar("loss", 0.5, 1)
        writer.add_image("i", None)
    assert other.calls == ["add_scalar", "add_image", "close"]
    assert [row["loss"] for row in rows(tmp_path / "two")] == [0.5]


def test_values_that_are_no_numbers_end_no_program(tmp_path):
    with SummaryWriter(tmp_path, on_misuse="warn") as writer:
        writer.add_scalar("a", "text", 1)
        writer.add_scalar("a", [1, 2], 2)
        writer.add_scalar("a", None, 3)
        writer.add_scalar("a", 1.5, "4")
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [(4, 1.5)]


def test_commit_false_merges_into_one_record_and_steps_may_go_back(tmp_path):
    run = wandb_style.init("digits", config={"lr": 0.1}, dir=tmp_path)
    wandb_style.log({"loss": 0.5}, commit=False)
    wandb_style.log({"accuracy": 0.25})
    wandb_style.log({"loss": 0.25})
    wandb_style.log({"loss": 1.0, "table": {"a": 1}, "note": "text"}, step=10)
    wandb_style.log({"loss": 2.0}, step=3)
    run.config["momentum"] = 0.9
    run.config.nesterov = True
    run.summary["best"] = 0.25
    wandb_style.finish()
    found = rows(tmp_path, "digits")
    assert [(row["step"], row["loss"], row["accuracy"]) for row in found] == [
        (0, 0.5, 0.25), (1, 0.25, None), (10, 1.0, None), (3, 2.0, None),
    ]  # fmt: skip
    assert found[2]["table/a"] == 1.0
    summary = summary_of(tmp_path, "digits")
    assert (summary["status"], summary["config"]) == ("completed", {"lr": 0.1})
    assert summary["hyperparameters"] == {"momentum": 0.9, "nesterov": True}
    assert summary["final_metrics"] == {"best": 0.25}
    assert wandb_style.run is None


def test_an_exit_code_is_a_failure_and_a_name_makes_the_project_a_group(tmp_path):
    with (
        pytest.raises(ValueError, match="broken"),
        wandb_style.init("project", "one", dir=tmp_path, entity="me") as run,
    ):
        run.log({"loss": 0.5})
        raise ValueError("broken")
    wandb_style.run = None
    summary = summary_of(tmp_path, "one")
    assert (summary["status"], summary["group"], summary["total_errors"]) == ("failed", "project", 1)
    wandb_style.init("project", "two", dir=tmp_path)
    wandb_style.finish(exit_code=1)
    assert summary_of(tmp_path, "two")["status"] == "failed"


def test_log_before_init_says_so():
    with pytest.raises(RuntimeError, match=r"expected init\(\)"):
        wandb_style.log({"loss": 0.5})


def test_a_writer_goes_on_after_close_and_so_does_a_copy(tmp_path):
    writer = SummaryWriter(tmp_path)
    writer.add_scalar("a", 1.0, 1)
    writer.close()
    writer.add_scalar("a", 2.0, 2)
    writer.close()
    copied = pickle.loads(pickle.dumps(writer))
    copied.add_scalar("a", 3.0, -3)
    copied.close()
    assert [(row["step"], row["a"]) for row in rows(tmp_path)] == [(1, 1.0), (2, 2.0), (-3, 3.0)]


def test_threads_lose_and_double_nothing(tmp_path):
    wandb_style.init("threads", dir=tmp_path)

    def log(of):
        for number in range(500):
            wandb_style.log({"value": of * 1000 + number})

    threads = [threading.Thread(target=log, args=(of,)) for of in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        wandb_style.finish()
    found = rows(tmp_path, "threads")
    assert [row["step"] for row in found] == list(range(2000))
    assert sorted(row["value"] for row in found) == [float(of * 1000 + at) for of in range(4) for at in range(500)]


def test_what_programs_pass_to_init_is_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = wandb_style.init(config=argparse.Namespace(lr=0.1), tags=None, dir=None, project=None)
    run.config.update({"lr": 0.2}, allow_val_change=True)
    run.log({"epoch": 3})
    assert pickle.loads(pickle.dumps(run.config)) == {"lr": 0.2}
    run.finish()
    assert wandb_style.run is None
    assert [row["metric/epoch"] for row in rows(tmp_path / "logs", "experiment")] == [3.0]


def test_the_module_has_the_config_and_what_it_does_not_keep_is_said_once_and_raises_nothing(tmp_path):
    with pytest.raises(AttributeError, match=r"config: expected init\(\)"):
        wandb_style.config  # noqa: B018
    run = wandb_style.init("digits", config={"lr": 0.1}, dir=tmp_path)
    assert wandb_style.config.lr == 0.1
    wandb_style.summary["best"] = 0.25
    wandb_style._told.clear()
    with pytest.warns(RuntimeWarning) as told:
        for _ in range(2):
            wandb_style.watch(object())
            run.define_metric("loss", summary="min")
            wandb_style.log({"loss": 0.5, "picture": wandb_style.Image(b"")})
    assert [str(each.message).split(":")[1] for each in told] == [
        " wandb.watch does nothing", " wandb.define_metric does nothing", " wandb.Image does nothing",
    ]  # fmt: skip
    assert {each.filename for each in told} == {__file__}
    with pytest.raises(AttributeError, match="it has init, log, finish, config and summary"):
        wandb_style.sweep  # noqa: B018
    with pytest.raises(AttributeError, match="sweep"):
        run.sweep  # noqa: B018
    wandb_style.finish()
    assert [row["loss"] for row in rows(tmp_path, "digits")] == [0.5, 0.5]
    assert summary_of(tmp_path, "digits")["final_metrics"] == {"best": 0.25}
