"""Loggers that are no session's own: shared ones, and those that come out of a pickle, a fork or a spawned child."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, list_runs, read_jsonl

# -- shared ------------------------------------------------------------------------------------------------------------


def shared(folder: Path, **options) -> AdvancedLogger:
    return AdvancedLogger.shared(folder, "run", **options)


def steps(folder: Path) -> list[int]:
    return sorted(row["step"] for row in read_jsonl(folder / "run_metrics.jsonl"))


def test_handles_log_into_one_run_which_ends_with_the_last(tmp_path: Path):
    one, two = shared(tmp_path, console="off"), shared(tmp_path)
    assert one is not two
    one.log_metrics({"loss": 0.5}, step=1)
    two.log_batch_progress(1, 2, 10, 0.5)
    assert one.attempt == two.attempt == 1
    assert one.close()
    assert one.close()
    two.log_metrics({"loss": 0.5}, step=3)
    assert list_runs(tmp_path)["status"].to_pylist() == ["running"]
    with pytest.warns(RuntimeWarning, match="this handle was closed") as said:
        one.log_metrics({"loss": 0.5}, step=4)
    one.log_batch_progress(1, 5, 10, 0.5)
    assert len(said) == 1
    assert two.close(status="failed")
    assert two.health().dropped_at_entry["closed"] == 2
    assert steps(tmp_path) == [1, 2, 3]
    assert list_runs(tmp_path)["status"].to_pylist() == ["failed"]
    assert "closed" in repr(two)


def test_options_that_differ_are_refused_and_named(tmp_path: Path):
    with shared(tmp_path, console="off", fsync="interval") as log:
        with pytest.raises(ValueError, match=r"^fsync: expected 'interval', as the open logger .*, got str 'always'$"):
            shared(tmp_path, fsync="always")
        shared(tmp_path, fsync="interval").close()
        log.log_metrics({"loss": 0.5}, step=1)
    assert steps(tmp_path) == [1]


def test_a_handle_on_another_logger_s_session_does_not_end_it(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        with shared(tmp_path) as handle:
            handle.log_metrics({"loss": 0.5}, step=1)
        log.log_metrics({"loss": 0.5}, step=2)
    assert steps(tmp_path) == [1, 2]


def test_superseding_ends_all_handles_and_they_say_so(tmp_path: Path):
    one, two = shared(tmp_path, console="off"), shared(tmp_path)
    with AdvancedLogger(tmp_path, "run", console="off"):
        for handle in (one, two):
            with pytest.warns(RuntimeWarning, match="closed, superseded by attempt 2"):
                handle.log_metrics({"loss": 0.5}, step=1)
    assert one.close()
    assert two.close()


def test_the_collector_releases_a_handle(tmp_path: Path):
    one, two = shared(tmp_path, console="off"), shared(tmp_path)
    del one
    gc.collect()
    two.log_metrics({"loss": 0.5}, step=1)
    assert two.flush()
    del two
    gc.collect()
    assert list_runs(tmp_path)["status"].to_pylist() == ["completed"]
    with shared(tmp_path, console="off") as log:
        assert log.attempt == 2


def test_a_child_counts_no_handle_and_logs_as_a_worker(tmp_path: Path, run_python):
    code = """
import os
from advlog_fast import AdvancedLogger
one, two = (AdvancedLogger.shared("here", "run", console="off") for _ in range(2))
one.log_metrics({"loss": 0.5}, step=1)
if os.fork() == 0:
    one.log_metrics({"loss": 0.5}, step=2)
    assert one.close() and two.close()
    os._exit(0)
assert os.wait()[1] == 0
two.log_metrics({"loss": 0.5}, step=3)
assert one.close()
two.log_metrics({"loss": 0.5}, step=4)
"""
    ended = run_python("-c", code)
    assert ended.returncode == 0, ended.stderr
    assert steps(tmp_path / "here") == [1, 2, 3, 4]
    assert list_runs(tmp_path / "here")["status"].to_pylist() == ["completed"], "the exit ends all handles"


def test_a_shared_logger_may_be_disabled(tmp_path: Path):
    with shared(tmp_path, enabled=False) as log:
        log.log_metrics({"loss": 0.5})
    assert list(tmp_path.iterdir()) == []


# -- pickles -----------------------------------------------------------------------------------------------------------

SCRIPT = """
import os, pickle, sys, time, warnings
from advlog_fast import AdvancedLogger
class Prefixed(AdvancedLogger):
    def __init__(self, *args, prefix, **options):
        super().__init__(*args, **options)
        self.prefix = prefix
    def log_loss(self, step, loss):
        self.log_metrics({self.prefix + "loss": loss}, step=step)
