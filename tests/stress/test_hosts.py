"""Attempts of one run on different machines, each with a ring that the other cannot see."""

from __future__ import annotations

import shutil
from pathlib import Path

from stress.harness import Trial, Zygote, lines_of, parts_of, unexplained

from advlog_fast.verification import verify

HOST_A, HOST_B = "aa", "bb"
RECORDS = 500


def hashes(log_dir: Path) -> dict[Path, bytes]:
    """What a recovery of another attempt may not touch: the second attempt's parts and claims."""
    files = [*log_dir.glob("run_*.parquet/attempt=2/*"), *log_dir.glob(".advlog/run/accounts/attempt2-*")]
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
