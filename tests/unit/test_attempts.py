"""Who may write a run: attempts are joined by their own launch only, and damage is never guessed at."""

from __future__ import annotations

import dataclasses
import json

import pytest

from advlog_fast import AdvancedLogger
from advlog_fast._attempts import claim_attempt
from advlog_fast._paths import RunPaths
from advlog_fast.ranks import RankIdentity

DAMAGED = [b"", b"\x00" * 64, b'{"run_id": "', b"[1]", b"{}", b"\xff"]


def rank(number=0, launch="launch"):
    return RankIdentity(number, 8, launch, "host", 100 + number)


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path, "run")


def of(paths, number):
    return dataclasses.replace(paths, rank=number)


def test_ranks_of_one_launch_share_an_attempt_and_the_next_launch_has_its_own(paths):
    first = [claim_attempt(of(paths, number), rank(number)) for number in (0, 3, 1)]
    again = claim_attempt(paths, rank(launch="second"))
    assert [run.attempt for run in first] == [1, 1, 1]
    assert again.attempt == 2
    assert len({run.run_id for run in (*first, again)}) == 1
    assert not list(paths.temporary.iterdir())


def test_a_rank_that_starts_again_without_a_new_launch_has_an_attempt_of_its_own(paths):
    assert [claim_attempt(paths, rank()).attempt for _ in range(3)] == [1, 2, 3]
    assert [claim_attempt(paths, rank(launch=None)).attempt for _ in range(2)] == [4, 5]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_attempt_counts_as_another_launchs(paths, content):
    claim_attempt(paths, rank())
    claim = paths.attempts / "1.json"
    claim.write_bytes(content)
    assert claim_attempt(of(paths, 1), rank(1)).attempt == 2
    assert claim_attempt(of(paths, 2), rank(2)).attempt == 2
    assert claim.read_bytes() == content


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_claim_of_a_rank_counts_as_taken(paths, content):
    claim_attempt(paths, rank())
    (paths.attempts / "1-rank00001.claim").write_bytes(content)
    assert claim_attempt(of(paths, 1), rank(1)).attempt == 2


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_run_id_is_an_error_that_names_the_file_and_the_remedy(paths, content):
    run_id = claim_attempt(paths, rank()).run_id
    file = paths.private / "run.json"
    file.write_bytes(content)
    remedy = r"with the id in run_summary\.json, or remove it for a new id"
    with pytest.raises(OSError, match=rf"expected the run's id, got a damaged file.*{remedy}.*run\.json"):
        claim_attempt(paths, rank())
    assert file.read_bytes() == content
    file.write_text(json.dumps({"run_id": run_id}))
    assert claim_attempt(paths, rank()).run_id == run_id


def test_a_logger_of_a_run_whose_id_is_damaged_says_so(tmp_path):
    AdvancedLogger(tmp_path, "run", console="off").close()
    file = tmp_path / ".advlog" / "run" / "run.json"
    file.write_bytes(b"")
    with pytest.raises(OSError, match=r"log_dir: .*run\.json: expected the run's id, got a damaged file"):
        AdvancedLogger(tmp_path, "run", console="off")
