"""An export that is killed at a step and started again: nothing is missing in the target, and nothing doubled."""

from __future__ import annotations

import math
import random
import time

import pytest
from integrations.exports import Place, log_values, opened

KINDS = ["csv", "tensorboard", "mlflow", "wandb"]
POINTS = ["export_planned", "export_sent", "export_accepted", "export_saved", "export_closed"]
ONCE = {"export_planned", "export_closed"}


def made(folder):
    """A run of two ranks and two attempts, the second resumed, in several files, with a sparse metric."""
    rng, states = random.Random(7), {}
    for attempt in range(2):
        for rank in range(2):
            with opened(folder, rank=rank, world_size=2, part_rows=100) as log:
                if attempt:
                    log.load_state_dict(states[rank])
                for step in range(200 * attempt, 200 * attempt + 250):
                    values = {"x": rng.gauss(0, 1)}
                    if step % 3 == 0:
                        values["sparse"] = math.nan if step % 21 == 0 else float(step)
                    log.log_metrics(values, step=step)
                    if step % 100 == 0 and rank == 0:
                        log.log_validation(step // 100, {"loss": rng.random()})
                    if step == 199 and not attempt:
                        states[rank] = log.state_dict()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    made(folder / "logs")
    return folder / "logs"


def reference(kind, run, folder, points):
    """What an export that nobody killed sends."""
    place = Place(kind, folder)
    place.folder.mkdir(parents=True)
    assert place.export(run, points) == 0
    return place.values()


def copied(run, folder):
    import shutil

    shutil.copytree(run, folder, symlinks=True)
    shutil.rmtree(folder / ".advlog/run/export", ignore_errors=True)
    return folder


@pytest.mark.filterwarnings("ignore")  # of the targets' own packages
@pytest.mark.parametrize(
    ("kind", "points"),
    [
        *((kind, points) for kind in KINDS[:2] for points in ("usual", "all")),
        *((kind, "usual") for kind in KINDS[2:]),
        *(pytest.param(kind, "all", marks=pytest.mark.stress) for kind in KINDS[2:]),
    ],
)
def test_an_export_killed_at_each_step_and_started_again_misses_and_doubles_nothing(tmp_path, run, kind, points):
    if kind != "csv":
        pytest.importorskip(kind)
    wanted = reference(kind, copied(run, tmp_path / "reference"), tmp_path / "whole", points)
    assert len(wanted) > 300
    logs, place = copied(run, tmp_path / "logs"), Place(kind, tmp_path / "killed")
    place.folder.mkdir()
    killed = 0
    # One export after another, each killed at the next step: what one leaves the next one finds.
    steps = [(point, number) for point in POINTS for number in ((1,) if point in ONCE else (1, 2))]
    for point, number in steps:
        killed += place.export(logs, points, f"{point}:{number}") == -9
        if point == "export_accepted":  # and the next one before it has sent anything
            assert place.export(logs, points, "export_planned:1") == -9
    assert killed >= (3 if kind == "wandb" else 6)
    assert place.export(logs, points) == 0
    assert place.values() == wanted
    assert place.export(logs, points) == 0  # once more: nothing is new
    assert place.values() == wanted


@pytest.mark.filterwarnings("ignore")  # of the targets' own packages
@pytest.mark.parametrize(
    "kind", ["csv", "tensorboard", *(pytest.param(k, marks=pytest.mark.stress) for k in KINDS[2:])]
)
def test_an_export_that_follows_and_is_killed_at_any_moment_misses_and_doubles_nothing(tmp_path, kind):
    if kind != "csv":
        pytest.importorskip(kind)
    place, logs, rng, rows = Place(kind, tmp_path), tmp_path / "logs", random.Random(kind), 0
    place.prepare()
    with opened(logs, part_rows=200) as log:

        def log_for(seconds):
            nonlocal rows
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                log.log_metrics({"x": float(rows)}, step=rows)
                rows += 1
                time.sleep(0.002)

        for _ in range(5):
            exporter = place.begin_following(logs)
            log_for(1.0 + 2.0 * rng.random())
            exporter.kill()
            assert exporter.wait(60) == -9
    exporter = place.begin_following(logs)
    assert exporter.wait(120) == 0
    assert [(each.step, float(each.value)) for each in place.values()] == [(n, float(n)) for n in range(rows)]


@pytest.mark.parametrize("point", ["export_planned:1", "export_sent:1", "export_sent:2", "export_accepted:1"])
def test_what_was_superseded_stays_hidden_when_the_export_is_killed_while_it_hides_it(tmp_path, point):
    pytest.importorskip("tensorboard")
    place, logs = Place("tensorboard", tmp_path), tmp_path / "logs"
    with opened(logs, rank=0) as log:
        for step in range(10):
            log.log_metrics({"x": float(step)}, step=step)
            if step == 5:
                state = log.state_dict()
    assert place.export(logs) == 0
    with opened(logs, part_rows=2) as log:
        log.load_state_dict(state)
        for step in range(6, 12):
            log.log_metrics({"x": 100.0 + step}, step=step)
    assert place.export(logs, failpoint=point) == -9
    assert place.export(logs) == 0
    wanted = [*((step, float(step)) for step in range(6)), *((step, 100.0 + step) for step in range(6, 12))]
    assert [(each.step, float(each.value)) for each in place.values()] == wanted


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_a_record_that_the_kill_tore_is_written_whole(tmp_path, kind):
    if kind != "csv":
        pytest.importorskip(kind)
    log_values(tmp_path / "logs", [float(step) for step in range(100)])
    wanted = reference(kind, copied(tmp_path / "logs", tmp_path / "reference"), tmp_path / "whole", "all")
    place = Place(kind, tmp_path / "torn")
    place.folder.mkdir()
    assert place.export(tmp_path / "logs", "all", "export_accepted:1") == -9
    (file,) = [place.path] if kind == "csv" else place.path.iterdir()
    with file.open("r+b") as torn:
        torn.truncate(file.stat().st_size - 7)
    assert place.export(tmp_path / "logs", "all") == 0
    assert place.values() == wanted
