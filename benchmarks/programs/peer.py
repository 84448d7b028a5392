"""Logs N steps through a peer and closes it, each call between two reads of a clock; with 0, only opens and closes it.

    peer.py                           lists the peers
    peer.py PEER DIRECTORY STEPS
    peer.py PEER DIRECTORY records    counts the steps in what was written there

Each has its documented defaults, and local files only. Text lines have six digits of a metric, as people write them;
advlog_fast writes all seventeen. Whose metrics lie each by itself at a step gets no total_batches, which never changes.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import importlib.metadata
import json
import os
import platform
import sqlite3
import struct
import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workload import VALUES, Metrics, Nothing, percentile, report

Call = Callable[..., object]
"""Takes the seven arguments of a batch, by name."""

METRICS = ("loss", "accuracy", "learning_rate", "gradient_norm")
FILE_BYTES, FILES = 10 * 1024 * 1024, 10
"""Of rotating files: as advlog_fast's defaults."""


# Text lines


LINE = "%(asctime)s %(levelname)s %(message)s"
PERCENT = "epoch=%d batch=%d/%d loss=%.6f accuracy=%.6f learning_rate=%.6f gradient_norm=%.6f"
BRACES = "epoch={} batch={}/{} loss={:.6f} accuracy={:.6f} learning_rate={:.6f} gradient_norm={:.6f}"


def text(info: Callable[..., object], template: str) -> Call:
    def call(
        epoch: int,
        batch: int,
        total_batches: int,
        loss: float,
        accuracy: float,
        learning_rate: float,
        gradient_norm: float,
    ) -> None:
        info(template, epoch, batch, total_batches, loss, accuracy, learning_rate, gradient_norm)

    return call


def rotating(module: Any, handlers: Any) -> tuple[Any, Any]:
    """A logger at INFO, and a handler that is not yet its own; of logging, or of what has its names."""
    handler = handlers.RotatingFileHandler("run.log", maxBytes=FILE_BYTES, backupCount=FILES)
    handler.setFormatter(module.Formatter(LINE))
    logger = module.getLogger("run")
    logger.setLevel(module.INFO)
    return logger, handler


@contextmanager
def stdlib_logging() -> Iterator[Call]:
    import logging
    import logging.handlers

    logger, handler = rotating(logging, logging.handlers)
    logger.addHandler(handler)
    yield text(logger.info, PERCENT)
    handler.close()


@contextmanager
def stdlib_queue() -> Iterator[Call]:
    import logging
    import logging.handlers
    import queue

    logger, handler = rotating(logging, logging.handlers)
    records: queue.Queue[Any] = queue.Queue(-1)
    logger.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    yield text(logger.info, PERCENT)
    listener.stop()
    handler.close()


@contextmanager
def picologging() -> Iterator[Call]:
    import picologging
    import picologging.handlers

    logger, handler = rotating(picologging, picologging.handlers)
    logger.addHandler(handler)
    yield text(logger.info, PERCENT)
    handler.close()


@contextmanager
def loguru(enqueue: bool = False) -> Iterator[Call]:
    from loguru import logger

    logger.remove()  # the handler of standard error, which is there by default
    handler = logger.add("run.log", rotation=FILE_BYTES, retention=FILES, enqueue=enqueue)
    yield text(logger.info, BRACES)
    logger.remove(handler)


def loguru_enqueue() -> AbstractContextManager[Call]:
    return loguru(enqueue=True)


@contextmanager
def structlog() -> Iterator[Call]:
    import structlog

    with Path("run.log").open("w") as file:
        structlog.configure(
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso"),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger("info"),
            logger_factory=structlog.WriteLoggerFactory(file=file),
            cache_logger_on_first_use=True,
        )
        logger = structlog.get_logger()
        yield lambda **values: logger.info("batch", **values)


def lines() -> int:
    return sum(file.read_bytes().count(b"gradient_norm") for file in Path().glob("run*.log*"))


# Metrics


@contextmanager
def nothing() -> Iterator[Call]:
    yield Nothing().log_batch_progress


@contextmanager
def advlog() -> Iterator[Call]:
    import advlog_fast

    log = advlog_fast.AdvancedLogger(".", "run", console="off")
    yield log.log_batch_progress
    log.close()


def advlog_records() -> int:
    """In the sink that has the fewest."""
    import pyarrow.parquet as pq

    parts = Path("run_metrics.parquet").glob("*/*.parquet")
    text = sum(file.read_bytes().count(b"gradient_norm=") for file in Path().glob("run_training.log*"))
    json_lines = sum(file.read_bytes().count(b"\n") for file in Path().glob("run_metrics.jsonl*"))
    rows: int = sum(pq.read_metadata(part).num_rows for part in parts)
    return min(text, json_lines, rows)


