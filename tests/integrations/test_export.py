"""`advlog export`: what each target holds is what was logged."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from integrations.exports import HEAVY, Place, log_values, opened

from advlog_fast import RunBusyError
from advlog_fast.cli import main
from advlog_fast.export import ExportError, export, parse_target
from advlog_fast.export.cursor import CursorFile
from advlog_fast.export.to_mlflow import metric_name
from advlog_fast.store.paths import RunPaths

TARGETS = ["csv", "tensorboard", "mlflow", "wandb"]
foreign_warnings = pytest.mark.filterwarnings("ignore")  # of the targets' own packages


def place_of(kind, folder):
    if kind != "csv":
        pytest.importorskip(kind)
    return Place(kind, folder)


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def test_a_script_of_tensorboard_is_shown_by_tensorboard_as_it_logged(tmp_path):
    """In `add_scalar`'s own terms: tag, step, value as float32, time; steps that go back too."""
    place = place_of("tensorboard", tmp_path)
    written = []
    with opened(tmp_path / "logs") as log:
        for step in [*range(50), *range(20, 60), 7, 10**12, 0]:
            loss, accuracy = random.gauss(0, 1), random.random()
            log.log_metrics({"train/loss": loss, "Accuracy über alles": accuracy}, step=step)
            written += [("train/loss", step, float32(loss)), ("Accuracy über alles", step, float32(accuracy))]
            if step % 10 == 0:
                log.log_metrics({"lr": math.nan if step == 20 else 10.0**-step}, step=step)
                written.append(("lr", step, math.nan if step == 20 else float32(10.0 ** -min(step, 400))))
    assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to, "--points", "all"]) == 0
    found = place.values()
    assert sorted((each.name, each.step, each.value) for each in found) == sorted(
        (name, step, repr(value)) for name, step, value in written
    )
    logged = Place("csv", tmp_path)
    assert main(["export", str(tmp_path / "logs"), "run", "--to", logged.to]) == 0
    assert [each[:3] for each in logged.values()] == [each[:3] for each in found]


@foreign_warnings
@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("rows", [300_000, pytest.param(10_000_000, marks=pytest.mark.stress)])
def test_one_spike_among_all_rows_and_the_first_nan_reach_every_target(tmp_path, kind, rows):
    place = place_of(kind, tmp_path)
    spike, nan = rows * 2 // 3, rows // 2
    with opened(tmp_path / "logs") as log:
        for step in range(rows):
            value = 1e6 if step == spike else math.nan if step == nan else math.sin(step * 0.7)
            log.log_metrics({"x": value, "constant": 1.0}, step=step)
    assert place.export(tmp_path / "logs", points="usual") == 0
    found = place.values()
    assert [each.step for each in found if each.value == "1000000.0"] == [spike]
    assert [each.step for each in found if each.value == "nan"] == [nan]
    if kind != "csv":
        most = {"tensorboard": 900}.get(kind, 2000)
        assert most / 2 < sum(each.name == "x" for each in found) <= most + 10
        assert sum(each.name == "constant" for each in found) <= most + 10


@foreign_warnings
@pytest.mark.parametrize("kind", TARGETS)
def test_a_record_of_thousands_of_values_comes_whole(tmp_path, kind):
    place = place_of(kind, tmp_path)
    with opened(tmp_path / "logs") as log:
        for step in range(5):
            log.log_metrics({f"norm/{at}": float(at) for at in range(900)}, step=step)
    assert place.export(tmp_path / "logs") == 0
    assert sorted((each.name, each.step) for each in place.values()) == sorted(
        (f"norm/{at}", step) for at in range(900) for step in range(5)
    )


