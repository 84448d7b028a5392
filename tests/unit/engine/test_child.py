"""Children that log: what each was acknowledged is in the parent's run once, under a number of its own, however the
child came to be and whatever becomes of it."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_files import json_lines, text_lines

from advlog_fast import AdvancedLogger
from advlog_fast.engine.child_rings import children_folder
from advlog_fast.store.rotated_files import rotated_files

HEADER = """
import json, multiprocessing, os, sys, threading, time, warnings
from pathlib import Path
from advlog_fast import AdvancedLogger

def forked(call, *arguments):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            call(*arguments)
            status = 0
        finally:
            os._exit(status)
    return pid

def gone(*pids):
    return all(os.waitpid(pid, 0)[1] == 0 for pid in pids)

def log_some(log, epoch, batches):
    for batch in range(1, batches + 1):
        log.log_batch_progress(epoch, batch, batches, epoch + batch / 1000, mine=epoch)
"""


def run(tmp_path: Path, code: str, *, stderr: str = "", timeout_s: float = 240) -> str:
    """Runs `code` as a script in `tmp_path`, where `logs` is to be the run; what it printed."""
    script = tmp_path / "script.py"
    script.write_text(HEADER + textwrap.dedent(code))
    # That forking beside threads is dangerous is what Python 3.12 warns of, and what is tried here.
    command = [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert (done.returncode, done.stderr) == (0, stderr), done.stderr
    return done.stdout


def rows(tmp_path: Path) -> list[dict[str, object]]:
    return [row for file in sorted((tmp_path / "logs").glob("run_metrics.jsonl*")) for row in json_lines(file)]


def check_once(tmp_path: Path, wanted: dict[int, int]) -> dict[int, int]:
    """Each epoch has its batches once, in JSON lines and in Parquet, all from one process; the worker of each."""
    lines = rows(tmp_path)
    found: Counter[tuple[object, object]] = Counter((row["epoch"], row["batch"]) for row in lines)
    assert found == Counter((epoch, batch) for epoch, n in wanted.items() for batch in range(1, n + 1))
    workers: dict[object, set[object]] = {epoch: set() for epoch in wanted}
    for row in lines:
        workers[row["epoch"]].add(row.get("worker", 0))
        assert row.get("mine", row["epoch"]) == row["epoch"]
    assert all(len(numbers) == 1 for numbers in workers.values()), workers
    table = pq.read_table(tmp_path / "logs" / "run_metrics.parquet", columns=["epoch", "batch", "worker", "seq"])
    parts = table.to_pylist()
    assert Counter((row["epoch"], row["batch"]) for row in parts) == found
    assert all(row["worker"] in workers[row["epoch"]] for row in parts)
    assert sorted(row["seq"] for row in parts) == list(range(1, len(parts) + 1))
    numbers = {epoch: int(str(next(iter(numbers)))) for epoch, numbers in workers.items()}
    of_children = [number for number in numbers.values() if number]
    assert len(set(of_children)) == len(of_children), "two children have one number"
    return numbers


@pytest.mark.parametrize("forks", [50, pytest.param(1000, marks=pytest.mark.stress)])
def test_forks_while_four_threads_log(tmp_path: Path, forks: int):
    out = run(
        tmp_path,
        f"""
        log = AdvancedLogger("logs", "run", console="off", overflow_timeout_s=None, max_log_files=1000)
        log.log_batch_progress(9999, 1, 1, 0.5)
        assert log.flush()
        def held():
            # But for files that are opened ahead: whether there is one depends on how full the current one is.
            names = []
            for fd in os.listdir("/proc/self/fd"):
                try:
                    names.append(os.readlink(f"/proc/self/fd/{{fd}}"))
                except FileNotFoundError:  # another thread's, closed since
                    continue
            return sorted(name for name in names if "/.advlog/run/tmp/" not in name), threading.active_count()
        before = held()
        stop, counts = threading.Event(), [0] * 4

        def train(number):
            while not stop.is_set():
                counts[number] += 1
                log.log_batch_progress(number + 1, counts[number], None, 0.5, mine=number + 1)
                time.sleep(0.0002)

        threads = [threading.Thread(target=train, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for number in range({forks}):
            children.append(forked(log_some, log, 1001 + number, 20))
            if len(children) == 10:
                assert gone(*children)
                children.clear()
        assert gone(*children)
        stop.set()
        for thread in threads:
            thread.join()
        assert log.flush()
        folder = log.health().ring_path + ".workers"
        deadline = time.monotonic() + 120
        # One look counts: between two the drain may switch a file, which makes up for one that is left.
        now = held()
        while os.listdir(folder) or len(now[0]) != len(before[0]) or any(folder in name for name in now[0]):
            assert time.monotonic() < deadline, (os.listdir(folder), before, now)
            time.sleep(0.01)
            now = held()
        assert now[1] == before[1], (before, now)
        log.close()
        assert not os.path.exists(folder)
        health = log.health()
        assert health.offered == health.accepted and not any(health.dropped_at_entry.values()), health
        print(json.dumps(counts))
        """,
    )
    counts = json.loads(out)
    children = {1001 + number: 20 for number in range(forks)}
    numbers = check_once(tmp_path, {9999: 1, **{n + 1: count for n, count in enumerate(counts)}, **children})
    assert all(numbers[epoch] == 0 for epoch in (1, 2, 3, 4, 9999))
    assert all(numbers[epoch] for epoch in children)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_log_through_the_logger_they_are_given(tmp_path: Path, method: str):
    run(
        tmp_path,
        f"""
        def work(log, epoch):
            log_some(log, epoch, 300)
            log.log_performance_metrics(0.5)

        if __name__ == "__main__":
            log = AdvancedLogger("logs", "run", console="off", overflow_timeout_s=None, metrics=("mine",))
            context = multiprocessing.get_context({method!r})
            processes = [context.Process(target=work, args=(log, epoch)) for epoch in (1, 2, 3)]
            for process in processes:
                process.start()
            log_some(log, 4, 300)
            for process in processes:
                process.join()
                assert process.exitcode == 0
            log.close()
            assert log.get_training_summary()["total_metrics"] == 1200
        """,
    )
    assert check_once(tmp_path, dict.fromkeys((1, 2, 3, 4), 300))[4] == 0
    system = [row for row in json_lines(tmp_path / "logs" / "run_system.jsonl") if row.get("batch_time")]
    assert sorted(str(row["worker"]) for row in system) == ["1", "2", "3"]


@pytest.mark.torch
@pytest.mark.parametrize(
    ("method", "workers"),
    [
        ("fork", 8),
        ("spawn", 2),
        ("forkserver", 2),
        pytest.param("spawn", 8, marks=pytest.mark.stress),
        pytest.param("forkserver", 8, marks=pytest.mark.stress),
    ],
)
def test_the_workers_of_a_data_loader_log_what_they_load(tmp_path: Path, method: str, workers: int):
    run(
        tmp_path,
        f"""
        import torch
        from torch.utils.data import DataLoader, Dataset

        warnings.simplefilter("ignore", UserWarning)  # more workers than cores

        class Numbers(Dataset):
            def __init__(self, log):
                self.log = log

            def __len__(self):
                return 64

            def __getitem__(self, index):
                self.log.log_batch_progress(1 + index, 1, None, index / 64, mine=1 + index)
                return index

        if __name__ == "__main__":
            with AdvancedLogger("logs", "run", console="off") as log:
                folder = log.health().ring_path + ".workers"
                for repeat in (0, 1):
                    loader = DataLoader(Numbers(log), 4, num_workers={workers}, multiprocessing_context={method!r})
                    assert sorted(int(n) for batch in loader for n in batch) == list(range(64))
                    del loader
            assert not os.path.exists(folder)
        """,
    )
    found = Counter(row["epoch"] for row in rows(tmp_path))
    assert found == dict.fromkeys(range(1, 65), 2)
    numbers = Counter(row["worker"] for row in rows(tmp_path))
    assert set(numbers) == set(range(1, 2 * workers + 1)), "each worker of each loader has a number"


def test_the_control_plane_of_a_child_is_lines_of_the_training_log_and_touches_no_file(tmp_path: Path):
    run(
        tmp_path,
        """
        log = AdvancedLogger("logs", "run", console="off", max_log_size=4096)
        held, files = log.logger, ("main.log", "errors.log", "events.jsonl", "summary.json")
        files = [Path(f"logs/run_{name}") for name in files]
        read = lambda: [file.read_text() if file.exists() else "" for file in files]
        span = log.training_context("around")
        span.__enter__()
        log._session.shielded(lambda: None)  # the first summary is there
        before = read()

        def child():
            log.start_training({"api_key": "secret", "lr": 1})
            log.start_epoch(1, 2)
            log.end_epoch(1, {"f1": 0.5})
            log.log_validation(1, {"accuracy": 0.75}, is_best=True)
            log.log_hyperparameters({"depth": 3})
            log.log_event("loaded", files=3)
            log.log_recovery("loading", "again")
            log.logger.info("of %s", "child")
            held.warning("held logger")
            error = log.log_error(ValueError("no such file"), "loading", {"path": "x"})
            assert (error.error_type, error.operation) == ("ValueError", "loading")
            with log.training_context("inside"):
                pass
            span.__exit__(None, None, None)
            for _ in range(200):
                log.log_event("many", text="x" * 100)  # more than a file takes before it rotates
            assert log.get_training_summary()["status"] == "worker"
            assert log.health().accepted > 200
            assert log.log_memory_usage().cpu_memory_gb > 0
            assert log.flush() and log.close()
            log.end_training({"loss": 1})
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                log.log_validation("one", {"f1": 0.5, "text": "x"})
            assert [str(w.message).split(":")[0] for w in caught] == ["epoch", "metrics['text']"]
            assert list(log.health().misuse) == ["epoch", "text"]
            assert read() == before

        assert gone(forked(child))
        span.__exit__(None, None, None)
        log.close()
        """,
    )
    training_log = tmp_path / "logs" / "run_training.log"
    lines = [line for file in (*rotated_files(training_log), training_log) for line in text_lines(file)]
    marked = [line for line in lines if line.text.endswith(" worker=1")]
    assert [line.text.split()[0] for line in marked if not line.text.startswith("many")] == [
        "training_start",
        "epoch_start",
        "epoch_end",
        "validation",
        "hyperparameters",
        "loaded",
        "recovery",
        "of",
        "held",
        "error",
        "context_start",
        "context_end",
        "context_end",
        "training_end",
        "validation",
        "epoch:",
        "metrics['text']:",
    ]
    assert sum(line.text.startswith("many") for line in marked) == 200
    text = "\n".join(line.text for line in marked)
    assert "secret" not in text
    assert "type=ValueError" in text
    system = [row for row in json_lines(tmp_path / "logs" / "run_system.jsonl") if row.get("worker")]
    assert len(system) == 1
    assert "child" not in (tmp_path / "logs" / "run_main.log").read_text().replace("left by a child", "")


def test_a_child_of_a_child_has_a_number_of_its_own(tmp_path: Path):
    run(
        tmp_path,
        """
        log = AdvancedLogger("logs", "run", console="off")

        def child():
            log_some(log, 1, 5)
            assert gone(forked(log_some, log, 2, 5))
            log_some(log, 3, 5)

        assert gone(forked(child))
        log.close()
        """,
    )
    found = {row["epoch"]: row["worker"] for row in rows(tmp_path)}
    assert len(rows(tmp_path)) == 15
    assert found[1] == found[3] != found[2]


def test_closing_the_parent_keeps_what_a_living_child_was_acknowledged_and_ends_its_logging(tmp_path: Path):
    out = run(
        tmp_path,
        """
        log = AdvancedLogger("logs", "run", console="off", overflow_timeout_s=None)
        reader, writer = os.pipe()

        def child():
            accepted = 0
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                while not log.health().dropped_at_entry["closed"]:
                    accepted += 1
                    log.log_batch_progress(1, accepted, None, 0.5)
                for _ in range(10):
                    log.log_event("too late")
                    log.log_metrics({"x": 1})
            os.write(writer, json.dumps([accepted - 1, [str(w.message) for w in caught]]).encode())

        pid = forked(child)
        time.sleep(0.7)
        folder = log.health().ring_path + ".workers"
        assert log.close()
        assert not os.path.exists(folder)
        assert gone(pid)
        print(os.read(reader, 4096).decode())
        """,
    )
    accepted, told = json.loads(out)
    assert accepted > 1000
    assert len(told) == 1
    assert "has ended its log" in told[0]
    check_once(tmp_path, {1: accepted})


def test_children_that_log_nothing_leave_nothing(tmp_path: Path):
    run(
        tmp_path,
        """
        log = AdvancedLogger("logs", "run", console="off")
        pids = [forked(lambda: (log.health(), log.attempt, log.paths, repr(log), log.close())) for _ in range(3)]
        pids.append(forked(sys.exit))
        assert [os.waitpid(pid, 0)[1] for pid in pids[:3]] == [0, 0, 0]
        assert os.listdir(log.health().ring_path + ".workers") == []
        """,
    )
    assert rows(tmp_path) == []


def test_a_child_that_outlives_its_parent_s_logger_drops_and_counts(tmp_path: Path):
    run(
        tmp_path,
        """
        log = AdvancedLogger("logs", "run", console="off")
        reader, writer = os.pipe()

        def child():
            os.read(reader, 1)
            log_some(log, 1, 10)
            assert log.health().dropped_at_entry["forked"] == 10
            assert not log.flush() and not log.close()

        pid = forked(child)
        log.close()
        os.write(writer, b"x")
        assert gone(pid)
        """,
    )
    assert rows(tmp_path) == []


def test_a_child_for_which_there_is_no_room_says_so_once_and_its_errors_go_to_stderr(tmp_path: Path):
    out = run(
        tmp_path,
        """
        import resource, signal
        log = AdvancedLogger("logs", "run", console="off")

        def child():
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                log_some(log, 1, 10)
            sys.stderr = sys.stdout
            log.log_error("broken", "loading")
            print([str(w.message).split(" in ")[0] for w in caught], flush=True)

        assert gone(forked(child))
        assert os.listdir(log.health().ring_path + ".workers") == []
        """,
    )
    assert out.splitlines() == [
        "advlog_fast: error category=other operation=loading type=Message message=broken",
        "['no ring for this process']",
    ]


def test_an_error_in_a_child_of_a_run_without_a_training_log_goes_to_stderr(tmp_path: Path):
    run(
        tmp_path,
        """
        log = AdvancedLogger("logs", "run", console="off", text=False)
        assert gone(forked(log.log_error, "broken", "loading"))
        """,
        stderr="advlog_fast: error category=other operation=loading type=Message message=broken\n",
    )


class Subclass(AdvancedLogger):
    pass


def test_a_pickled_logger_is_itself_at_home_and_nothing_once_its_session_has_ended(tmp_path: Path):
    log = Subclass(tmp_path, "run", console="off")
    pickled = pickle.dumps(log)
    assert pickle.loads(pickled) is log  # noqa: S301 - our own
    ring = log.health().ring_path
    log.close()
    handle = pickle.loads(pickled)  # noqa: S301 - our own
    assert type(handle) is Subclass
    if handle is not log:
        handle.log_batch_progress(1, 1, 1, 0.5)
        handle.log_event("nothing")
    assert ring is not None
    assert not children_folder(Path(ring)).exists()
    assert not Path(ring).exists()


def test_a_handle_in_another_process_does_nothing_once_the_session_has_ended(tmp_path: Path):
    log = AdvancedLogger(tmp_path / "logs", "run", console="off")
    (tmp_path / "pickled").write_bytes(pickle.dumps(log))
    log.close()
    before = sorted(os.listdir(tmp_path / "logs"))
    run(
        tmp_path,
        """
        import pickle
        warnings.simplefilter("ignore")
        log = pickle.loads(Path("pickled").read_bytes())
        log_some(log, 1, 5)
        log.log_event("nothing")
        log.logger.info("nothing")
        with log.training_context("nothing"):
            pass
        assert log.enabled and log.attempt == 1 and log.paths["main_log"].name == "run_main.log"
        assert log.health().accepted == 0
        assert not log.close() and not log.flush()
        """,
    )
    assert sorted(os.listdir(tmp_path / "logs")) == before


def test_a_disabled_logger_is_disabled_in_every_process(tmp_path: Path):
    log = AdvancedLogger(tmp_path / "logs", "run", enabled=False)
    other = pickle.loads(pickle.dumps(log))  # noqa: S301 - our own
    assert not other.enabled
    other.log_batch_progress(1, 1, 1, 0.5)
    assert not (tmp_path / "logs").exists()


def test_a_record_is_known_at_once_where_a_flush_of_the_parent_asks_for_it(tmp_path: Path):
    run(
        tmp_path,
        """
        log = AdvancedLogger("logs", "run", console="off")
        for epoch in range(1, 21):
            assert gone(forked(log_some, log, epoch, 3))
            assert log.flush()
            assert Path("logs/run_metrics.jsonl").read_text().count(f'"epoch":{epoch},') == 3
        log.close()
        """,
    )
    check_once(tmp_path, dict.fromkeys(range(1, 21), 3))


@pytest.mark.parametrize("asked", ["summary", "state", "epoch"])
def test_what_a_finished_child_has_logged_is_in_what_is_asked_next(tmp_path, asked):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        for turn in range(1, 6):
            log.start_epoch(turn)
            child = os.fork()
            if child == 0:
                for batch in range(1, 11):
                    log.log_batch_progress(turn, batch, 10, 1.0)
                os._exit(0)
            os.waitpid(child, 0)
            if asked == "summary":
                assert log.get_training_summary()["total_metrics"] == 10 * turn
            elif asked == "state":
                assert log.state_dict()["seq"] == 10 * turn
            else:
                log.end_epoch(turn)
                assert log.get_training_summary()["epochs"][-1]["batches"] == 10
