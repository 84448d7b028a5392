"""Rotated files: their order, their renaming, their removal."""

import pytest

from advlog_fast.store.rotated_files import rotated_files, shift, trim


@pytest.fixture
def log(tmp_path):
    return tmp_path / "run_main.log"


def contents(log):
    return {path.name.removeprefix(log.name): path.read_text() for path in log.parent.iterdir()}


def fill(log, *numbers):
    log.write_text("current")
    for number in numbers:
        log.with_name(f"{log.name}.{number}").write_text(str(number))


def test_rotated_files_come_oldest_first_by_number_not_by_name(log):
    fill(log, 1, 2, 9, 10, 11)
    assert [path.suffix for path in rotated_files(log)] == [".11", ".10", ".9", ".2", ".1"]


def test_names_that_are_no_rotated_file_are_not_taken_for_one(log):
    fill(log, 1)
    for name in ("bak", "01", "0", "-1", "1.gz", "1x", "²"):
        log.with_name(f"{log.name}.{name}").write_text("the user's")
    log.with_name("other.log.7").write_text("another series")
    assert [path.suffix for path in rotated_files(log)] == [".1"]


def test_a_missing_folder_has_no_rotated_files(tmp_path):
    assert rotated_files(tmp_path / "nowhere" / "run.log") == []


def test_a_shift_moves_each_file_up_by_one_and_deletes_nothing(log):
    fill(log, 1, 2)
    shift(log)
    assert contents(log) == {".1": "current", ".2": "1", ".3": "2"}


def test_a_shift_fills_a_gap_and_leaves_what_lies_beyond_it(log):
    fill(log, 1, 3, 4)
    shift(log)
    assert contents(log) == {".1": "current", ".2": "1", ".3": "3", ".4": "4"}


def test_a_shift_without_a_current_file_still_makes_room(log):
    fill(log, 1)
    log.unlink()
    shift(log)
    assert contents(log) == {".2": "1"}


def test_a_shift_that_cannot_rename_raises_and_overwrites_nothing(tmp_path):
    log = tmp_path / ("x" * 253)
    fill(log, *range(1, 10))
    before = contents(log)
    with pytest.raises(OSError, match="too long"):
        shift(log)
    assert contents(log) == before


def test_a_trim_keeps_so_many_files_with_the_current_one(log):
    fill(log, 1, 2, 3, 4)
    removed = trim(log, 3)
    assert [path.suffix for path in removed] == [".4", ".3"]
    assert set(contents(log)) == {"", ".1", ".2"}


def test_a_trim_to_one_leaves_the_current_file_alone(log):
    fill(log, 1, 2)
    trim(log, 1)
    assert set(contents(log)) == {""}


def test_a_trim_removes_nothing_that_it_may_not(log):
    fill(log, 1, 2, 3)
    removed = trim(log, 1, may_remove=lambda path: path.suffix != ".2")
    assert [path.suffix for path in removed] == [".3", ".1"]
    assert set(contents(log)) == {"", ".2"}


def test_a_trim_passes_over_what_cannot_be_removed(log):
    fill(log, 1, 2)
    log.with_name(f"{log.name}.3").mkdir()
    assert [path.suffix for path in trim(log, 1)] == [".2", ".1"]