@pytest.mark.parametrize("points", ["usual", "all"])
def test_rows_come_within_two_seconds_and_the_end_of_the_run_ends_the_export(tmp_path, points):
    log, lags, place = opened(tmp_path / "logs"), [], Place("csv", tmp_path)
    log.log_metrics({"x": 0.0}, step=0)
    log.flush()
    thread = threading.Thread(
        target=export,
        args=(tmp_path / "logs", "run", parse_target(place.to)),
        kwargs={"follow_run": True, "points": "all" if points == "all" else 900},
    )
    thread.start()
    seen = 0
    for step in range(1, 300):
        if step < 200:
            log.log_metrics({"x": float(step)}, step=step)
        elif step == 200:
            log.close()
        time.sleep(0.02)
        lines = place.path.read_text().splitlines()[1:] if place.path.exists() else []
        now = time.time()
        lags += [now - int(line.split(",")[4]) / 1e6 for line in lines[seen:] if line.count(",") == 6]
        seen = len(lines)
    thread.join(60)
    assert not thread.is_alive()
    assert statistics.median(lags[1:]) < 2
    assert [value.step for value in place.values()] == list(range(200))


def test_an_interrupt_keeps_the_cursor_and_has_status_130(tmp_path):
    place = Place("csv", tmp_path)
    with opened(tmp_path / "logs") as log:
        log.log_metrics({"x": 1.0}, step=1)
        log.flush()
        command = [sys.executable, "-m", "advlog_fast", "export", str(tmp_path / "logs"), "run", "--follow"]
        exporter = subprocess.Popen([*command, "--to", place.to], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while not place.path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        exporter.send_signal(signal.SIGINT)
        out, err = exporter.communicate(timeout=60)
        assert (exporter.returncode, err) == (130, b""), out
        log.log_metrics({"x": 2.0}, step=2)
    assert main([*command[3:-1], "--to", place.to]) == 0
    assert [value.step for value in place.values()] == [1, 2]


def test_ranks_are_told_apart_by_their_names_or_by_their_runs(tmp_path):
    place = place_of("tensorboard", tmp_path)
    for rank in range(2):
        log_values(tmp_path / "logs", [float(rank)] * 3, rank=rank, world_size=2)
    assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to]) == 0
    assert {(value.name, value.value) for value in place.values()} == {("x", "0.0"), ("rank1/x", "1.0")}
    place.path = tmp_path / "each"
    assert main(["export", str(tmp_path / "logs"), "run", "--to", f"tensorboard:{place.path}", "--ranks", "each"]) == 0
    assert sorted(os.listdir(place.path)) == ["rank0", "rank1"]
    place.path = place.path / "rank1"
    assert {(value.name, value.value) for value in place.values()} == {("x", "1.0")}


@pytest.mark.parametrize("is_live", [False, True])
def test_a_resumed_attempt_supersedes_what_tensorboard_was_sent(tmp_path, is_live):
    place = place_of("tensorboard", tmp_path)
    command = ["export", str(tmp_path / "logs"), "run", "--to", place.to]
    with opened(tmp_path / "logs") as log:
        for step in range(10):
            log.log_metrics({"x": float(step)}, step=step)
            if step == 5:
                state = log.state_dict()
    if is_live:
        assert main(command) == 0
        assert [value.step for value in place.values()] == list(range(10))
    with opened(tmp_path / "logs") as log:
        log.load_state_dict(state)
        for step in range(6, 8):
            log.log_metrics({"x": 100.0 + step}, step=step)
    assert main(command) == 0
    assert [(each.step, float(each.value)) for each in place.values()] == [
        *((step, float(step)) for step in range(6)),
        (6, 106.0),
        (7, 107.0),
    ]


@foreign_warnings
@pytest.mark.parametrize("kind", TARGETS)
def test_validations_and_settings_come_beside_the_rows(tmp_path, kind):
    place = place_of(kind, tmp_path)
    with opened(tmp_path / "logs") as log:
        log.start_training({"optimizer": {"lr": 0.5}})
        for step in range(1, 4):
            log.log_metrics({"x": 1.0}, step=step)
            log.log_validation(step, {"loss": step / 4}, name="held out" if step == 3 else None)
            log.flush()
            assert place.export(tmp_path / "logs") == 0
    assert place.export(tmp_path / "logs") == 0
    found = [(each.name, float(each.value)) for each in place.values() if each.name.startswith("val/")]
    assert found == [("val/held out/loss", 0.75), ("val/loss", 0.25), ("val/loss", 0.5)]
    if kind == "mlflow":
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=f"sqlite:///{place.path}")
        (run,) = client.search_runs([client.get_experiment_by_name("advlog").experiment_id])
        assert run.data.params["optimizer.lr"] == "0.5"
        assert run.info.status == "FINISHED"


