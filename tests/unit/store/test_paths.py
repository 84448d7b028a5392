"""The names of a run's files: made, and taken apart again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advlog_fast.store.paths import RunPaths, checked_name, run_names, safe_name


def touched(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize("name", ["exp", "exp_metrics", "a.b-c_summary", "exp.rank00001"])
@pytest.mark.parametrize("rank", [0, 7, 99_999])
@pytest.mark.parametrize(
    "what", ["metrics_jsonl", "system_jsonl", "events_jsonl", "summary", "metrics_parquet", "system_parquet"]
)
def test_each_file_that_a_reader_needs_tells_its_run(tmp_path, name, rank, what):
    touched(getattr(RunPaths(tmp_path, name, rank), what))
    assert run_names(tmp_path) == [name]


def test_a_run_that_has_only_its_private_folder_is_told_and_foreign_files_are_not(tmp_path):
    RunPaths(tmp_path, "begun").private.mkdir(parents=True)
    for foreign in ("notes.txt", "_metrics.jsonl", "exp_metrics.jsonl.1", "exp_metrics.rank1.jsonl", "exp_main.log"):
        touched(tmp_path / foreign)
    assert run_names(tmp_path) == ["begun"]
    assert run_names(tmp_path / "nowhere") == run_names(tmp_path / "notes.txt") == []


@pytest.mark.parametrize("stream", ["metrics", "system"])
def test_parts_and_spools_are_found_by_attempt_rank_and_number(tmp_path, stream):
    keys = [(1, 0, 1), (1, 7, 2), (12, 99_999, 1_234_567)]
    parts, spools = {}, {}
    for attempt, rank, part in keys:
        paths = RunPaths(tmp_path, "exp", rank)
        parts[attempt, rank, part] = touched(paths.part(stream, attempt, part))
        spools[attempt, rank, part] = touched(paths.spool(stream, attempt, part))
    own = RunPaths(tmp_path, "exp", 3)
    touched(own.dataset(stream) / "attempt=x" / "rank00000-000001.parquet")
    touched(own.dataset(stream) / "attempt-1" / "copy-of-rank00000-000001.parquet")
    touched(own.spools / f"{stream}-attempt1-rank00000-000001.spool.damaged")
    other = "system" if stream == "metrics" else "metrics"
    assert own.parts_of_all_ranks(stream) == parts
    assert own.spools_of_all_ranks(stream) == spools
    assert own.parts_of_all_ranks(other) == own.spools_of_all_ranks(other) == {}


def test_the_lines_of_all_ranks_come_in_their_order(tmp_path):
    made = [touched(RunPaths(tmp_path, "exp", rank).events_jsonl) for rank in (0, 2, 10)]
    touched(RunPaths(tmp_path, "exp2", 1).events_jsonl)
    assert RunPaths(tmp_path, "exp", 2).lines_of_all_ranks("events") == made
    made[0].unlink()
    assert RunPaths(tmp_path, "exp").lines_of_all_ranks("events") == made[1:]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("mnist-2.1_b", "mnist-2.1_b"),
        ("my project", "my_project"),
        ("optimizer.lr=0.1,model=vit", "optimizer.lr_0.1_model_vit"),
        ("../../etc/passwd", "etc_passwd"),
        ("con", "run_con"),
        ("損失", "experiment-42b3be92"),
        ("größe", "gr_e-f35932de"),
        ("", "experiment"),
        ("a" * 99 + ".b", "a" * 99),
        ("con." + "x" * 99, "run_con." + "x" * 92),
    ],
)
def test_any_text_becomes_a_name_that_an_experiment_may_have(text, name):
    assert safe_name(text) == checked_name(name) == name
    assert safe_name(name) == name


@given(st.text())
def test_a_safe_name_is_allowed_and_stays_itself(text):
    name = checked_name(safe_name(text))
    assert safe_name(name) == name


def test_only_a_text_has_a_safe_name():
    with pytest.raises(TypeError, match="text: expected a string, got int 3"):
        safe_name(3)
