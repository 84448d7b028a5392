"""A session's start, its attempts, and each way that it ends."""

from __future__ import annotations

import gc
import json
import logging
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from run_files import descriptors

from advlog_fast import AdvancedLogger, RunBusyError, TrainingProgressTracker, read_jsonl


def summary(log_dir: Path, name: str = "life") -> dict[str, object]:
    loaded = json.loads((log_dir / f"{name}_summary.json").read_text())
    assert isinstance(loaded, dict)
    return loaded


def run_script(code: str, log_dir: Path, *, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a process of its own, with a logger `log`; its standard error must be as the code leaves it."""
    script = f"from advlog_fast import AdvancedLogger\nlog = AdvancedLogger({str(log_dir)!r}, 'life', console='off')\n"
    command = [sys.executable, "-W", "error", "-c", script + textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == expect, done.stderr
    return done


def test_a_second_attempt_begins_with_a_rotation_and_overwrites_nothing(tmp_path: Path):
    for attempt in (1, 2, 3):
        with AdvancedLogger(tmp_path, "life", console="off") as log:
            assert log.attempt == attempt
            log.log_batch_progress(1, attempt, 3, attempt / 8)
    rows = read_jsonl(tmp_path / "life_metrics.jsonl")
    assert [(row["attempt"], row["seq"], row["loss"]) for row in rows] == [
        (1, 1, 0.125),
        (2, 1, 0.25),
        (3, 1, 0.375),
    ]
    parts = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*metrics.parquet/*/*.parquet"))
    assert parts == [f"life_metrics.parquet/attempt-{n}/rank00000-000001.parquet" for n in (1, 2, 3)]
    assert "batch=3/3" in (tmp_path / "life_training.log").read_text()
    assert "batch=1/3" in (tmp_path / "life_training.log.2").read_text()


@pytest.mark.parametrize("ending", ["pass", "import sys; sys.exit(0)", "log.close()", "del log"])
def test_every_record_is_written_and_the_status_completed_however_a_script_ends(tmp_path: Path, ending: str):
    done = run_script(f"for i in range(1000): log.log_batch_progress(1, i + 1, 1000, 0.5)\n{ending}", tmp_path)
    assert done.stderr == ""
    assert [row["seq"] for row in read_jsonl(tmp_path / "life_metrics.jsonl")] == list(range(1, 1001))
    assert summary(tmp_path)["status"] == "completed"
    assert summary(tmp_path)["total_metrics"] == 1000


def test_an_uncaught_exception_ends_the_run_as_failed(tmp_path: Path):
    done = run_script("log.log_batch_progress(1, 1, 1, 0.5)\nraise RuntimeError('boom')", tmp_path, expect=1)
    assert done.stderr.rstrip().endswith("RuntimeError: boom")
    assert summary(tmp_path)["status"] == "failed"
    assert len(read_jsonl(tmp_path / "life_metrics.jsonl")) == 1


def test_a_keyboard_interrupt_is_interrupted_and_no_error(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), AdvancedLogger(tmp_path, "life", console="off"):
        raise KeyboardInterrupt
    assert summary(tmp_path)["status"] == "interrupted"
    assert summary(tmp_path)["total_errors"] == 0


def test_an_exception_leaving_the_with_block_is_logged_and_the_status_failed(tmp_path: Path):
    with pytest.raises(ValueError, match="boom"), AdvancedLogger(tmp_path, "life", console="off"):
        raise ValueError("boom")
    assert summary(tmp_path)["status"] == "failed"
    assert 'type=ValueError message="boom"' in (tmp_path / "life_errors.log").read_text()


def test_a_second_logger_of_the_run_in_one_process_closes_the_first(tmp_path: Path):
    first = AdvancedLogger(tmp_path, "life", console="off")
    first.log_batch_progress(1, 1, 2, 0.5)
    with AdvancedLogger(tmp_path, "life", console="off") as second:
        second.log_batch_progress(1, 2, 2, 0.25)
        with pytest.warns(RuntimeWarning, match="closed, superseded by attempt 2 .* after close"):
            first.log_batch_progress(1, 1, 1, 1.0)
        first.log_batch_progress(1, 1, 1, 1.0)
    health = first.health()
    # Accepted were its record, and the line that says how it ended.
    assert (health.offered, health.accepted, health.dropped_at_entry["closed"]) == (4, 2, 2)
    assert [row["attempt"] for row in read_jsonl(tmp_path / "life_metrics.jsonl")] == [1, 2]


def all_but_records(log: AdvancedLogger) -> None:
    log.start_training({"a": 1})
    log.start_epoch(1, 2)
    log.log_hyperparameters({"a": 1})
    log.log_model_info(object())
    log.log_validation(1, {"accuracy": 1.0}, is_best=True)
    log.log_event("late")
    log.log_recovery("op", "again")
    with log.training_context("late"):
        log.log_error(ValueError("late"), "op")
    log.end_epoch(1)
    log.logger.warning("late")
    TrainingProgressTracker(log).update_progress(1, 1, 1, 1)
    log.end_training()


@pytest.mark.parametrize("superseded", [False, True])
def test_calls_after_the_close_warn_once_write_nothing_and_show_nothing(
    tmp_path: Path, superseded: bool, capfd: pytest.CaptureFixture[str]
):
    log = AdvancedLogger(tmp_path, "life", console="plain")
    inside = log.training_context("inside")
    inside.__enter__()
    second = AdvancedLogger(tmp_path, "life", console="off") if superseded else None
    log.close()
    if second is not None:
        second._session.shielded(lambda: None)  # its first summary is written
    before = {path: path.read_bytes() for path in tmp_path.glob("life_*.*") if path.is_file()}
    capfd.readouterr()
    with pytest.warns(RuntimeWarning, match="superseded by attempt 2" if superseded else "closed: ") as caught:
        all_but_records(log)
        all_but_records(log)
        inside.__exit__(ValueError, ValueError("late"), None)
    assert [str(warning.filename) for warning in caught] == [__file__]
    assert {path: path.read_bytes() for path in before} == before
    assert capfd.readouterr().err == ""
    if second is not None:
        second.close()


def test_an_attempt_that_is_superseded_in_its_middle_was_interrupted(tmp_path: Path):
    for ended, status in ((False, "interrupted"), (True, "completed")):
        first = AdvancedLogger(tmp_path, "life", console="off")
        first.start_training()
        if ended:
            first.end_training()
        with AdvancedLogger(tmp_path, "life", console="off"):
            assert first.health().status == status
    files = tmp_path.glob("life_events.jsonl*")
    ends = [row["status"] for file in files for row in read_jsonl(file, rotated=False) if row["event"] == "attempt_end"]
    assert sorted(ends) == ["completed", "completed", "completed", "interrupted"]


def test_the_longest_names_all_fit(tmp_path: Path):
    with AdvancedLogger(
        tmp_path, "life", console="off", text=False, jsonl=False, parquet=False, memory_interval_s=0
    ) as log:
        for first in range(0, 65_535, 2000):
            log.log_metrics({f"{n:0255}": n for n in range(first, min(first + 2000, 65_535))})
        assert log.health().misuse == {}
        with pytest.warns(RuntimeWarning, match="at most 65535 different names"):
            log.log_metrics({"one more": 1.0})


@pytest.mark.parametrize("output", ["text", "jsonl", "parquet"])
def test_paths_name_the_outputs_that_are_written(tmp_path: Path, output: str):
    with AdvancedLogger(tmp_path, "life", console="off", **{output: False}) as log:  # type: ignore[arg-type]
        log.log_batch_progress(1, 1, 1, 0.5)
        log.log_memory_usage()
    missing = {
        "text": {"training_log"},
        "jsonl": {"metrics_jsonl", "system_jsonl"},
        "parquet": {"metrics_parquet", "system_parquet"},
    }[output]
    logs = {"main_log", "training_log", "errors_log", "events_jsonl", "summary"}
    streams = {"metrics_jsonl", "metrics_parquet", "system_jsonl", "system_parquet"}
    assert set(log.paths) == (logs | streams) - missing
    assert all(path.exists() for path in log.paths.values())


def test_another_ranks_paths_name_a_training_log_only_where_it_writes_one(tmp_path: Path):
    for text_ranks in ("rank0", "all"):
        with AdvancedLogger(tmp_path, "life", console="off", rank=1, text_ranks=text_ranks) as log:
            assert ("training_log" in log.paths) == (text_ranks == "all")


def test_the_main_log_can_be_told_another_level(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off", log_level="WARNING") as log:  # type: ignore[arg-type]
        assert log.log_level == logging.WARNING
        log.logger.setLevel(logging.DEBUG)
        log.logger.debug("now")
    assert " DEBUG now\n" in (tmp_path / "life_main.log").read_text()


def test_without_any_output_records_are_counted(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off", text=False, jsonl=False, parquet=False) as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert summary(tmp_path)["total_metrics"] == 1


def test_a_run_that_another_live_process_logs_is_refused_naming_its_pid(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off"):
        code = f"from advlog_fast import AdvancedLogger\nAdvancedLogger({str(tmp_path)!r}, 'life')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    what = f"{RunBusyError.__name__}: rank 0 of 'life' in {tmp_path}"
    assert f"{what} is being logged by another live process: pid {os.getpid()}" in done.stderr


def test_a_logger_that_nobody_refers_to_closes_itself(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "life", console="off")
    log.log_batch_progress(1, 1, 1, 0.5)
    del log
    gc.collect()
    assert summary(tmp_path)["status"] == "completed"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("advlog-")]


def test_closing_leaves_no_thread_no_descriptor_and_no_ring(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off"):
        pass  # what the first run loads for good, stays open for good
    before = descriptors()
    with AdvancedLogger(tmp_path, "life", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
        ring = log.health().ring_path
        assert ring is not None
        assert Path(ring).exists()
    assert not Path(ring).exists()
    assert descriptors() == before
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("advlog-")]
    assert not list((tmp_path / ".advlog" / "life" / "spool").iterdir())
    assert not list((tmp_path / ".advlog" / "life" / "tmp").iterdir())


def test_the_accounting_adds_up_after_flush_and_after_close(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "life", console="off", training_log_every=10)
    for i in range(500):
        log.log_batch_progress(1, i + 1, 500, 0.5)
    log.log_performance_metrics(0.1)
    assert log.flush()
    for closed in (False, True):
        if closed:
            assert log.close()
        health = log.health()
        assert health.offered == health.accepted + sum(health.dropped_at_entry.values())
        assert health.pending == 0
        for sink in health.sinks.values():
            assert sink.accepted == sink.written + sink.dropped + sink.pending, sink
        assert health.sinks["metrics_jsonl"].written == 500
        assert health.sinks["text"].filtered == 450


def test_what_the_control_plane_and_the_sealer_could_not_write_shows_in_the_account(tmp_path: Path):
    log = AdvancedLogger(tmp_path, "life", console="off")
    health = log.health()
    assert (health.seal_faults, health.seal_error, health.entries_error) == (0, None, None)
    files = {f"life_{what}" for what in ("main.log", "errors.log", "events.jsonl")}
    assert dict(health.entries_lost) == dict.fromkeys((*files, "console"), 0)
    (tmp_path / "life_events.jsonl").rename(tmp_path / "events")
    (tmp_path / "life_events.jsonl").mkdir()
    (tmp_path / "life_metrics.parquet").write_text("in the way")
    time.sleep(1.1)  # the file's place is looked at once a second
    log.log_event("lost")
    log.log_batch_progress(1, 1, 1, 0.5)
    log.end_training()
    health = log.health()
    assert health.entries_lost["life_events.jsonl"] >= 1
    assert str(health.entries_error).startswith("life_events.jsonl: ")
    assert health.seal_faults >= 1
    assert "could not be sealed" in str(health.seal_error)
    accounting = summary(tmp_path)["accounting"]
    assert isinstance(accounting, dict)
    for field in ("seal_faults", "seal_error", "entries_lost", "entries_error"):
        assert accounting[field], field
    (tmp_path / "life_metrics.parquet").unlink()
    log.close()


def test_a_disabled_logger_has_an_account_of_nothing():
    health = AdvancedLogger("nowhere", enabled=False).health()
    assert (health.status, health.offered, health.seal_faults, health.entries_lost) == ("disabled", 0, 0, {})


def test_closing_in_a_forked_child_ends_nothing(tmp_path: Path):
    done = run_script(
        """
        import os, warnings
        # Of a fork beside threads Python warns, and from 3.15 on the fork itself raises where warnings are errors.
        warnings.filterwarnings("ignore", "This process", DeprecationWarning)
        log.log_batch_progress(1, 1, 2, 0.5)
        child = os.fork()
        if child == 0:
            assert log.flush() and log.close()
            log.end_training()
            assert not log._session.closed
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        log.log_batch_progress(1, 2, 2, 0.25)
        """,
        tmp_path,
    )
    assert done.stderr == ""
    assert [row["loss"] for row in read_jsonl(tmp_path / "life_metrics.jsonl")] == [0.5, 0.25]
    assert summary(tmp_path)["status"] == "completed"


def test_a_disabled_logger_takes_every_call_and_makes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADVLOG_DISABLED", "1")
    with AdvancedLogger(tmp_path / "logs", "life") as log:
        log.start_training({"a": 1})
        log.start_epoch(1, 2)
        log.log_batch_progress(1, 1, 1, object())
        log.log_metrics({"x": 1})
        log.log_performance_metrics(1.0)
        assert log.log_memory_usage() is None
        with log.training_context("x"):
            log.log_validation(1, {"accuracy": 1}, True)
        log.log_error(ValueError("x"), "op")
        log.end_epoch(1)
        log.end_training()
        assert log.get_training_summary()["total_metrics"] == 0
    assert not (tmp_path / "logs").exists()


def test_a_full_ring_drops_the_newest_and_counts_them(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off", ring_bytes=64 * 1024, overflow="drop_newest") as log:
        for i in range(50_000):
            log.log_batch_progress(1, i, None, 0.5)
    health = log.health()
    rows = read_jsonl(tmp_path / "life_metrics.jsonl")
    assert health.offered >= 50_000
    assert len(rows) + health.dropped_at_entry["full"] >= 50_000
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))


def test_a_ring_directory_on_disk_and_the_smallest_ring_keep_everything(tmp_path: Path):
    options = {"ring_bytes": 64 * 1024, "ring_dir": tmp_path / "rings", "overflow_timeout_s": None}
    with AdvancedLogger(tmp_path, "life", console="off", **options) as log:  # type: ignore[arg-type]
        assert str(log.health().ring_path).startswith(str(tmp_path / "rings"))
        for i in range(20_000):
            log.log_batch_progress(1, i + 1, None, i / 4, one=1.0, two=2.0, three=3.0, four=4.0)
    assert [row["loss"] for row in read_jsonl(tmp_path / "life_metrics.jsonl")] == [i / 4 for i in range(20_000)]


def test_the_drains_cpu_time_is_its_threads_own_after_the_end_too(tmp_path: Path):
    while (busy_s := time.thread_time()) < 0.5:
        pass
    with AdvancedLogger(tmp_path, "life", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert log.health().drain_cpu_s < busy_s


def test_the_first_call_of_a_run_stands_for_no_other(tmp_path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.log_batch_progress(1, 1, 600, 0.5, new=1.0)
        assert log.health().call.timed == 0
        for batch in range(2, 600):
            log.log_batch_progress(1, batch, 600, 0.5, new=1.0)
        assert log.health().call.timed == 1


def test_the_cost_of_calls_is_sampled(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off") as log:
        assert log.health().call.timed == 0
        began = time.perf_counter()
        for i in range(20_000):  # fewer than the ring has slots: none of them waits
            log.log_batch_progress(1, i + 1, None, i / 4)
        took_s = time.perf_counter() - began
        cost = log.health().call
    assert 19 <= cost.timed <= 20  # one in 1024 slots
    assert 0 < cost.p50_s <= cost.p99_s <= cost.max_s < took_s
    assert (cost.stalls, cost.stalled_s) == (0, 0.0)
    assert " overhead timed=" in (tmp_path / "life_main.log").read_text()


def test_waits_for_room_are_counted(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off", ring_bytes=64 * 1024, overflow_timeout_s=None) as log:
        began = time.perf_counter()
        for i in range(20_000):  # the ring has room for a fortieth of them
            log.log_batch_progress(1, i + 1, None, i / 4)
        took_s = time.perf_counter() - began
        cost = log.health().call
    assert cost.stalls > 0
    assert 0 < cost.stalled_s < took_s
    assert log.health().call.stalls == cost.stalls
    assert json.loads((tmp_path / "life_summary.json").read_text())["overhead"]["stalls"] == cost.stalls


def test_a_logger_that_never_waited_says_so(tmp_path: Path):
    with AdvancedLogger(tmp_path, "life", console="off") as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert (log.health().call.stalls, log.health().call.stalled_s) == (0, 0.0)