@contextmanager
def lightning() -> Iterator[Call]:
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(".")
    yield lambda **values: logger.log_metrics(values, step=values["batch"])
    logger.finalize("success")


def csv_rows() -> int:
    with next(Path().rglob("metrics.csv")).open(newline="") as file:
        return sum(all(row[name] for name in METRICS) for row in csv.DictReader(file))


def scalars(writer: Any) -> Call:
    add_scalar = writer.add_scalar

    def call(batch: int, loss: float, accuracy: float, learning_rate: float, gradient_norm: float, **_: int) -> None:
        add_scalar("loss", loss, batch)
        add_scalar("accuracy", accuracy, batch)
        add_scalar("learning_rate", learning_rate, batch)
        add_scalar("gradient_norm", gradient_norm, batch)

    return call


@contextmanager
def torch_tensorboard() -> Iterator[Call]:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter("runs") as writer:
        yield scalars(writer)


@contextmanager
def tensorboard_x() -> Iterator[Call]:
    from tensorboardX import SummaryWriter

    with SummaryWriter("runs") as writer:
        yield scalars(writer)


def event_steps() -> int:
    """With TensorBoard's own loader; every scalar, where its own front end takes a sample."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    counts: Counter[str] = Counter()
    for file in Path("runs").iterdir():
        for event in LegacyEventFileLoader(str(file)).Load():
            counts.update(value.tag for value in event.summary.value)
    return fewest(counts)


@contextmanager
def trackio() -> Iterator[Call]:
    os.environ["TRACKIO_DIR"] = str(Path.cwd())
    import trackio

    run = trackio.init(project="run", embed=False)
    yield lambda **values: run.log(values, step=values["batch"])
    trackio.finish()


def sqlite_rows() -> int:
    with contextlib.closing(sqlite3.connect("run.db")) as database:
        return sum(set(METRICS) <= set(json.loads(row)) for (row,) in database.execute("SELECT metrics FROM metrics"))


@contextmanager
def wandb() -> Iterator[Call]:
    import wandb

    with wandb.init(project="run", mode="offline") as run:
        yield lambda **values: run.log(values, step=values["batch"])


def wandb_records() -> int:
    from wandb.proto.wandb_internal_pb2 import Record

    found = [Record.FromString(entry) for entry in leveldb_log(next(Path().rglob("run-*.wandb")))]
    keys = [{item.key or ".".join(item.nested_key) for item in record.history.item} for record in found]
    return sum(set(METRICS) <= each for each in keys)


@contextmanager
def swanlab() -> Iterator[Call]:
    import swanlab

    run = swanlab.init(project="run", mode="offline")
    yield lambda **values: run.log(values, step=values["batch"])
    swanlab.finish()


def swanlab_records() -> int:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    found = [Record.FromString(entry) for entry in leveldb_log(next(Path().rglob("run-*.swanlab")))]
    return fewest(Counter(record.scalar.key for record in found))


def leveldb_log(path: Path) -> Iterator[bytes]:
    """Entries of a file in LevelDB's log format, after W&B's and SwanLab's own 7 bytes; checksums are not looked at."""
    data, at, entry = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = -at % 32768 or 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        entry += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # full, or the last of several
            yield entry
            entry = b""


@contextmanager
def aim() -> Iterator[Call]:
    from aim import Run

    run = Run(repo=".")

    def call(epoch: int, batch: int, total_batches: int, **metrics: float) -> None:  # noqa: ARG001
        run.track(metrics, step=batch, epoch=epoch)

    yield call
    run.close()


def aim_records() -> int:
    from aim import Repo
    from aim.sdk.index_manager import RepoIndexManager

    repo = Repo(".")
    for run_hash in repo.list_all_runs():
        RepoIndexManager.get_index_manager(repo).index(run_hash)  # its server does it else, and it shows no run before
    counts: Counter[str] = Counter()
    for run in repo.iter_runs():
        for metric in run.metrics():
            counts[metric.name] += len(metric.values.sparse_list()[0])
    return fewest(counts)


@contextmanager
def dvclive() -> Iterator[Call]:
    from dvclive import Live

    with Live() as live:

        def call(epoch: int, batch: int, total_batches: int, **metrics: float) -> None:  # noqa: ARG001
            for name, value in metrics.items():
                live.log_metric(name, value)
            live.next_step()

        yield call


