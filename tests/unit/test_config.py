"""The options: each is documented where `help()` shows it, and nowhere else."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pydoc
import re
from pathlib import Path

import pytest

import advlog_fast
from advlog_fast import AdvancedLogger, LoggerConfig, list_runs, read_jsonl, read_run
from advlog_fast import config as config_module
from advlog_fast.cli import main

OPTIONS = [field.name for field in dataclasses.fields(LoggerConfig)]
HELP = pydoc.plain(pydoc.render_doc(LoggerConfig))


@pytest.mark.parametrize("option", OPTIONS)
def test_help_says_of_each_option_what_it_does_in_a_sentence_and_its_default(option: str):
    described = re.search(rf":param {option}: (.*?)\n(?: \|)? +:", HELP, re.DOTALL)
    assert described is not None
    assert len(described[1].split()) >= 8
    default = inspect.signature(AdvancedLogger).parameters[option].default
    assert re.search(rf"\b{option}: [^=]* = ", HELP), f"help() shows no default of {option}, {default!r}"


def test_options_are_described_in_one_place_and_none_that_does_not_exist():
    assert re.findall(r":param (\w+):", inspect.getdoc(LoggerConfig) or "") == OPTIONS
    tree = ast.parse(inspect.getsource(config_module))
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LoggerConfig")
    strings = [node for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
    assert len(strings) == 1, "a string below a field is invisible to help()"


def test_the_loggers_help_says_where_the_options_are_documented():
    assert "help(advlog_fast.LoggerConfig)" in pydoc.plain(pydoc.render_doc(advlog_fast.AdvancedLogger))


def test_the_logger_and_its_options_have_the_same_names_and_defaults():
    parameters = dict(inspect.signature(AdvancedLogger).parameters)
    assert list(parameters) == OPTIONS
    given = {name: parameter.default for name, parameter in parameters.items()}
    assert LoggerConfig(**given) == LoggerConfig()


def test_a_tilde_is_the_home_for_the_logger_and_for_every_reader(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with AdvancedLogger("~/logs", "run", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert log.paths["summary"] == tmp_path / "logs" / "run_summary.json"
    assert read_run("~/logs", "run").metrics["loss"].to_pylist() == [0.5]
    assert list_runs("~/logs")["name"].to_pylist() == ["run"]
    assert [row["loss"] for row in read_jsonl("~/logs/run_metrics.jsonl")] == [0.5]
    for command in (["ls"], ["show", "run"], ["verify"], ["recover"], ["compact"]):
        assert main([command[0], "~/logs", *command[1:]]) == 0
    capsys.readouterr()
    assert [entry.name for entry in tmp_path.iterdir()] == ["logs"]


@pytest.mark.parametrize("path", ["s3://bucket/logs", Path("s3://bucket/logs"), "file:///logs", "gs://x", "HDFS://a/b"])
def test_a_url_is_refused_and_nothing_is_made(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    readers = () if isinstance(path, str) else (list_runs, read_run)  # they take a mirror's URL
    for call in (AdvancedLogger, *readers):
        with pytest.raises(ValueError, match=r"^log_dir: expected a path of this machine, not a URL, got str '"):
            call(path)
    with pytest.raises(ValueError, match=r"^ring_dir: expected a path of this machine"):
        AdvancedLogger(tmp_path / "logs", ring_dir=path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_a_colon_is_no_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with AdvancedLogger("run:12", "run", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert read_run("run:12", "run").metrics.num_rows == 1


def test_the_home_of_nobody_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"^log_dir: expected the home of a user of this machine, got str '~nobody-"):
        AdvancedLogger("~nobody-of-that-name/logs")


@pytest.mark.parametrize("given", ["1", "true", "YES", " on ", "y", "T"])
def test_the_environment_switches_the_logger_off_and_says_so_once(tmp_path, run_python, monkeypatch, given):
    monkeypatch.setenv("ADVLOG_DISABLED", given)
    code = (
        "from advlog_fast import AdvancedLogger\n"
        "for _ in range(2):\n"
        "    with AdvancedLogger('here', 'run') as log:\n"
        "        log.log_batch_progress(1, 1, 1, 0.5)\n"
        "    print(log.enabled)\n"
    )
    ended = run_python("-c", code)
    assert ended.stdout == "False\nFalse\n"
    assert ended.stderr == "[advlog] ADVLOG_DISABLED is set: nothing is logged\n"
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("given", ["0", "false", "No", " off", "n", "F", ""])
def test_the_environment_leaves_the_logger_on(tmp_path, monkeypatch, given):
    monkeypatch.setenv("ADVLOG_DISABLED", given)
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        assert log.enabled


def test_a_switch_that_says_neither_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVLOG_DISABLED", "maybe")
    with pytest.raises(ValueError, match=r"^ADVLOG_DISABLED: expected 1, true, yes, on, .*, got str 'maybe'$"):
        AdvancedLogger(tmp_path, "run", console="off")


def test_a_path_with_a_nul_is_refused_by_its_name():
    with pytest.raises(ValueError, match=r"^log_dir: expected a path without a NUL"):
        AdvancedLogger("a\0b")
    with pytest.raises(ValueError, match=r"^ring_dir: expected a path without a NUL"):
        AdvancedLogger(ring_dir="a\0b")