def test_an_attempt_that_goes_on_from_none_is_a_run_of_its_own(tmp_path):
    place = place_of("tensorboard", tmp_path)
    for value in (1.0, 2.0):
        log_values(tmp_path / "logs", [value] * 3)
    assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to]) == 0
    assert {value.value for value in place.values()} == {"1.0"}
    place.path = place.path / "attempt2"
    assert {value.value for value in place.values()} == {"2.0"}


def test_what_was_removed_from_the_target_is_sent_anew(tmp_path):
    place = Place("csv", tmp_path)
    log_values(tmp_path / "logs", [1.0, 2.0])
    command = ["export", str(tmp_path / "logs"), "run", "--to", place.to]
    assert main(command) == 0
    first = place.values()
    place.path.unlink()
    assert main(command) == 0
    assert place.values() == first


def test_a_file_that_is_not_the_exports_stays_as_it_is(tmp_path, capsys):
    log_values(tmp_path / "logs", [1.0])
    place = Place("csv", tmp_path)
    place.path.write_text("the user's own")
    for _ in range(2):
        assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to]) == 1
        assert "move it away" in capsys.readouterr().err
        assert place.path.read_text() == "the user's own"


HOSTILE = ["../../out", "/etc/x", "..", "a/../../b", "rank0/x", "rank7/../x", "x\ny", 'q"{}', "é\u202e", "a,b", "=1+1"]


@foreign_warnings
@pytest.mark.parametrize("kind", TARGETS)
def test_a_hostile_name_cannot_leave_its_place(tmp_path, kind):
    """Names are data: no path is made of them."""
    place = place_of(kind, tmp_path / "inside")
    place.folder.mkdir()
    with opened(tmp_path / "logs") as log:
        log.log_metrics(dict.fromkeys(HOSTILE, 1.0), step=1)
    before = everything(tmp_path)
    assert place.export(tmp_path / "logs") == 0
    private = tmp_path / "logs/.advlog/run/export"
    new = everything(tmp_path) - before
    assert all(path.is_relative_to(place.folder) or path.is_relative_to(private) for path in new), new
    found = {value.name for value in place.values()}
    assert len(found) == len(HOSTILE)
    if kind != "mlflow":
        assert found == {"rank0/rank0/x" if n == "rank0/x" else f"rank0/{n}" if "rank7" in n else n for n in HOSTILE}


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.suffix != ".db"}


def test_a_cursor_that_somebody_wrote_leads_nowhere_else(tmp_path):
    log_values(tmp_path / "logs", [1.0])
    place, victim = Place("csv", tmp_path), tmp_path / "points.victim.csv"
    victim.write_bytes(b"attempt,rank,seq,step,timestamp_us,metric,value\nmine\n")
    command = ["export", str(tmp_path / "logs"), "run", "--to", place.to]
    assert main(command) == 0
    (cursor,) = (tmp_path / "logs/.advlog/run/export").glob("*.json")
    state = json.loads(cursor.read_text())
    for suffix in ("victim", "../victim", "/etc/passwd"):
        cursor.write_text(json.dumps({**state, "memory": {"lengths": {suffix: 0}}}))
        place.path.unlink(missing_ok=True)
        assert main(command) == 0
        assert victim.read_bytes().endswith(b"mine\n")
    wrong = [("cursor", {"seqs": {"x": 1}}), ("memory", {"lengths": [1]}), ("memory", {}), ("validations", [[1]])]
    edited = [json.dumps({**state, name: value}) for name, value in wrong]
    for spoilt in (
        *edited,
        "",
        "[]",
        '{"version": 1}',
        '{"version": 1, "run_id": 3}',
        json.dumps({**state, "buckets": [[1]]}),
    ):
        cursor.write_text(spoilt)
        place.path.unlink(missing_ok=True)
        assert main(command) == 0
        assert len(place.values()) == 1


