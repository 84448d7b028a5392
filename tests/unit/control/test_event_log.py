"""Events as strict JSON lines."""

import math
from pathlib import Path

import pytest
from run_files import json_lines

from advlog_fast.control.event_log import OWN_FIELDS, EventLog
from advlog_fast.control.line_file import LineFile


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run_events.jsonl"


@pytest.fixture
def events(path):
    file = LineFile(path, max_bytes=1 << 20, max_files=3)
    yield EventLog(file, 2, 3)
    file.close()


def test_an_event_says_when_where_what_and_after_which_record(events, path):
    assert events.write("epoch_end", {"epoch": 1}, seq=97, level="WARNING")
    (row,) = json_lines(path)
    assert next(iter(row)) == "timestamp"
    del row["timestamp"]
    assert row == {"attempt": 2, "rank": 3, "event": "epoch_end", "level": "WARNING", "seq": 97, "epoch": 1}


@pytest.mark.parametrize("name", sorted(OWN_FIELDS))
def test_a_field_named_like_one_of_the_lines_own_stands_aside(events, path, name):
    events.write("mine", {name: "given", "x": 1}, seq=-1)
    (row,) = json_lines(path)
    assert (row["fields"], row["x"], row["event"], row["seq"]) == ({name: "given"}, 1, "mine", -1)


def test_the_users_events_are_marked(events, path):
    events.write("validation", {"user_event": False}, seq=0, users=True)
    (row,) = json_lines(path)
    assert (row["event"], row["user_event"], row["fields"]) == ("validation", True, {"user_event": False})


def test_any_value_is_strict_json(events, path):
    events.write("e\n", {"nan": math.nan, "p": Path("a"), "s": "\ud800\u2028\x85", "big": 1 << 90}, seq=0)
    (row,) = json_lines(path)
    assert (row["nan"], row["p"], row["event"], row["big"]) == ("nan", "a", "e\n", str(1 << 90))
