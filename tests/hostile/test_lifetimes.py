"""Loggers that end while others begin: handles, children, collectors and threads, each at the wrong moment."""

from __future__ import annotations

import gc
import pickle
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
from hostile_runs import run_script

from advlog_fast import AdvancedLogger, read_jsonl


def steps(folder: Path) -> list[int]:
    return sorted(row["step"] for row in read_jsonl(folder / "run_metrics.jsonl"))


def shared(folder: Path) -> AdvancedLogger:
    return AdvancedLogger.shared(folder, "run", console="off", parquet=False)


def succeeds(code: str, log_dir: Path, timeout_s: float = 120) -> None:
    done = run_script(code, log_dir, timeout_s)
    assert done.returncode == 0, done.stderr


# -- children ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["shared", "the session's own"])
def test_every_handle_logs_in_a_forked_child(tmp_path: Path, first: str):
    code = f"""
    make = AdvancedLogger.shared if {first!r} == "shared" else AdvancedLogger
    one = make(LOG_DIR, "run", console="off", parquet=False)
    two = AdvancedLogger.shared(LOG_DIR, "run", console="off")
    if os.fork() == 0:
        one.log_metrics({{"loss": 1.0}}, step=1)
        for step in range(2, 10):
            two.log_metrics({{"loss": 1.0}}, step=step)
        os._exit(0 if two.flush() and two.health().offered == 9 else 1)
    assert os.wait()[1] == 0
    """
    succeeds(code, tmp_path)
    assert steps(tmp_path) == list(range(1, 10))


@pytest.mark.parametrize("how", ["a fork", "fork", "spawn"])
def test_shared_in_a_child_logs_as_a_worker(tmp_path: Path, run_python, how: str):
    script = tmp_path / "script.py"
    script.write_text(f"""
import multiprocessing, os, warnings
from advlog_fast import AdvancedLogger
warnings.simplefilter("ignore")
log = AdvancedLogger.shared("here", "run", console="off", parquet=False)
def work(step):
    log = AdvancedLogger.shared("here", "run", console="off", parquet=False)
    log.log_metrics({{"loss": 0.5}}, step=step)
    assert log.flush()
if __name__ == "__main__":
    if {how!r} == "a fork":
        if os.fork() == 0:
            work(1)
            work(2)
            os._exit(0)
        assert os.wait()[1] == 0
    else:
        with multiprocessing.get_context({how!r}).Pool(1) as pool:
            pool.map(work, [1, 2])
""")
    done = run_python(str(script))
    assert done.returncode == 0, done.stderr
    rows = list(read_jsonl(tmp_path / "here" / "run_metrics.jsonl"))
    assert sorted(row["step"] for row in rows) == [1, 2]
    assert {row["worker"] for row in rows} == {1}


