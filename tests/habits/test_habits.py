"""Programs as people write them, trained for real: each has what its author would look at."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile_runs import until
from run_files import batch_lines, summary_of

from advlog_fast import list_runs, read_jsonl, read_run
from advlog_fast.cli import main

pytestmark = pytest.mark.torch

HERE = Path(__file__).resolve().parent
RunPython = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def train(run_python: RunPython, tmp_path: Path) -> Callable[[str], Path]:
    """Runs a program to its end, warnings being errors; returns its log directory. It says nothing itself, and so
    nothing is said."""

    def run(program: str) -> Path:
        ended = run_python(HERE / program, tmp_path / "logs")
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", ""), ended.stderr
        return tmp_path / "logs"

    return run


def curve(log_dir: Path, name: str, metric: str) -> list[tuple[int, float]]:
    """The steps of a metric, and its value at each."""
    series = read_run(log_dir, name).series(metric)
    return list(zip(series["step"].to_pylist(), series[metric].to_pylist(), strict=True))


def test_a_language_model_by_steps(train: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    logs = train("step_lm.py")
    losses = curve(logs, "lm", "loss")
    assert [step for step, _ in losses] == list(range(200))
    assert losses[-1][1] < losses[0][1] / 2, "it has learned"
    assert [step for step, _ in curve(logs, "lm", "val/loss")] == [49, 99, 149, 199]
    assert curve(logs, "lm", "tokens")[-1] == (199, 25600.0)
    assert summary_of(logs, "lm")["status"] == "completed"
    assert main(["show", str(logs), "lm"]) == 0
    assert "step 199" in capsys.readouterr().out


def test_two_losses_a_batch(train: Callable[[str], Path]) -> None:
    logs = train("gan.py")
    for metric in ("loss_d", "loss_g", "fake_mean"):
        found = curve(logs, "gan", metric)
        assert [step for step, _ in found] == list(range(100)), metric
        assert all(math.isfinite(value) for _, value in found)


def test_episodes_and_none(train: Callable[[str], Path]) -> None:
    logs = train("episodes.py")
    returns = curve(logs, "walk", "episode_return")
    assert 0 < len(returns) < 300, "none before the first episode has ended"
    assert [step for step, _ in returns] == list(range(returns[0][0], 300))
    rows = [row for row in read_jsonl(logs / "walk_metrics.jsonl") if "batch" in row]
    assert [row["batch"] for row in rows] == list(range(300)), "each batch, with a loss or without"
    assert rows[-1]["episode"] >= 5
    assert summary_of(logs, "walk")["misuse"] == {}


def test_epochs_from_0(train: Callable[[str], Path]) -> None:
    logs = train("zero_based.py")
    rows = read_jsonl(logs / "zero_metrics.jsonl")
    assert [(row["epoch"], row["batch"]) for row in rows] == [(e, b) for e in range(3) for b in range(20)]
    assert [row["step"] for row in rows] == list(range(60)), "in order, one by one, from 0"
    summary = summary_of(logs, "zero")
    assert summary["status"] == "completed"
    assert [(epoch["epoch"], epoch["batches"]) for epoch in summary["epochs"]] == [(0, 20), (1, 20), (2, 20)]
    for epoch in summary["epochs"]:
        assert epoch["batches_per_s"] == pytest.approx(20 / epoch["duration_s"], rel=0.01)
    assert len(batch_lines(logs / "zero_training.log")) == 60


def test_every_tenth_batch_killed_and_resumed(
    tmp_path: Path, run_python: RunPython, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = tmp_path / "logs"
    assert run_python(HERE / "every_tenth.py", logs, "kill").returncode == -9
    assert main(["recover", str(logs)]) == 0
    assert summary_of(logs, "tenth")["status"] == "killed"
    assert summary_of(logs, "tenth")["best"]["epoch"] == 1
    ended = run_python(HERE / "every_tenth.py", logs)
    assert ended.returncode == 0, ended.stderr
    # Epoch 2 began again: what the killed attempt logged of it is superseded.
    assert [step for step, _ in curve(logs, "tenth", "loss")] == list(range(0, 200, 10))
    assert [step for step, _ in curve(logs, "tenth", "val/mse")] == [40, 90, 140, 190]
    summary = summary_of(logs, "tenth")
    assert (summary["attempt"], summary["status"], summary["resumed_from"]["step"]) == (2, "completed", 90)
    assert (summary["best"]["metric"], summary["best"]["epoch"]) == ("val/mse", 2)
    for epoch in summary["epochs"]:
        assert epoch["batches"] == 50
        assert epoch["samples_per_s"] == pytest.approx(50 * 32 / epoch["duration_s"], rel=0.01)
    capsys.readouterr()
    assert main(["show", str(logs)]) == 0
    shown = capsys.readouterr().out
    assert "attempt 1, step 90" in shown
    assert "best validation: val/mse" in shown
    assert " samples/s" in shown
    assert "last validation at epoch 3, step 190" in shown
    assert main(["ls", str(logs)]) == 0
    assert "completed" in (line := capsys.readouterr().out.splitlines()[1])
    assert " 20 " in line, "the records of the lineage"


def test_accumulation_and_evaluation_at_the_same_step(train: Callable[[str], Path]) -> None:
    logs = train("accumulation.py")
    assert [step for step, _ in curve(logs, "accumulated", "loss")] == list(range(1, 21))
    assert [step for step, _ in curve(logs, "accumulated", "gradient_norm")] == list(range(1, 21))
    assert [step for step, _ in curve(logs, "accumulated", "eval/mse")] == [5, 10, 15, 20]


def test_rank_0_alone_under_torchrun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*command, HERE / "rank_zero.py", tmp_path], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert ended.returncode == 0, ended.stderr
    assert [step for step, _ in curve(tmp_path, "main", "loss")] == list(range(1, 21))
    assert main(["show", str(tmp_path), "main"]) == 0
    shown = capsys.readouterr().out
    assert "never came" not in shown
    assert "of 2" not in shown


def test_a_callback_that_passes_on_all_it_gets(train: Callable[[str], Path]) -> None:
    logs = train("callback.py")
    for metric in ("loss", "learning_rate", "norms/weight", "norms/bias", "epoch_progress"):
        assert [step for step, _ in curve(logs, "called_back", metric)] == list(range(1, 31)), metric
    rows = read_jsonl(logs / "called_back_metrics.jsonl")
    assert [row["epoch"] for row in rows if "epoch" in row] == [1, 2, 3], "where an epoch is whole"
    assert summary_of(logs, "called_back")["misuse"] == {"phase": {"count": 30, "first_step": 1, "kind": "type"}}
    assert "'train'" in (logs / "called_back_main.log").read_text()


def test_sixteen_metrics_a_step_and_two_thousand(train: Callable[[str], Path]) -> None:
    logs = train("many_metrics.py")
    run = read_run(logs, "many")
    for metric in ("loss/0", "loss/1", "gradient/0", "gradient/13"):
        assert [step for step, _ in curve(logs, "many", metric)] == list(range(40)), metric
    for metric in ("weight/0000", "weight/1023", "weight/1999"):
        assert [step for step, _ in curve(logs, "many", metric)] == [0, 10, 20, 30], metric
    assert run.summary["metric_names"] == 2016
    assert main(["verify", str(logs)]) == 0


def test_twenty_runs_in_one_process(train: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    logs = train("sweep.py")
    runs = {run["name"]: run["status"] for run in list_runs(logs).to_pylist()}
    assert runs == {f"trial{i:02d}": "failed" if i == 13 else "completed" for i in range(20)}
    for i in range(20):
        assert len(curve(logs, f"trial{i:02d}", "loss")) == (10 if i == 13 else 15)
    assert main(["ls", str(logs)]) == 0
    assert capsys.readouterr().out.count("completed") == 19


def test_a_daemon(train: Callable[[str], Path]) -> None:
    logs = train("daemon.py")
    summary = logs / "daemon_summary.json"
    until(lambda: summary.exists() and summary_of(logs, "daemon")["status"] == "completed")
    assert [step for step, _ in curve(logs, "daemon", "loss")] == list(range(1, 31))


NOTEBOOK = [
    """
    import torch
    from advlog_fast import AdvancedLogger
    log = AdvancedLogger("logs", "cells")
    log.start_training({"lr": 0.1})
    """,
    """
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 21):
        x = torch.randn(16, 4)
        loss = torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad(); loss.backward(); optimizer.step()
        log.log_batch_progress(1, step, 20, loss)
    log.end_epoch(1, {"loss": loss})
    """,
    """
    log.flush()
    log
    """,
    """
    log.end_training()
    """,
]


def test_a_notebook(tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    import textwrap

    cells = [nbformat.v4.new_code_cell(textwrap.dedent(source)) for source in NOTEBOOK]
    notebook = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    written = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "attempt 1, logs in" in written
    assert "completed" in written
    assert "\x1b" not in written, "no bar, whose frames a notebook would keep"
    assert [step for step, _ in curve(tmp_path / "logs", "cells", "loss")] == list(range(1, 21))
    assert summary_of(tmp_path / "logs", "cells")["status"] == "completed"


PYTEST = """
import torch
from advlog_fast import AdvancedLogger, read_run