def tsv_rows() -> int:
    files = Path("dvclive/plots/metrics").glob("*.tsv")
    return fewest(Counter({file.stem: file.read_bytes().count(b"\n") - 1 for file in files}))


def fewest(counts: Counter[str]) -> int:
    return min(counts[name] for name in METRICS)


@dataclass(frozen=True)
class Peer:
    packages: tuple[str, ...]
    """As they are installed; the first one's version is the peer's."""
    steps: int
    opened: Callable[[], AbstractContextManager[Call]]
    records: Callable[[], int] | None

    def version(self) -> str:
        """Empty where a package is missing."""
        if self.opened is advlog:
            import advlog_fast

            return str(advlog_fast.__version__)  # where it was built in place, it is not installed
        try:
            versions = [importlib.metadata.version(package) for package in self.packages]
        except importlib.metadata.PackageNotFoundError:
            return ""
        return versions[0] if versions else f"Python {platform.python_version()}"


PEERS = {
    "nothing": Peer((), 20_000, nothing, None),
    "advlog_fast": Peer((), 20_000, advlog, advlog_records),
    "Lightning CSVLogger": Peer(("lightning",), 20_000, lightning, csv_rows),
    "structlog, JSON": Peer(("structlog",), 20_000, structlog, lines),
    "picologging, rotating": Peer(("picologging",), 20_000, picologging, lines),
    "loguru": Peer(("loguru",), 20_000, loguru, lines),
    "logging, rotating": Peer((), 20_000, stdlib_logging, lines),
    "logging, QueueListener": Peer((), 20_000, stdlib_queue, lines),
    "loguru, enqueue": Peer(("loguru",), 20_000, loguru_enqueue, lines),
    "torch.utils.tensorboard": Peer(("tensorboard", "torch"), 20_000, torch_tensorboard, event_steps),
    "tensorboardX": Peer(("tensorboardX", "tensorboard"), 20_000, tensorboard_x, event_steps),
    "Trackio": Peer(("trackio",), 2_000, trackio, sqlite_rows),
    "W&B, offline": Peer(("wandb",), 2_000, wandb, wandb_records),
    "SwanLab, offline": Peer(("swanlab",), 2_000, swanlab, swanlab_records),
    "Aim": Peer(("aim",), 2_000, aim, aim_records),
    "DVCLive": Peer(("dvclive",), 200, dvclive, tsv_rows),
}

QUIET = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",
    "WANDB_ERROR_REPORTING": "false",
}
"""Nothing leaves the machine."""


def log_steps(peer: Peer, steps: int) -> dict[str, float]:
    metrics, took, clock = Metrics(), array("q"), time.perf_counter_ns
    with peer.opened() as call:
        opening_cpu_s = time.process_time()
        for step in range(steps):
            at = step % VALUES
            began = clock()
            call(
                epoch=1,
                batch=step,
                total_batches=steps,
                loss=metrics.loss[at],
                accuracy=metrics.accuracy[at],
                learning_rate=metrics.learning_rate[at],
                gradient_norm=metrics.gradient_norm[at],
            )
            took.append(clock() - began)
        closing = clock()
    closed = clock()
    if not steps:
        return {"opening_cpu_s": opening_cpu_s}
    ordered = sorted(took)
    return {
        "opening_cpu_s": opening_cpu_s,
        "call_p50_us": percentile(ordered, 0.5) / 1e3,
        "call_p99_us": percentile(ordered, 0.99) / 1e3,
        "call_p99.9_us": percentile(ordered, 0.999) / 1e3,
        "call_mean_us": sum(ordered) / steps / 1e3,
        "close_ms": (closed - closing) / 1e6,
    }


def stay_behind() -> None:
    """Goes on in a child. Its parent waits for it and for whatever it leaves behind, services that outlive it too, so
    that what they take counts as this program's."""
    set_child_subreaper = 36
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(set_child_subreaper, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        return
    status = 0
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, its_status = os.wait()
            status = its_status if ended == child else status
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def main(name: str, directory: str, what: str) -> None:
    peer = PEERS[name]
    # Peers and their services may print.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.environ.update(QUIET, HOME=directory)
    os.chdir(directory)
    if what == "records":
        figures: dict[str, Any] = {"records": peer.records() if peer.records else None}
    else:
        stay_behind()
        figures = log_steps(peer, int(what))
    with contextlib.redirect_stdout(answer):
        report(**figures)
    answer.close()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        report(**{name: {"version": peer.version(), "steps": peer.steps} for name, peer in PEERS.items()})
    else:
        main(*sys.argv[1:])