@pytest.mark.parametrize("options", ["rank=1, world_size=2", "text=False"])
def test_what_a_child_says_where_no_training_log_is_written_is_counted_and_errors_are_shown(
    tmp_path: Path, options: str
):
    code = f"""
    log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, {options})
    if os.fork() == 0:
        log.log_metrics({{"loss": 0.5}}, step=1)
        log.log_event("decoded", path="P")
        log.logger.warning("SLOW")
        try:
            1 / 0
        except ZeroDivisionError as error:
            log.log_error(error, "op")
        os._exit(0 if not log.flush() and log.health().dropped_at_entry["forked"] == 3 else 1)
    assert os.wait()[1] == 0
    log.close()
    assert log.health().dropped_at_entry["forked"] == 3, log.health()
    """
    done = run_script(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "advlog_fast: SLOW\n" in done.stderr
    (error,) = (line for line in done.stderr.splitlines() if "ZeroDivisionError" in line)
    assert 'message="division by zero" where=<string>:' in error.replace('"<string>', "<string>")
    assert "decoded" not in done.stderr


def test_a_handle_that_was_closed_stays_so_in_a_child_and_through_a_pickle(tmp_path: Path):
    code = """
    import pickle, warnings
    warnings.simplefilter("ignore")
    one, two = (AdvancedLogger.shared(LOG_DIR, "run", console="off", parquet=False) for _ in range(2))
    one.close()
    again = pickle.loads(pickle.dumps(one))
    again.log_metrics({"loss": 1.0}, step=1)
    assert not again.flush()
    if os.fork() == 0:
        one.log_metrics({"loss": 1.0}, step=2)
        two.log_metrics({"loss": 1.0}, step=3)
        os._exit(0 if two.flush() else 1)
    assert os.wait()[1] == 0
    third = pickle.loads(pickle.dumps(two))
    assert third is not two and third.close()
    two.log_metrics({"loss": 1.0}, step=4)
    """
    succeeds(code, tmp_path)
    assert steps(tmp_path) == [3, 4]


# -- collectors and threads --------------------------------------------------------------------------------------------


def test_the_collector_may_end_a_handle_on_any_thread_while_another_begins(tmp_path: Path):
    code = """
    import warnings
    warnings.simplefilter("ignore")
    keep = AdvancedLogger.shared(LOG_DIR, "run", console="off", parquet=False)
    class Box:
        pass
    end = time.monotonic() + 4
    while time.monotonic() < end:
        box = Box()
        box.itself = box
        box.log = AdvancedLogger.shared(LOG_DIR, "run", console="off")
        del box
        AdvancedLogger.shared(LOG_DIR, "other", console="off", parquet=False).close()
    keep.log_metrics({"loss": 1.0}, step=1)
    assert keep.close()
    """
    succeeds(code, tmp_path, 60)
    assert steps(tmp_path) == [1]


def test_threads_share_and_close_at_once(tmp_path: Path):
    raised: list[BaseException] = []

    def share() -> None:
        try:
            for _ in range(30):
                log = shared(tmp_path)
                log.log_metrics({"loss": 1.0}, step=1)
                assert log.close()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=share) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert raised == []
    gc.collect()


def test_on_the_drains_own_thread_nothing_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, two = shared(tmp_path), shared(tmp_path)
    asked: list[float] = []
    drain = two._session.accounting.drain
    flush = drain.flush
    monkeypatch.setattr(drain, "flush", lambda timeout_s: asked.append(timeout_s) or flush(timeout_s))

    def end() -> None:
        two.flush(30)
        one.close(30)

    for name in ("advlog-drain", "any"):
        thread = threading.Thread(target=end, name=name)
        thread.start()
        thread.join()
    assert asked == [0.0, 0.0, 30, 30]
    monkeypatch.undo()
    assert two.close()


def test_the_collector_closes_a_logger_that_reserves_places_for_values(tmp_path: Path):
    code = """
    import gc
    log = AdvancedLogger(LOG_DIR, "run", console="off", text=False, parquet=False)
    reserve = log._session.parts.deferral._producer._reserve
    class Box:
        def __del__(self):
            log.close()
    gc.disable()
    keep = [[] for _ in range(200)]  # so that the next list is a new one
    box = Box()
    box.itself = box
    del box
    gc.set_threshold(1)
    gc.enable()
    reserve(3)
    """
    succeeds(code, tmp_path)


def test_the_counts_can_be_asked_for_while_handles_come_and_go(tmp_path: Path):
    log = shared(tmp_path)
    stop = threading.Event()
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                log.health()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    handles = [shared(tmp_path) for _ in range(1500)]
    stop.set()
    thread.join()
    assert raised == []
    del handles
    assert log.close()


