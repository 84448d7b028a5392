"""The options: each is documented where `help()` shows it, and nowhere else."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import pydoc
import re

import pytest

import advlog_fast
from advlog_fast import AdvancedLogger, LoggerConfig
from advlog_fast import config as config_module

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
