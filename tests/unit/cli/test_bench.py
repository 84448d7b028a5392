"""`advlog bench`: figures of this machine, and nothing left behind."""

import re

import pytest


def test_bench_measures_and_leaves_nothing(run_python, tmp_path):
    ended = run_python("-m", "advlog_fast", "bench", "--seconds", "0.5", "--step-ms", "20", "--log-dir", "here")
    assert ended.returncode == 0, ended.stderr
    call, record, sustained, step = ended.stdout.splitlines()
    assert int(re.search(r"(\d+) ns a call", call)[1]) > 0
    assert float(re.search(r"([\d.]+) µs of CPU a record", record)[1]) > 0
    rate, dropped = re.search(r"([\d.]+) million records/s, (\d+) dropped", sustained).groups()
    assert float(rate) > 0
    assert dropped == "0"
    assert step.startswith("a step of 20 ms")
    assert list((tmp_path / "here").iterdir()) == []


def test_the_shortest_time_still_measures(run_python):
    ended = run_python("-m", "advlog_fast", "bench", "--seconds", "1e-9")
    assert ended.returncode == 0, ended.stderr
    assert int(re.search(r"(\d+) ns a call", ended.stdout)[1]) > 0
    assert float(re.search(r"([\d.]+) million records/s", ended.stdout)[1]) > 0


@pytest.mark.parametrize("option", ["--seconds", "--step-ms"])
@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_time_is_a_number_above_0(run_python, option, value):
    ended = run_python("-m", "advlog_fast", "bench", option, value)
    assert ended.returncode == 2
    assert f"expected a number above 0, got {value}" in ended.stderr
