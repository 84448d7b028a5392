"""`advlog demo`: a real training run of which every claim on the screen can be found in the files."""

import re

import pytest
from run_files import batch_lines, error_entries, events_of, json_lines, summary_of

pytest.importorskip("sklearn", reason="the demo's images come with scikit-learn")

BATCHES = 45


@pytest.mark.parametrize("backend", [pytest.param("torch", marks=pytest.mark.torch), "numpy"])
def test_demo_logs_a_training_run_and_shows_it(run_python, tmp_path, backend):
    ended = run_python("-m", "advlog_fast", "demo", "--epochs", "3", "--backend", backend, "--log-dir", "logs")
    assert ended.returncode == 0, ended.stderr
    logs, name = tmp_path / "logs", "digits_demo"

    rows = json_lines(logs / f"{name}_metrics.jsonl")
    assert [(row["epoch"], row["batch"]) for row in rows] == [
        (epoch, batch) for epoch in (1, 2, 3) for batch in range(1, BATCHES + 1)
    ]
    assert len(batch_lines(logs / f"{name}_training.log")) == 3 * BATCHES
    assert sum(row["samples"] for row in rows) == 3 * 1437

    # The damaged batch: one error with its shape, one recovery, and the batch logged all the same.
    ((header, traceback), *_) = error_entries(logs / f"{name}_errors.log")
    assert (header.fields["epoch"], header.fields["batch"]) == ("2", "20")
    assert any("step" in line for line in traceback)
    assert len(events_of(logs, name, "error")) == len(events_of(logs, name, "recovery")) == 1

    summary = summary_of(logs, name)
    assert (summary["status"], summary["total_metrics"], summary["total_errors"]) == ("completed", 135, 1)
    validations = events_of(logs, name, "validation")
    assert len(validations) == 3
    assert len(events_of(logs, name, "milestone")) == 3 * 4 + 4
    assert {row["kind"] for row in json_lines(logs / f"{name}_system.jsonl")} == {"memory", "performance"}

    # It learns: chance is 10 %.
    final = re.search(r"^ +3 +45  \d\.\d{4}  (\d+\.\d)%$", ended.stdout, re.MULTILINE)
    assert final, ended.stdout
    assert float(final[1]) > 70

    for path in logs.iterdir():
        if not path.name.startswith("."):
            assert path.name in ended.stdout


def test_a_second_demo_is_a_second_attempt_and_shows_its_own_epochs(run_python, tmp_path):
    for epochs in ("2", "1"):
        ended = run_python("-m", "advlog_fast", "demo", "--epochs", epochs, "--backend", "numpy")
        assert ended.returncode == 0, ended.stderr
    assert re.findall(r"^ +(\d+) +45  ", ended.stdout, re.MULTILINE) == ["1"]
    attempts = {path.name for path in (tmp_path / "logs" / "digits_demo_metrics.parquet").iterdir()}
    assert attempts == {"attempt-1", "attempt-2"}
