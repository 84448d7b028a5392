"""Attempts and ranks of one run on different machines, each with rings that the other cannot see."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from stress.harness import (
    Trial,
    Zygote,
    check_rank,
    check_verified,
    launch_environment,
    lines_of,
    parts_of,
    ring_folder,
    unexplained,
)

from advlog_fast.cli import main
from advlog_fast.reader import read_run
from advlog_fast.recovery import recover
from advlog_fast.verification import verify

HOST_A, HOST_B = "aa", "bb"
RECORDS = 500


def hashes(log_dir: Path) -> dict[Path, bytes]:
    """What a recovery of another attempt may not touch: the second attempt's parts and claims."""
    files = [*log_dir.glob("run_*.parquet/attempt-2/*"), *log_dir.glob(".advlog/run/accounts/attempt2-*")]
    return {path: path.read_bytes() for path in files}


def test_a_recovery_on_the_first_host_completes_its_attempt_and_leaves_the_second_alone(zygote: Zygote, tmp_path: Path):
    options = {"max_log_size": 20_000, "part_rows": 200}
    first = Trial(tmp_path / "a", records=RECORDS, ending="SIGKILL", machine=HOST_A, options=options)
    assert zygote.run(first.task) == -9, first.said()
    assert first.acknowledged() == RECORDS
    # The second host has the directory, and neither the memory nor the boot of the first.
    away = first.ring_dir.with_name(first.ring_dir.name + "-away")
    first.ring_dir.rename(away)
    second = Trial(tmp_path / "b", records=RECORDS + 100, ending="close", machine=HOST_B, options=options)
    second.task["log_dir"] = str(first.log_dir)
    try:
        assert zygote.run(second.task) == 0, second.said()
        before = hashes(first.log_dir)
        assert len(before) >= 3
        found = verify(first.log_dir)
        assert unexplained(found) == [], "\n".join(map(str, found))
        assert any(f.kind == "pending" and f.attempt == 1 for f in found)
        summary = (first.log_dir / "run_summary.json").read_bytes()

        away.rename(first.ring_dir)
        assert zygote.run(first.recovery()) == 0, first.said()
        assert [f["outcome"] for f in first.report()["found"]] == ["recovered"]
        assert hashes(first.log_dir) == before
        assert (first.log_dir / "run_summary.json").read_bytes() == summary
        found = verify(first.log_dir)
        assert unexplained(found) == [], "\n".join(map(str, found))
        assert not any(f.kind == "pending" for f in found)
        both = [*range(1, RECORDS + 1), *range(1, RECORDS + 101)]
        assert parts_of(first.log_dir)[1] == both
        got = lines_of(first.log_dir / "run_metrics.jsonl", rb'"epoch":(\d+),"batch":(\d+)')[1]
        assert sorted(got) == sorted(both)
    finally:
        shutil.rmtree(away, ignore_errors=True)
        first.clean()
        second.clean()


def contents(folder: Path, pattern: str = "") -> dict[Path, bytes]:
    """Every file below whose name has the pattern in it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and re.search(pattern, path.name))
    return {path.relative_to(folder): path.read_bytes() for path in files}


def test_each_host_recovers_the_ranks_that_it_ran_and_touches_no_others(rank_zygotes: list[Zygote], tmp_path: Path):
    log_dir = tmp_path / "logs"
    rings = {host: ring_folder(tmp_path / f"host-{host}") for host in (HOST_A, HOST_B)}
    away = {host: folder.with_name(folder.name + "-away") for host, folder in rings.items()}
    ranks = [
        Trial(
            tmp_path / f"rank{rank}",
            log_dir=str(log_dir),
            machine=host,
            environ=launch_environment(rank, 4, 1),
            rate=2000,
            options={"max_log_size": 20_000, "part_rows": 200, "ring_dir": str(rings[host])},
        )
        for rank, host in enumerate((HOST_A, HOST_A, HOST_B, HOST_B))
    ]
    try:
        for zygote, rank in zip(rank_zygotes, ranks, strict=True):
            zygote.start(rank.task)
        for rank in ranks:
            rank.wait_for(records=RECORDS)
        for zygote, rank in zip(rank_zygotes, ranks, strict=True):
            zygote.kill()
            assert zygote.wait() == -9, rank.said()
        # As a kill in the middle of an entry leaves it.
        torn = log_dir / "run_events.rank00002.jsonl"
        with torn.open("ab") as file:
            file.write(b'{"timestamp":"2026-')

        # All of ranks 2 and 3 but their locks, which say who looked last.
        others = r"rank0000[23](?!\.lock)"
        before = contents(log_dir, others)
        assert {path.suffix for path in before} >= {".jsonl", ".parquet", ".spool", ".json", ".claim"}
        rings[HOST_B].rename(away[HOST_B])
        rings_before = contents(away[HOST_B])
        assert len(rings_before) >= 2
        for _ in range(2):
            assert rank_zygotes[0].run(ranks[0].recovery()) == 0, ranks[0].said()
            assert contents(log_dir, others) == before
        assert contents(away[HOST_B]) == rings_before
        left = ranks[0].report()["found"]
        assert [(f["rank"], f["outcome"]) for f in left] == [(2, "lost"), (3, "lost")]
        assert all(f"lies on {HOST_B}, and only that host can recover it" in f["detail"] for f in left)
        assert contents(rings[HOST_A]) == {}
        found = verify(log_dir)
        assert unexplained(found) == [], "\n".join(map(str, found))
        assert {f.rank for f in found if f.kind == "pending" and f.where == "ring"} == {2, 3}

        away[HOST_B].rename(rings[HOST_B])
        rings[HOST_A].rename(away[HOST_A])
        assert rank_zygotes[2].run(ranks[2].recovery()) == 0, ranks[2].said()
        assert [(f["rank"], f["outcome"]) for f in ranks[2].report()["found"]] == [(2, "recovered"), (3, "recovered")]
        assert contents(rings[HOST_B]) == {}
        assert torn.read_bytes().endswith(b"\n")
        check_verified(log_dir)
        assert main(["verify", str(log_dir)]) == 0
        assert recover(log_dir) == []
        assert read_run(log_dir, "run").attempts == [1]
        for number, rank in enumerate(ranks):
            check_rank(log_dir, number, {1: rank.acknowledged()})
    finally:
        for folder in (*rings.values(), *away.values()):
            shutil.rmtree(folder, ignore_errors=True)
        for rank in ranks:
            rank.clean()
