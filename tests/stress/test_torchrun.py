"""Ranks of one launch in one directory: killed and restarted by torchrun, and 64 of them at once."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from run_files import batch_lines, json_lines, summary_of
from stress.harness import TIMEOUT_S, unexplained
from stress.torchrun_rank import EXAMPLE, FILE_BYTES, RANKS, RESTARTS, VARIABLE, number_place, pid_place
from stress.zygote import Acknowledged

from advlog_fast import read_run
from advlog_fast.recovery import recover
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.rotated_files import rotated_files
from advlog_fast.verification import verify

NAME = "ddp_torchrun"
HERE = Path(__file__).resolve().parent
EVERY = 10
"""Steps between checkpoints."""

EPOCHS = 3


def records_of(log_dir: Path, name: str) -> dict[str, dict[tuple[int, int], list[tuple[int, int]]]]:
    """By sink, then by (attempt, rank): each record's seq and step, in the order of the files."""
    found: dict[str, dict[tuple[int, int], list[tuple[int, int]]]] = {"jsonl": {}, "parquet": {}}
    paths = RunPaths(log_dir, name)
    for newest in paths.lines_of_all_ranks("metrics"):
        for file in (*rotated_files(newest), newest):
            for row in json_lines(file):
                place = row["attempt"], row["rank"]
                found["jsonl"].setdefault(place, []).append((row["seq"], row["step"]))
    for (attempt, rank, _), part in sorted(paths.parts_of_all_ranks("metrics").items()):
        table = pq.read_table(part, columns=["seq", "step"], partitioning=None)
        rows = zip(table["seq"].to_pylist(), table["step"].to_pylist(), strict=True)
        found["parquet"].setdefault((attempt, rank), []).extend(rows)
    return found


def processes_of(log_dir: Path, name: str) -> dict[tuple[int, int], tuple[str, str, int, str]]:
    """The run, host, pid and status of each (attempt, rank)."""
    return {
        (row["attempt"], row["rank"]): (row["run_id"], row["host"], row["pid"], row["status"])
        for row in read_run(log_dir, name).processes.to_pylist()
    }


def nothing_is_left(log_dir: Path, name: str) -> None:
    found = verify(log_dir)
    assert unexplained(found) == [], "\n".join(map(str, found))
    assert RunPaths(log_dir, name).ring_notes_of_all_ranks() == {}
    assert recover(log_dir) == []


class Launch:
    """The example under torchrun, in attempts of which a rank is killed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.log_dir = folder / "logs"
        self._acknowledged = folder / "acknowledged"
        self._acknowledged.write_bytes(bytes(FILE_BYTES))
        self.told = Acknowledged(str(self._acknowledged))
        self._out, self._err = folder / "stdout", folder / "stderr"

    def start(self) -> None:
        task = {"acknowledged": str(self._acknowledged), "until_killed": 3 * EVERY}
        path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
        # Where a bare machine's own name resolves to nothing, ranks would look for each other in vain.
        command += ["--local-addr=127.0.0.1", f"--max-restarts={RESTARTS}", str(HERE / "torchrun_rank.py")]
        command += [f"--log-dir={self.log_dir}", f"--checkpoint-every={EVERY}", f"--epochs={EPOCHS}"]
        env = {VARIABLE: json.dumps(task), "PYTHONPATH": path}
        with self._out.open("w") as out, self._err.open("w") as err:
            self._process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **env})

    def kill(self, restart: int, rank: int, after: int) -> None:
        """Kills the rank once so many of its records are acknowledged: it, and no process that has its pid later."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.acknowledged(restart, rank) < after:
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.0005)
        os.kill(self.pid(restart, rank), signal.SIGKILL)

    def wait(self) -> int:
        return self._process.wait(TIMEOUT_S)

    def stop(self) -> None:
        """torchrun takes its ranks with it."""
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(TIMEOUT_S)

    def acknowledged(self, restart: int, rank: int) -> int:
        return self.told.load(number_place(restart, rank))

    def pid(self, restart: int, rank: int) -> int:
        return self.told.load(pid_place(restart, rank))

    def printed(self) -> str:
        return self._out.read_text()

    def said(self) -> str:
        return self._err.read_text()


def kill_twice(folder: Path, chance: random.Random) -> None:
    launch = Launch(folder)
    launch.start()
    victims = [chance.randrange(RANKS) for _ in range(RESTARTS)]
    try:
        for restart, victim in enumerate(victims):
            # Past a checkpoint of this attempt: rank 0 had it written before the rank's next step could end.
            launch.kill(restart, victim, after=chance.randint(EVERY + 1, 3 * EVERY))
        assert launch.wait() == 0, launch.said()
    finally:
        launch.stop()
    check(launch, victims)


