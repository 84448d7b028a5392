"""Configurations of the kinds that people have, read at every depth, whole and without their secrets."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
import types
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from advlog_fast import AdvancedLogger
from advlog_fast.control.fields import settings
from advlog_fast.control.masking import masked


@dataclasses.dataclass
class Data:
    lr: float = 0.1
    api_key: str = "KEY"
    started: str = dataclasses.field(init=False)


@dataclasses.dataclass
class Deeper(Data):
    size: int = 3


class Tuple(NamedTuple):
    lr: float = 0.1
    api_key: str = "KEY"


class Space(argparse.Namespace):
    pass


class Plain:
    def __init__(self) -> None:
        self.lr, self.api_key = 0.1, "KEY"

    def __repr__(self) -> str:
        return f"Plain(api_key={self.api_key!r})"


def attrs_class() -> Any:
    attrs = pytest.importorskip("attrs")
    return attrs.make_class(
        "Attrs", {"lr": attrs.field(default=0.1), "api_key": attrs.field(default="KEY")}, slots=True
    )()


def pydantic_model() -> Any:
    pydantic = pytest.importorskip("pydantic")
    return pydantic.create_model("Model", lr=(float, 0.1), api_key=(str, "KEY"))()


def omegaconf() -> Any:
    return pytest.importorskip("omegaconf").OmegaConf.create({"lr": 0.1, "api_key": "KEY"})


def config_dict() -> Any:
    return pytest.importorskip("ml_collections").ConfigDict({"lr": 0.1, "api_key": "KEY"})


KINDS = {
    "a dict": lambda: {"lr": 0.1, "api_key": "KEY"},
    "an OrderedDict": lambda: collections.OrderedDict(lr=0.1, api_key="KEY"),
    "argparse": lambda: argparse.Namespace(lr=0.1, api_key="KEY"),
    "a subclass of argparse's": lambda: Space(lr=0.1, api_key="KEY"),
    "a SimpleNamespace": lambda: types.SimpleNamespace(lr=0.1, api_key="KEY"),
    "a NamedTuple": Tuple,
    "attrs with slots": attrs_class,
    "pydantic": pydantic_model,
    "OmegaConf": omegaconf,
    "ConfigDict": config_dict,
}


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_read_at_every_depth_and_secrets_masked(tmp_path: Path, kind: str):
    given = KINDS[kind]()
    shown = {"lr": 0.1, "api_key": "***"}
    assert masked(settings("config", given)) == shown
    assert masked({"a": given, "b": [{"c": given}, given]}) == {"a": shown, "b": [{"c": shown}, shown]}
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.start_training(given)
        log.log_hyperparameters({"nested": {"deep": given}})
    summary = json.loads((tmp_path / "run_summary.json").read_text())
    assert (summary["config"], summary["hyperparameters"]) == (shown, {"nested": {"deep": shown}})
    for file in ("run_main.log", "run_events.jsonl"):
        assert "KEY" not in (tmp_path / file).read_text()


def test_a_dataclass_is_read_field_by_field_and_one_that_was_never_set_is_null():
    assert masked(settings("config", Data())) == {"lr": 0.1, "api_key": "***", "started": None}
    assert masked({"c": Deeper()}) == {"c": {"lr": 0.1, "api_key": "***", "started": None, "size": 3}}


def test_an_object_without_fields_is_read_at_the_top_and_named_below():
    assert masked(settings("config", Plain())) == {"lr": 0.1, "api_key": "***"}
    assert masked({"optim": Plain()}) == {"optim": f"<{__name__}.Plain>"}


def test_a_large_configuration_is_kept_whole():
    given = argparse.Namespace(**{f"option_{i}": "x" * 20 for i in range(500)})
    assert masked({"model": given})["model"] == vars(given)


def test_a_value_that_cannot_be_read_costs_only_itself():
    oc = pytest.importorskip("omegaconf").OmegaConf
    given = oc.create(
        {"lr": 0.1, "entity": "???", "user": "${oc.env:NOT_SET}", "opt": {"name": "adam"}, "l": [1, "???"]}
    )
    shown = {
        "lr": 0.1,
        "entity": "<unreadable: MissingMandatoryValue>",
        "user": "<unreadable: InterpolationResolutionError>",
        "opt": {"name": "adam"},
        "l": [1, "<unreadable: MissingMandatoryValue>"],
    }
    assert masked(given) == shown
    assert masked({"cfg": given, "seed": 1}) == {"cfg": shown, "seed": 1}


class Raises:
    lr = 0.1

    @property
    def api_key(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("given", [None, 5, "lr=0.1", [("lr", 0.1)], Data, math, print, lambda: None, object()])
def test_what_has_no_settings_is_refused(given: Any):
    with pytest.raises(TypeError, match=r"^config: expected a mapping, or an object whose attributes are the settings"):
        settings("config", given)


def test_a_refusal_does_not_show_the_object():
    with pytest.raises(TypeError) as refused:
        settings("config", ["KEY"])
    assert "KEY" not in str(refused.value)
