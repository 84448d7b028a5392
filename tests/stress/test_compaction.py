"""A SIGKILL at every step of a compaction, and of the one after it: each record is there once, at each moment."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from stress.harness import Trial, Zygote, check_readable, unexplained

from advlog_fast import AdvancedLogger, read_run
from advlog_fast.verification import verify

BUILD = ["compact_begun", "compact_written", "compact_built"]
AFTER = ["compact_swapped", "schema_remade", "compact_frozen", "compact_removed", "compact_moved", "compact_emptied"]
AWAY = "compact_away"
"""Where names cannot be exchanged: the one moment without a dataset."""

RECORDS = 450
METRICS = {"late": 1.5, "later/dotted.name": -0.0}


def log_attempt(log_dir: Path) -> None:
    """Parts of 100 records; from the second on there are metrics that the first did not have."""
    options: dict[str, Any] = {"part_rows": 100, "memory_interval_s": 0.05, "max_log_files": 1000}
    with AdvancedLogger(log_dir, "run", console="off", **options) as log:
        for number in range(1, RECORDS + 1):
            log.log_batch_progress(1, number, None, number / 8, **(METRICS if number > 150 else {}))
        log.log_performance_metrics(0.1, 0.2)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two attempts, and a file in the dataset that is not ours, to be kept."""
    log_dir = tmp_path_factory.mktemp("logged") / "logs"
    for _ in range(2):
        log_attempt(log_dir)
    assert len(list(log_dir.glob("run_metrics.parquet/*/*"))) == 10
    (log_dir / "run_metrics.parquet" / ".directory").write_text("[Desktop]")
    return log_dir


class Compaction:
    """A copy of a run, compacted by processes that may be killed."""

    def __init__(self, zygote: Zygote, logged: Path, folder: Path, **task: Any) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.log_dir = Path(shutil.copytree(logged, folder / "logs"))
        self.stderr = folder / "stderr"
        self.zygote = zygote
        self.task = {
            "run": "compact",
            "log_dir": str(self.log_dir),
            "stderr": str(self.stderr),
            "report": str(folder / "report.json"),
            **task,
        }
        self.before = bits_of(self.log_dir)

    def run(self, failpoint: str | None = None) -> bool:
        """Whether it was killed at the point."""
        status = self.zygote.run({**self.task, "failpoint": failpoint})
        assert status in (0, -9), self.stderr.read_text()
        return status == -9

    def check(self) -> None:
        """What is so at each moment."""
        check_readable(self.log_dir)
        for stream, before in self.before.items():
            folder = self.log_dir / f"run_{stream}.parquet"
            table = ds.dataset(folder, format="parquet", partitioning="hive").to_table()
            assert keys_of(table) == sorted(zip(*(before[name] for name in KEYS), strict=True))
            # No part to come has a column that one of these lacks: most readers would not show it.
            frozen = set(json.loads((self.log_dir / f".advlog/run/{stream}_schema.json").read_text())["columns"])
            assert all(frozen <= set(pq.read_schema(path).names) for path in folder.glob("*/*"))
        found = unexplained(verify(self.log_dir))
        assert found == [], "\n".join(map(str, found))

    def check_whole(self) -> None:
        """What is so once a compaction came to its end."""
        self.check()
        assert bits_of(self.log_dir) == self.before
        parts = sorted(self.log_dir.glob("run_metrics.parquet/*/*"))
        assert [path.name for path in parts] == ["rank00000-000001.parquet"] * len(self.attempts())
        for path in parts:
            assert {*METRICS} <= set(pq.read_schema(path).names)
            assert pq.read_table(path, columns=["extra"])["extra"].null_count == pq.read_metadata(path).num_rows
        left = [path for place in ("compact", "tmp") for path in (self.log_dir / ".advlog/run" / place).iterdir()]
        assert left == []
        assert not self.run(), "it is not compact yet"
        assert sorted(self.log_dir.glob("run_metrics.parquet/*/*")) == parts

    def attempts(self) -> set[int]:
        return set(self.before["metrics"]["attempt"])


KEYS = ("attempt", "rank", "seq")


