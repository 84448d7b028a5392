"""Signals and locks of the program: a logger meets them anywhere, hangs nobody and ends as it should."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from hostile_runs import run_script

from advlog_fast.recovery import recover
from advlog_fast.verification import verify


def test_a_handler_that_logs_while_its_thread_waits_for_room_hangs_nobody(tmp_path: Path):
    done = run_script(
        """
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, ring_bytes=65536, overflow_timeout_s=0.002)
        handling = []
        def handle(*_):
            if handling:
                return  # on a busy machine the next alarm comes while this one is handled, and the next one inside that
            handling.append(1)
            log.log_batch_progress(2, 1, None, 0.5)
            log.log_memory_usage()
            log.log_event("alarm")
            handling.clear()
        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.0013, 0.0013)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            log_batches(log, 1, 5000)
            log.log_memory_usage()
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(log.health().call.stalls > 0, log.close())
        """,
        tmp_path,
    )
    assert done.stdout == "True True\n", done.stderr


def test_a_sigterm_during_the_close_ends_the_process_after_it(tmp_path: Path):
    done = run_script(
        """
        log = AdvancedLogger(LOG_DIR, "run", console="off", handle_signals=True)
        log_batches(log, 1, 200_000)
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
        log.close()
        time.sleep(20)
        """,
        tmp_path,
    )
    assert done.returncode == -signal.SIGTERM
    assert json.loads((tmp_path / "run_summary.json").read_text())["total_metrics"] == 200_000
    assert not list((tmp_path / ".advlog/run/spool").glob("*.spool"))
    assert recover(tmp_path) == []
    assert [finding for finding in verify(tmp_path) if not finding.explained] == []


def test_an_interrupt_ends_a_flush_that_waits(tmp_path: Path):
    done = run_script(
        """
        # A text sink whose disk hangs: a drain that is stopped in C.
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False)
        held = log._session.accounting.drain.flush
        from advlog_fast._native import lib
        drain = log._session.accounting.drain
        drain._ending = True
        lib.advlog_drain_stop(drain._drain)
        time.sleep(1.5)  # the drain's thread is over: nothing is drained any more
        log_batches(log, 1, 10)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        try:
            log.flush(60)
        except KeyboardInterrupt:
            print(time.monotonic() - began < 20, flush=True)
        os._exit(0)
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr


def test_a_logger_that_is_collected_under_a_logging_lock_hangs_nobody(tmp_path: Path):
    """A record is written under its handler's lock, and the collector may end a logger there; meanwhile another thread
    holds the lock of the logging module and wants the handler's, as `logging.config` does."""
    done = run_script(
        """
        import gc, logging
        class Collecting(logging.Handler):
            def emit(self, record):
                inside.set()
                time.sleep(0.5)
                lost.clear()
                gc.collect()
        inside, handler = threading.Event(), Collecting()
        user = logging.Logger("user")
        user.addHandler(handler)
        log = AdvancedLogger(LOG_DIR, "run", console="off", parquet=False, capture_logging=True)
        lost = [log]
        del log
        def configure():
            inside.wait()
            with logging._lock:
                handler.acquire()
                handler.release()
        other = threading.Thread(target=configure)
        other.start()
        began = time.monotonic()
        user.warning("x")
        other.join()
        print(time.monotonic() - began < 5)
        """,
        tmp_path,
    )
    assert done.stdout == "True\n", done.stderr
    assert json.loads((tmp_path / "run_summary.json").read_text())["status"] == "completed"
