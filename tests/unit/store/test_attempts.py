"""Who may write a run: attempts are joined by their own launch only, and damage is never guessed at."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from advlog_fast import AdvancedLogger
from advlog_fast.store.attempts import claim_attempt, read_claim, read_origins, write_origin
from advlog_fast.store.ledger import Ledger, write_ledger
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.processes import machine_id, process_start, started_s
from advlog_fast.store.ranks import RankIdentity

DAMAGED = [b"", b"\x00" * 64, b'{"run_id": "', b"[1]", b"{}", b"\xff"]


def rank(number=0, launch="launch", restart=0, pid=None):
    return RankIdentity(number, 8, launch, "host", os.getpid() if pid is None else pid, restart, number % 4)


@pytest.fixture
def gone():
    """The pid of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


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


def begin(paths, ranks):
    """An attempt begun by a process that was alive then."""
    run = claim_attempt(of(paths, ranks.rank), ranks)
    for claim in (paths.attempts / f"{run.attempt}.json", paths.attempts / f"{run.attempt}-rank{ranks.rank:05d}.claim"):
        claim.write_text(json.dumps({**json.loads(claim.read_text()), "process_start": 1}))
    return run


def end(paths, attempt, number, status, seconds_ago):
    paths = of(paths, number)
    write_ledger(paths, attempt, Ledger(status, {}))
    then = started_s() - seconds_ago
    os.utime(paths.ledger(attempt), (then, then))


def test_a_restart_has_an_attempt_of_its_own_for_a_rank_that_never_claimed_its_place_before_too(paths):
    claim_attempt(paths, rank())
    assert claim_attempt(of(paths, 3), rank(3, restart=1)).attempt == 2
    assert claim_attempt(paths, rank(restart=1)).attempt == 2
    assert claim_attempt(of(paths, 5), rank(5, restart=1)).attempt == 2


def test_on_another_machine_the_count_of_restarts_may_be_another(paths):
    claim_attempt(paths, rank(restart=1))
    for claim in paths.attempts.iterdir():
        claim.write_text(claim.read_text().replace(machine_id(), "another"))
    assert claim_attempt(of(paths, 4), rank(4, restart=0)).attempt == 1


def long_ago(paths):
    """The attempt began before this process started."""
    for claim in (paths.attempts / "1.json", paths.claim(1)):
        if claim.exists():
            claim.write_text(json.dumps({**json.loads(claim.read_text()), "claimed_ns": 1}))


@pytest.mark.parametrize("status", [None, "killed", "lost"])
def test_an_attempt_whose_first_process_was_killed_is_not_joined_by_a_launch_of_the_same_name(paths, gone, status):
    begin(paths, rank(pid=gone))
    long_ago(paths)
    if status is not None:
        end(paths, 1, 0, status, seconds_ago=-3600)
    assert claim_attempt(of(paths, 2), rank(2)).attempt == 2


@pytest.mark.parametrize("status", ["completed", "failed", "interrupted"])
def test_an_attempt_that_had_ended_before_this_process_started_is_not_joined(paths, gone, status):
    begin(paths, rank(pid=gone))
    long_ago(paths)
    end(paths, 1, 0, status, seconds_ago=5)
    assert claim_attempt(of(paths, 2), rank(2)).attempt == 2


@pytest.mark.parametrize("status", [None, "killed", "failed"])
def test_a_launch_whose_first_rank_dies_within_milliseconds_is_one_attempt(paths, gone, status):
    begin(paths, rank(pid=gone))
    if status is not None:
        end(paths, 1, 0, status, seconds_ago=5)
    assert claim_attempt(of(paths, 2), rank(2)).attempt == 1


def test_a_rank_that_ended_while_this_process_started_was_only_quick(paths, gone):
    begin(paths, rank(3, pid=gone))
    end(paths, 1, 3, "completed", seconds_ago=-0.5)
    assert claim_attempt(of(paths, 2), rank(2)).attempt == 1


def test_claims_say_which_process_each_rank_of_each_attempt_is(paths):
    before_ns = time.time_ns()
    for number in (0, 5):
        claim_attempt(of(paths, number), rank(number))
    (paths.attempts / "1-rank00007.claim").write_bytes(b"")
    claims = {key: read_claim(file) for key, file in paths.claims_of_all_ranks().items()}
    assert read_claim(of(paths, 9).claim(1)) == {}
    assert sorted(claims) == [(1, 0), (1, 5), (1, 7)]
    assert claims[1, 7] == {}
    claim = claims[1, 5]
    assert before_ns <= claim.pop("claimed_ns") <= time.time_ns()
    assert claim == {
        "rank": 5,
        "world_size": 8,
        "local_rank": 1,
        "host": "host",
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "machine": machine_id(),
    }


ORIGIN = {"run_id": "0" * 32, "attempt": 7, "step": 3, "timestamp": "2026-11-22T19:31:04.123456Z"}


def test_each_rank_says_from_where_it_is_resumed_and_the_last_word_counts(paths):
    claim_attempt(paths, rank())
    write_origin(paths, 1, {**ORIGIN, "step": 2})
    write_origin(paths, 1, ORIGIN)
    write_origin(of(paths, 1), 1, {**ORIGIN, "attempt": 6})
    assert read_origins(paths) == {1: {0: ORIGIN, 1: {**ORIGIN, "attempt": 6}}}


def test_the_word_of_an_earlier_version_is_that_of_the_first_rank(paths):
    claim_attempt(paths, rank())
    (paths.attempts / "3-origin.json").write_text(json.dumps(ORIGIN))
    assert read_origins(paths) == {3: {0: ORIGIN}}


@pytest.mark.parametrize("content", [*DAMAGED, b'{"attempt": "7"}', b'{"run_id": "x", "attempt": 7, "timestamp": 3}'])
def test_a_damaged_word_is_none(paths, content):
    claim_attempt(paths, rank())
    paths.origin(1).write_bytes(content)
    assert read_origins(paths) == {}


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_attempt_counts_as_another_launchs(paths, content):
    claim_attempt(paths, rank())
    claim = paths.attempts / "1.json"
    claim.write_bytes(content)
    assert claim_attempt(of(paths, 1), rank(1)).attempt == 2
    assert claim_attempt(of(paths, 2), rank(2)).attempt == 2
    assert claim.read_bytes() == content


def test_an_attempt_of_which_only_the_parts_stand_is_nobodys(paths):
    """As where the logs were copied without `.advlog`."""
    paths.part("metrics", 4, 1).parent.mkdir(parents=True)
    assert [claim_attempt(of(paths, number), rank(number)).attempt for number in (0, 1, 2)] == [5, 5, 5]
    assert claim_attempt(paths, rank(launch=None)).attempt == 6


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