def test_a_handle_closed_by_another_thread_is_no_want_of_room_for_names(tmp_path: Path):
    keep = shared(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for turn in range(100):
            log = shared(tmp_path)
            begun = threading.Event()

            def names(log: AdvancedLogger = log, begun: threading.Event = begun, turn: int = turn) -> None:
                begun.set()
                for i in range(30):
                    log.log_metrics({f"a{turn}/{i}": 1.0})

            thread = threading.Thread(target=names)
            thread.start()
            begun.wait()
            log.close()
            thread.join()
    health = keep.health()
    assert health.misuse == {}
    assert keep.close()
    written = sum(1 for _ in read_jsonl(tmp_path / "run_metrics.jsonl"))
    assert written + health.dropped_at_entry["closed"] == 3000


# -- how handles say that the run ended --------------------------------------------------------------------------------


def test_what_one_handle_says_of_the_end_holds(tmp_path: Path):
    one, two = shared(tmp_path), shared(tmp_path)
    assert one.close(status="failed")
    assert two.close()
    assert '"status":"failed"' in (tmp_path / "run_summary.json").read_text().replace(" ", "")
    one, two = shared(tmp_path), shared(tmp_path)
    with pytest.raises(ZeroDivisionError), one:
        raise ZeroDivisionError
    assert two.close()
    assert '"status":"failed"' in (tmp_path / "run_summary.json").read_text().replace(" ", "")


# -- what a program does to its own streams and objects ----------------------------------------------------------------


def test_a_warning_finds_no_standard_error(tmp_path: Path):
    code = """
    log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
    sys.stdout.close()
    sys.stderr.close()
    log.log_batch_progress(1, 1, 10, "no number")
    if os.fork() == 0:
        with open(os.path.join(LOG_DIR, "child"), "w") as file:
            log.log_error(ValueError("x"))
            file.write("went on")
        os._exit(0)
    os.wait()
    log.close()
    log.log_batch_progress(1, 2, 10, 0.5)
    os._exit(7)
    """
    assert run_script(code, tmp_path).returncode == 7
    assert (tmp_path / "child").read_text() == "went on"


class Failing(Mapping):  # type: ignore[type-arg]
    def __init__(self, where: str) -> None:
        self.where = where

    def _fail(self, where: str) -> None:
        if where == self.where:
            raise RuntimeError(where)

    def __getitem__(self, name: str) -> int:
        self._fail("item")
        return 1

    def __iter__(self):
        self._fail("iter")
        return iter(["a", "b"])

    def __len__(self) -> int:
        self._fail("len")
        return 2

    def __bool__(self) -> bool:
        self._fail("bool")
        return True


class Unreadable(Exception):  # noqa: N818
    def __getattribute__(self, name: str) -> object:
        raise RuntimeError(name)


@pytest.mark.parametrize("where", ["item", "iter", "len", "bool"])
def test_a_mapping_that_cannot_be_read_ends_no_training(tmp_path: Path, where: str):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.start_training(Failing(where))
        log.log_hyperparameters(Failing(where))
        recorded = log.log_error(ValueError("of the batch"), "op", Failing(where))
        log.log_recovery("op", "again", Failing(where)) if where == "none" else None
        log.end_training(Failing(where))
    assert recorded.error_message == "of the batch"
    assert "of the batch" in (tmp_path / "run_errors.log").read_text()


def test_an_exception_that_cannot_be_read_is_recorded(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.log_error(Unreadable("x"), "op")
        try:
            raise Unreadable("y")
        except Unreadable:
            log.logger.exception("met")
        with pytest.raises(Unreadable), log.training_context("block"):
            raise Unreadable("z")
    assert log.get_training_summary()["total_errors"] == 3


@pytest.mark.parametrize("closed", [False, True])
def test_a_logger_that_is_off_reads_nothing_of_an_error(tmp_path: Path, closed: bool):
    log = AdvancedLogger(tmp_path, "run", console="off", parquet=False, enabled=closed)
    log.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for error in (Unreadable("x"), ValueError("y"), "a text"):
            entry = log.log_error(error, "op", Failing("iter"))
            assert entry.operation == "op"
    assert entry.error_type == "Message"


def test_a_child_s_own_fields_are_not_the_context_s(tmp_path: Path):
    code = """
    log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
    if os.fork() == 0:
        log.log_error(ValueError("of the batch"), "op", {"message": "mine", "type": "T", "path": "p"})
        os._exit(0 if log.flush() else 1)
    assert os.wait()[1] == 0
    """
    succeeds(code, tmp_path)
    (line,) = (line for line in (tmp_path / "run_training.log").read_text().splitlines() if " ERROR error" in line)
    assert 'message="of the batch" type=ValueError path=p category=other operation=op' in line


class Dictless:
    @property
    def __dict__(self):
        raise RuntimeError("no")


def test_settings_whose_attributes_cannot_be_read(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        log.start_training(Dictless())
    assert "RuntimeError" in (tmp_path / "run_events.jsonl").read_text()


def test_a_pickle_is_itself_at_home(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", parquet=False) as log:
        assert pickle.loads(pickle.dumps(log)) is log  # noqa: S301 our own