def check(launch: Launch, victims: list[int]) -> None:
    log_dir, attempts, ranks = launch.log_dir, range(1, RESTARTS + 2), range(RANKS)
    nothing_is_left(log_dir, NAME)
    places = [(attempt, rank) for attempt in attempts for rank in ranks]

    processes = processes_of(log_dir, NAME)
    run_id = read_run(log_dir, NAME).run_id
    assert {place: told[:3] for place, told in processes.items()} == {
        (attempt, rank): (run_id, socket.gethostname(), launch.pid(attempt - 1, rank)) for attempt, rank in places
    }
    # The others died of torchrun's signal, or first of the connection that the kill had broken.
    statuses = {place: told[3] for place, told in processes.items()}
    assert [statuses[restart + 1, victim] for restart, victim in enumerate(victims)] == ["killed"] * RESTARTS
    assert all(statuses[place] in ("killed", "failed") for place in places if place[0] <= RESTARTS)
    assert all(statuses[attempts[-1], rank] == "completed" for rank in ranks)

    starts = {1: 0}
    for rank in ranks:
        paths = RunPaths(log_dir, NAME, rank)
        events = [row for file in (*rotated_files(paths.events_jsonl), paths.events_jsonl) for row in json_lines(file)]
        assert sorted(row["attempt"] for row in events if row["event"] == "attempt_start") == list(attempts)
        resumed = {row["attempt"]: row["resumed_from"] for row in events if row["event"] == "resumed"}
        assert {attempt: origin["attempt"] for attempt, origin in resumed.items()} == {2: 1, 3: 2}
        assert {origin["run_id"] for origin in resumed.values()} == {run_id}
        starts |= {attempt: origin["step"] for attempt, origin in resumed.items()}

    last = 8192 // RANKS // 64 * EPOCHS
    for sink, found in records_of(log_dir, NAME).items():
        assert sorted(found) == places, sink
        for (attempt, rank), rows in found.items():
            acknowledged = launch.acknowledged(attempt - 1, rank)
            where = f"{sink}, attempt {attempt}, rank {rank}: {acknowledged} acknowledged, {len(rows)} there"
            in_flight = 1 if attempt <= RESTARTS else 0
            assert acknowledged <= len(rows) <= acknowledged + in_flight, where
            first = starts[attempt] + 1
            assert rows == [(i + 1, first + i) for i in range(len(rows))], where
            assert attempt <= RESTARTS or rows[-1][1] == last, where

    chain = read_run(log_dir, NAME).metrics
    for rank in ranks:
        assert chain.filter(pc.equal(chain["rank"], rank))["step"].to_pylist() == list(range(1, last + 1))
    assert f" batches on {RANKS} ranks" in launch.printed()


@pytest.mark.torch
@pytest.mark.parametrize("runs", [pytest.param(1, id="short"), pytest.param(10, id="long", marks=pytest.mark.stress)])
def test_what_ranks_acknowledged_is_there_once_however_often_torchrun_restarts_them(tmp_path: Path, runs: int):
    seed = int(os.environ.get("ADVLOG_TEST_SEED", "0")) or random.randrange(1 << 30)
    for number in range(runs):
        try:
            kill_twice(tmp_path / str(number), random.Random(seed * 1009 + number))
        except AssertionError as error:
            raise AssertionError(f"run {number} of seed {seed}: {error}") from error


@pytest.mark.torch
def test_the_example_trains_alone_and_a_second_start_goes_on(
    run_python: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as torchrun does: on a busy machine, threads wait for each other
    for epochs in (1, 2):
        ended = run_python(EXAMPLE, "--epochs", epochs, "--batch-size", 256)
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.startswith("32 batches on 1 ranks, loss 0.")
    ended = run_python(EXAMPLE, "--epochs", 2, "--batch-size", 256)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("nothing is left to train")
    found = records_of(tmp_path / "logs", NAME)
    both = {(1, 0): [(n, n) for n in range(1, 33)], (2, 0): [(n, 32 + n) for n in range(1, 33)]}
    assert found == {"jsonl": both, "parquet": both}
    assert summary_of(tmp_path / "logs", NAME)["status"] == "completed"
    nothing_is_left(tmp_path / "logs", NAME)


WORLD = 64
RECORDS = 100


def test_64_processes_of_one_launch_start_at_once_in_one_directory(tmp_path: Path):
    """Without an exception or a word, as one attempt, each with files of its own."""
    launch = {"WORLD_SIZE": str(WORLD), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    started = []
    for rank in range(WORLD):
        with (tmp_path / f"said{rank}").open("w") as said:
            command = [sys.executable, "-W", "error", str(HERE / "launched.py"), str(tmp_path / "logs"), str(RECORDS)]
            env = {**os.environ, **launch, "RANK": str(rank)}
            started.append(subprocess.Popen(command, env=env, stdout=said, stderr=subprocess.STDOUT))
    statuses = [process.wait(TIMEOUT_S) for process in started]
    assert "".join((tmp_path / f"said{rank}").read_text() for rank in range(WORLD)) == ""
    assert statuses == [0] * WORLD

    logs, ranks = tmp_path / "logs", range(WORLD)
    run_id, host = read_run(logs, "run").run_id, socket.gethostname()
    assert processes_of(logs, "run") == {(1, r): (run_id, host, started[r].pid, "completed") for r in ranks}
    all_of_them = {(1, rank): [(number, number) for number in range(1, RECORDS + 1)] for rank in ranks}
    assert records_of(logs, "run") == {"jsonl": all_of_them, "parquet": all_of_them}
    assert len(batch_lines(logs / "run_training.log")) == RECORDS
    for rank in ranks:
        assert json.loads(RunPaths(logs, "run", rank).summary.read_text())["total_metrics"] == RECORDS
    nothing_is_left(logs, "run")
