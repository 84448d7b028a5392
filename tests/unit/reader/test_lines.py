"""JSON lines read back: values to the bit, rotated files in order, and a clear word on a bad line."""

from __future__ import annotations

import math
import os
from datetime import datetime, timezone
from pathlib import Path

import pytest
from unit.reader.writing import bits, line

from advlog_fast.reader import read_jsonl
from advlog_fast.store.rotated_files import latest_first, shift


def test_values_have_their_types_and_nonfinite_ones_are_floats_again(tmp_path):
    path = tmp_path / "exp_metrics.jsonl"
    path.write_text(
        '{"timestamp":"2026-11-22T19:31:04.123456Z","attempt":1,"rank":0,"seq":97,"step":97,"loss":null,'
        '"accuracy":null,"x":null,"zero":-0.0,"tiny":5e-324,"late":null,'
        '"nonfinite":{"loss":"nan","accuracy":"inf","x":"-inf"},"unresolved":{"late":"timeout"}}\n'
    )
    (row,) = read_jsonl(path)
    loss = row.pop("loss")
    assert math.isnan(loss)
    assert row == {
        "timestamp": datetime(2026, 11, 22, 19, 31, 4, 123456, tzinfo=timezone.utc),
        "attempt": 1,
        "rank": 0,
        "seq": 97,
        "step": 97,
        "accuracy": math.inf,
        "x": -math.inf,
        "zero": 0.0,
        "tiny": 5e-324,
        "late": None,
        "unresolved": {"late": "timeout"},
    }
    assert type(row["seq"]) is int
    assert bits(row["zero"]) == bits(-0.0)


def test_rotated_files_come_first_the_oldest_before_all(tmp_path):
    path = tmp_path / "exp_metrics.jsonl"
    for seq, name in enumerate((".11", ".10", ".2", ".1", "")):
        Path(f"{path}{name}").write_text(line(2 * seq) + line(2 * seq + 1))
    assert [row["seq"] for row in read_jsonl(path)] == list(range(10))
    assert [row["seq"] for row in read_jsonl(str(path), rotated=False)] == [8, 9]


def test_rotated_files_are_read_where_the_file_itself_is_missing(tmp_path):
    (tmp_path / "m.jsonl.1").write_text(line(1))
    assert [row["seq"] for row in read_jsonl(tmp_path / "m.jsonl")] == [1]


def test_a_file_met_under_two_names_is_read_once(tmp_path):
    """As it is when a rotation comes between the reading of the one and the other."""
    (tmp_path / "m.jsonl").write_text(line(1))
    os.link(tmp_path / "m.jsonl", tmp_path / "m.jsonl.1")
    assert [row["seq"] for row in read_jsonl(tmp_path / "m.jsonl")] == [1]


def test_a_rotation_between_any_two_files_hides_no_record(tmp_path):
    for rotate_at in range(5):
        path = tmp_path / f"{rotate_at}.jsonl"
        for seq, name in enumerate((".3", ".2", ".1", "")):
            Path(f"{path}{name}").write_text(line(seq))
        seen = set()
        for number, file in enumerate(latest_first(path)):
            if number == rotate_at:
                shift(path)
                path.write_text(line(4))
            seen.add(file.read_bytes())
        assert {line(seq).encode() for seq in range(4)} <= seen


def test_every_cut_of_the_last_line_leaves_it_out(tmp_path):
    path = tmp_path / "m.jsonl"
    last = line(2, loss=0.5, nonfinite={"x": "nan"})
    for cut in range(1, len(last) - 1):
        path.write_text(line(1) + last[:cut])
        assert [row["seq"] for row in read_jsonl(path)] == [1]
    path.write_text(line(1) + last[:-1])
    assert [row["seq"] for row in read_jsonl(path)] == [1, 2]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"{oops}", r"expected a JSON object, got b'\{oops\}'"),
        (b"", "expected a JSON object, got b''"),
        (b"[1]", r"expected a JSON object, got b'\[1\]'"),
        (b'{"loss":NaN}', "NaN is no JSON"),
        (b'{"loss":-Infinity}', "-Infinity is no JSON"),
        (b'{"loss":"\xff"}', "utf-8"),
        (b'{"timestamp":"yesterday"}', "expected a line of a log"),
        (b'{"timestamp":7}', "expected a line of a log"),
        (b'{"nonfinite":{"loss":"huge"}}', "expected a line of a log"),
        (b'{"nonfinite":3}', "expected a line of a log"),
    ],
)
def test_a_bad_line_is_named(tmp_path, bad, why):
    path = tmp_path / "m.jsonl"
    path.write_bytes(line(1).encode() + bad + b"\n" + line(2).encode())
    with pytest.raises(ValueError, match=rf"m\.jsonl, line 2: .*{why}"):
        read_jsonl(path)


def test_a_line_separator_in_a_string_ends_no_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"message":"a\u2028b\x85c"}\n', encoding="utf-8")
    assert read_jsonl(path) == [{"message": "a\u2028b\x85c"}]


def test_no_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a JSON-lines file, got '.*nowhere\.jsonl'"):
        read_jsonl(tmp_path / "nowhere.jsonl")