def test_a_copy_without_its_private_folder_is_exported_and_stays_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    log_values(tmp_path / "logs", [1.0, 2.0])
    shutil.rmtree(tmp_path / "logs/.advlog")
    place, before = Place("csv", tmp_path), everything(tmp_path / "logs")
    for _ in range(2):
        assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to, "--follow"]) == 0
        assert [value.step for value in place.values()] == [0, 1]
    assert everything(tmp_path / "logs") == before


def test_an_export_leaves_the_run_to_the_other_commands(tmp_path):
    log_values(tmp_path / "logs", [1.0, 2.0])
    place = Place("csv", tmp_path)
    for command in (["verify"], ["compact"], ["recover"]):
        assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to]) == 0
        assert main([*command, str(tmp_path / "logs")]) == 0
    log_values(tmp_path / "logs", [3.0])
    assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to]) == 0
    assert [value.value for value in place.values()] == ["1.0", "2.0"]
    assert (tmp_path / "points.attempt2.csv").read_text().endswith("x,3.0\n")


def test_other_numbers_of_points_go_on_where_the_export_was(tmp_path):
    place = Place("csv", tmp_path)
    with opened(tmp_path / "logs") as log:
        for step in range(1000):
            log.log_metrics({"x": math.sin(step)}, step=step)
        log.flush()
        stopped = export(
            tmp_path / "logs", "run", parse_target(place.to), points=20, follow_run=True, stop=lambda: True
        )
        assert stopped.stopped
        sent = len(place.values())
        assert 4 <= sent <= 20
        for step in range(1000, 1010):
            log.log_metrics({"x": math.sin(step)}, step=step)
    assert export(tmp_path / "logs", "run", parse_target(place.to), points="all").rows == 10
    found = [value.step for value in place.values()]
    assert found[-11:] == list(range(999, 1010)), "the end of the open bucket, and every row since"
    assert len(set(found)) == len(found)


def test_events_of_two_runs_do_not_meet_in_one_folder(tmp_path, capsys):
    place = place_of("tensorboard", tmp_path)
    for name in ("a", "b"):
        log_values(tmp_path / name, [1.0])
    assert main(["export", str(tmp_path / "a"), "run", "--to", place.to]) == 0
    for _ in range(2):
        assert main(["export", str(tmp_path / "b"), "run", "--to", place.to]) == 1
        assert "choose another folder" in capsys.readouterr().err


@foreign_warnings
def test_what_fails_in_the_target_is_one_line(tmp_path, capsys):
    pytest.importorskip("mlflow")
    log_values(tmp_path, [1.0])
    assert main(["export", str(tmp_path), "run", "--to", "mlflow:nosuch://x"]) == 1
    assert capsys.readouterr().err.startswith("advlog export: mlflow: ")


def test_one_process_at_a_time_exports_to_a_target(tmp_path):
    log_values(tmp_path / "logs", [1.0])
    destination = parse_target(Place("csv", tmp_path).to)
    held = CursorFile(RunPaths(tmp_path / "logs", "run"), destination.key("merged"))
    with pytest.raises(RunBusyError, match="is exported to this target by pid"):
        export(tmp_path / "logs", "run", destination)
    held.close()
    assert export(tmp_path / "logs", "run", destination).values == 1


def test_nothing_heavy_is_imported_for_the_package_or_its_help(run_python):
    code = f"""
import contextlib, io, sys
import advlog_fast
from advlog_fast.cli import main
for arguments in (["--help"], ["export", "--help"]):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        main(arguments)
print([name for name in {HEAVY!r} if name in sys.modules])
"""
    ended = run_python("-c", code)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_package_is_a_sentence_that_names_the_extra(tmp_path, kind, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == kind else find(name, *rest))
    log_values(tmp_path, [1.0])
    assert main(["export", str(tmp_path), "run", "--to", f"{kind}:x"]) == 1
    said = capsys.readouterr().err
    assert said == f"advlog export: {kind} needs the package {kind}: pip install 'advlog-fast[{kind}]'\n"
    assert not (tmp_path / ".advlog/run/export").exists()