"""


def script(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    file = folder / "script.py"
    file.write_text(SCRIPT + textwrap.dedent(code))
    return subprocess.run([sys.executable, str(file)], cwd=folder, capture_output=True, text=True, timeout=180)


OVER = "the run that this logger belongs to has ended: what is logged here is dropped; make a new AdvancedLogger"


def test_a_logger_out_of_a_checkpoint_says_once_that_its_run_has_ended(tmp_path: Path):
    with AdvancedLogger(tmp_path / "logs", "run", console="off") as log:
        log.log_metrics({"loss": 0.5}, step=1)
        (tmp_path / "checkpoint").write_bytes(pickle.dumps(log))
    done = script(
        """
        log = pickle.load(open("checkpoint", "rb"))
        assert "closed" in repr(log), log
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for step in range(5):
                log.log_batch_progress(1, step, 10, 0.5)
            log.log_validation(1, {"accuracy": 0.5})
            log.logger.warning("late")
        print(*(str(each.message) for each in caught if each.category is RuntimeWarning), sep="|")
        print(log.flush(), log.close(), log.health().dropped_at_entry["forked"] >= 5)
        """,
        tmp_path,
    )
    said, answers = done.stdout.splitlines()
    assert said.startswith(OVER)
    assert said.count("|") == 0
    assert answers == "False False True", done.stderr
    assert steps(tmp_path / "logs") == [1]


def test_a_closed_logger_that_is_unpickled_in_its_own_process_says_so(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off") as log:
        state = pickle.dumps(log)
    again = pickle.loads(state)  # noqa: S301 - our own
    with pytest.warns(RuntimeWarning, match=OVER):
        again.log_metrics({"loss": 0.5}, step=1)
    assert not again.close()


@pytest.mark.parametrize("enabled", [True, False])
def test_a_subclass_keeps_its_attributes_through_pickling(tmp_path: Path, enabled: bool):
    done = script(
        f"""
        import multiprocessing
        def work(log):
            log.log_loss(2, 0.25)
        if __name__ == "__main__":
            log = Prefixed("logs", "run", console="off", prefix="train/", enabled={enabled})
            log.log_loss(1, 0.5)
            child = multiprocessing.get_context("spawn").Process(target=work, args=(log,))
            child.start()
            child.join()
            again = pickle.loads(pickle.dumps(log))
            print(child.exitcode, type(again).__name__, again.prefix, again is log)
            log.close()
        """,
        tmp_path,
    )
    assert done.stdout == f"0 Prefixed train/ {enabled}\n", done.stderr
    if enabled:
        rows = read_jsonl(tmp_path / "logs" / "run_metrics.jsonl")
        assert [row["train/loss"] for row in rows] == [0.5, 0.25]


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_process_that_became_a_daemon_after_the_logger_was_made_says_so(tmp_path: Path):
    done = script(
        """
        log = AdvancedLogger("logs", "run", console="off")
        log.log_batch_progress(1, 0, 5000, 0.5)
        if os.fork():
            os._exit(0)
        os.setsid()
        while os.getppid() != 1 and "advlog" in open(f"/proc/{os.getppid()}/comm").read():
            time.sleep(0.01)
        time.sleep(0.5)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for batch in range(1, 3000):
                log.log_batch_progress(1, batch, 5000, 0.5)
        print(*(str(each.message)[:80] for each in caught), log.flush(1), log.close(), flush=True)
        os._exit(0)
        """,
        tmp_path,
    )
    said = "the process that writes the files of this run has ended: what is logged here is"
    assert done.stdout.replace(said, "SAID")[:4] == "SAID", done.stdout + done.stderr
    assert done.stdout.split()[-2:] == ["False", "False"]


def test_a_child_whose_parent_is_killed_says_so_when_its_ring_is_full(tmp_path: Path):
    done = script(
        """
        import signal
        log = AdvancedLogger("logs", "run", console="off", overflow_timeout_s=0.1)
        log.log_batch_progress(1, 0, 5000, 0.5)
        parent = os.getpid()
        if os.fork():
            time.sleep(60)
        log.log_batch_progress(1, 1, 5000, 0.5)
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.01)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for batch in range(2, 3000):
                log.log_batch_progress(1, batch, 5000, 0.5)
        print(len(caught), "has ended" in str(caught[0].message), log.flush(0.1), log.close(), flush=True)
        os._exit(0)
        """,
        tmp_path,
    )
    assert done.stdout == "1 True False False\n", done.stderr


@pytest.mark.parametrize("how", ["spawn", "forkserver"])
def test_a_spawned_child_that_imports_the_script_again_logs_as_a_worker(tmp_path: Path, how: str):
    done = script(
        f"""
        import multiprocessing
        log = AdvancedLogger("logs", "run", console="off")
        def work(step):
            log.log_metrics({{"loss": 0.5}}, step=step)
            assert log.flush(20)
            return step
        if __name__ == "__main__":
            context = multiprocessing.get_context({how!r})
            child = context.Process(target=work, args=(1,))
            child.start()
            child.join()
            with context.Pool(2) as pool:
                print(child.exitcode, pool.map(work, range(2, 6)))
            log.close()
        """,
        tmp_path,
    )
    assert done.stdout == "0 [2, 3, 4, 5]\n", done.stderr
    assert 'make the logger under `if __name__ == "__main__":`' in done.stderr
    assert steps(tmp_path / "logs") == [1, 2, 3, 4, 5]
    assert all(row["worker"] > 0 for row in read_jsonl(tmp_path / "logs" / "run_metrics.jsonl"))