def test_training(tmp_path):
    with AdvancedLogger(tmp_path, "tested") as log:
        log.start_training()
        weight = torch.zeros(4, 1, requires_grad=True)
        for step in range(1, 11):
            x = torch.randn(16, 4)
            loss = ((x @ weight - x.sum(1, keepdim=True)) ** 2).mean()
            (slope,) = torch.autograd.grad(loss, weight)
            with torch.no_grad():
                weight -= 0.1 * slope
            log.log_batch_progress(1, step, 10, loss)
        log.logger.warning("said %s", "once")
    assert read_run(tmp_path, "tested").metrics.num_rows == 10

def test_output_is_captured(tmp_path, capsys, caplog):
    with AdvancedLogger(tmp_path, "tested") as log:
        log.start_training()
    assert "attempt 1, logs in" in capsys.readouterr().err

def test_a_failure_shows_it(tmp_path):
    with AdvancedLogger(tmp_path, "tested") as log:
        log.start_training()
        assert False
"""


@pytest.mark.parametrize("capture", ["fd", "sys", "no"])
def test_within_pytest(run_python: RunPython, tmp_path: Path, capture: str) -> None:
    (tmp_path / "test_trained.py").write_text(PYTEST)
    ended = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", f"--capture={capture}", "test_trained.py")
    assert "1 failed, 2 passed" in ended.stdout, ended.stdout
    assert "I/O operation on closed file" not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