@pytest.mark.parametrize("to", ["", "csv", "csv:", "file:x", "tensorboard", "csv:a\0b"])
def test_a_target_that_is_none_is_named(tmp_path, to, capsys):
    log_values(tmp_path, [1.0])
    assert main(["export", str(tmp_path), "run", "--to", to]) == 1
    assert "--to: expected one of tensorboard:PATH" in capsys.readouterr().err


def test_an_unknown_run_has_status_2(tmp_path, capsys):
    log_values(tmp_path, [1.0])
    assert main(["export", str(tmp_path), "other", "--to", "csv:x"]) == 2
    assert "its runs are run" in capsys.readouterr().err


def test_prometheus_reads_the_text_file(tmp_path):
    parser = pytest.importorskip("prometheus_client.parser")
    log_values(tmp_path / "logs", [3.0, -1.0, math.nan, 7.0, math.inf, 2.0], 'a"\\\nb')
    command = ["export", str(tmp_path / "logs"), "run", "--to", f"prometheus:{tmp_path / 'run.prom'}"]
    for _ in range(2):  # a second one adds nothing
        assert main(command) == 0
        text = (tmp_path / "run.prom").read_text()
        families = list(parser.text_string_to_metric_families(text))
        values = {sample.name: sample.value for family in families for sample in family.samples}
        (labels,) = {tuple(s.labels.items()) for f in families for s in f.samples if "metric" in s.labels}
        assert labels == (("run", "run"), ("rank", "0"), ("metric", 'a"\\\nb'))
        names = ("last", "min", "max", "values_total", "nonfinite_total")
        assert [values[f"advlog_metric_{name}"] for name in names] == [2.0, -1.0, 7.0, 6.0, 2.0]
        assert values["advlog_rows_total"] == 6
        assert values["advlog_dropped_total"] == 0
        assert values["advlog_lag_seconds"] >= 0


def test_what_float32_cannot_hold_is_said_once(tmp_path, capfd):
    place = place_of("tensorboard", tmp_path)
    log_values(tmp_path / "logs", [1e300, -1e300, 3.4e38, math.inf, math.nan])
    assert main(["export", str(tmp_path / "logs"), "run", "--to", place.to]) == 0
    by_step = [value.value for value in sorted(place.values(), key=lambda each: each.step)]
    assert by_step == ["inf", "-inf", repr(float32(3.4e38)), "inf", "nan"]
    assert capfd.readouterr().err.count("float32") == 1


def test_metric_names_that_mlflow_refuses_become_others_each_its_own():
    names = ["a[b]", "a(b)", "a{b}", "a//b", "a/./b", "/a/b", "x" * 251, "x" * 252, "..", "", "a\nb"]
    mapped = [metric_name(name) for name in names]
    assert len(set(mapped)) == len(names)
    assert max(map(len, mapped)) <= 250
    assert [metric_name(name) for name in ("loss", "val/f1 top-5", "rank1/x", "x" * 250)] == [
        "loss",
        "val/f1 top-5",
        "rank1/x",
        "x" * 250,
    ]
    validation = pytest.importorskip("mlflow.utils.validation")
    for name in mapped:
        validation._validate_metric_name(name)


@pytest.mark.parametrize(("points", "ranks"), [(3, "merged"), ("none", "merged"), (100, "some")])
def test_arguments_that_are_none_raise(tmp_path, points, ranks):
    log_values(tmp_path, [1.0])
    with pytest.raises(ValueError, match="expected"):
        export(tmp_path, "run", parse_target("csv:x"), points=points, ranks=ranks)
    assert issubclass(ExportError, Exception)