def keys_of(table: pa.Table) -> list[tuple[int, ...]]:
    return sorted(zip(*(table[name].to_pylist() for name in KEYS), strict=True))


def bits_of(log_dir: Path) -> dict[str, dict[str, list[Any]]]:
    """Both streams as the reader has them, floats by their bits."""
    run = read_run(log_dir, "run", attempts="all")
    return {stream: bits_of_table(getattr(run, stream)) for stream in ("metrics", "system")}


def bits_of_table(table: pa.Table) -> dict[str, list[Any]]:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return {n: (c.view(pa.int64()) if c.type == pa.float64() else c).to_pylist() for n, c in columns.items()}


def passings(point: str, long: bool) -> tuple[int, ...]:
    often = point in ("compact_written", "compact_removed", "compact_emptied")
    return ((1, 2, 3, 7) if often else (1, 2)) if long else (1,)


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.stress)])
@pytest.mark.parametrize("point", [*BUILD, AWAY, *AFTER])
def test_a_compaction_killed_at_a_point_is_whole_when_run_again(
    zygote: Zygote, logged: Path, tmp_path: Path, point: str, long: bool, exchanges: bool
):
    if exchanges and point == AWAY:
        assert not Compaction(zygote, logged, tmp_path / "trial").run(f"{AWAY}:1"), "there was a moment without it"
        return
    killed = 0
    again = [*BUILD, *([] if exchanges else [AWAY]), *AFTER] if long else ["compact_swapped"]
    for number in passings(point, long):
        for second in again:
            trial = Compaction(zygote, logged, tmp_path / "trial", exchanges=exchanges)
            killed += trial.run(f"{point}:{number}")
            if point != AWAY:
                trial.check()
            trial.run(f"{second}:1")
            if second != AWAY:
                trial.check()
            trial.run()
            trial.check_whole()
    assert killed, f"no compaction ever passes {point}"


def kill_at_random(zygote: Zygote, logged: Path, folder: Path, chance: random.Random) -> bool:
    trial = Compaction(zygote, logged, folder)
    began = time.monotonic()
    trial.run()
    longest_s = time.monotonic() - began
    trial = Compaction(zygote, logged, folder)
    killed = 0
    for _ in range(2):
        zygote.start({**trial.task, "failpoint": None})
        time.sleep(chance.random() * longest_s)
        zygote.kill()
        status = zygote.wait()
        assert status in (0, -9), trial.stderr.read_text()
        killed += status == -9
        trial.check()
    trial.run()
    trial.check_whole()
    return killed > 0


@pytest.mark.parametrize("kills", [pytest.param(5, id="short"), pytest.param(200, id="long", marks=pytest.mark.stress)])
def test_a_compaction_killed_at_random_moments_is_whole_when_run_again(
    zygote: Zygote, logged: Path, tmp_path: Path, kills: int
):
    seed = int(os.environ.get("ADVLOG_TEST_SEED", "0")) or random.randrange(1 << 30)
    chance = random.Random(seed)
    killed = 0
    try:
        for _ in range(kills):
            killed += kill_at_random(zygote, logged, tmp_path / "trial", chance)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    assert killed, "none was killed before it ended"


def test_a_killed_run_is_recovered_and_compacted_whatever_kills_that(zygote: Zygote, tmp_path: Path):
    trial = Trial(tmp_path / "run", records=1000, ending="SIGKILL", options={"part_rows": 150})
    try:
        assert zygote.run(trial.task) == -9, trial.said()
        for point in ("seal_renamed", "recover_sealed", "compact_written", "compact_swapped", "compact_removed"):
            status = zygote.run({**trial.task, "run": "compact", "failpoint": f"{point}:1"})
            assert status in (0, -9), trial.said()
            check_readable(trial.log_dir)
            assert unexplained(verify(trial.log_dir)) == []
        assert zygote.run({**trial.task, "run": "compact", "failpoint": None}) == 0, trial.said()
        trial.check(in_flight=0, status="killed")
        assert len(list(trial.log_dir.glob("run_metrics.parquet/*/*"))) == 1
    finally:
        trial.clean()
