"""`advlog demo`: log a real training run batch by batch, and show its files."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from ..logger import AdvancedLogger
from ..progress import TrainingProgressTracker
from ..reader import read_run
from ..store.paths import RunPaths
from ..views import report

HELP = "train a classifier on real images of digits with every batch logged, and show the logs"

NAME = "digits_demo"
_BATCH_SIZE = 32
_TEST_IMAGES = 360
_DAMAGED_BATCH = 20
_SEED = 7


class Classifier(Protocol):
    """The demo's model: in torch, or in numpy if torch is not installed."""

    library: str
    learning_rate: float
    model: Any

    def step(self, images: Any, labels: Any) -> tuple[float, float, float]: ...

    def evaluate(self, images: Any, labels: Any) -> tuple[float, float]: ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--log-dir", type=Path, default=Path("logs"), help="default: logs")
    parser.add_argument("--epochs", type=_at_least_one, default=8, metavar="N", help="default: 8")
    backends = ("auto", "torch", "numpy")
    parser.add_argument("--backend", choices=backends, default="auto", help="auto: torch if it is installed")


def run(args: argparse.Namespace) -> int:
    if importlib.util.find_spec("sklearn") is None:
        raise ValueError("the images come with scikit-learn: pip install '.[demo]' in the checkout")
    train_set, test_set = _digits()
    classifier = _classifier(args.backend)
    images = f"{len(train_set[1])} images of digits, {len(test_set[1])} more to test on"
    print(f"Training with {classifier.library} on {images}.")
    with AdvancedLogger(args.log_dir, NAME) as log:
        _train(log, classifier, train_set, test_set, args.epochs)
        summary = log.get_training_summary()
    paths = RunPaths(args.log_dir, NAME)
    _show_files(paths)
    _show_summary(summary)
    _show_analysis(paths.metrics_parquet)
    _show_page(paths)
    return 0


def _show_page(paths: RunPaths) -> None:
    page = report(read_run(paths.log_dir, paths.name), paths.log_dir / f"{paths.name}.html")
    print(f"\nA page that shows every batch: {page.resolve()}")


def _at_least_one(text: str) -> int:
    epochs = int(text)
    if epochs < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text}")
    return epochs


def _digits() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(_SEED).permutation(len(labels))
    images, labels = images[order] / 16.0, labels[order]
    return (
        (images[:-_TEST_IMAGES], labels[:-_TEST_IMAGES]),
        (images[-_TEST_IMAGES:], labels[-_TEST_IMAGES:]),
    )


def _classifier(backend: str) -> Classifier:
    if backend == "torch" or (backend == "auto" and importlib.util.find_spec("torch") is not None):
        from .demo_torch import TorchClassifier

        return TorchClassifier(_SEED)
    from .demo_numpy import NumpyClassifier

    return NumpyClassifier(_SEED)


def _train(log: AdvancedLogger, classifier: Classifier, train_set: Any, test_set: Any, epochs: int) -> None:
    total_batches = -(-len(train_set[1]) // _BATCH_SIZE)
    log.start_training({"model": "64-64-10", "epochs": epochs, "library": classifier.library})
    rate = classifier.learning_rate
    log.log_hyperparameters({"batch_size": _BATCH_SIZE, "learning_rate": rate, "seed": _SEED})
    log.log_model_info(classifier.model)
    progress = TrainingProgressTracker(log)
    best = validation_loss = validation_accuracy = 0.0
    for epoch in range(1, epochs + 1):
        log.start_epoch(epoch, epochs)
        log.log_memory_usage()
        batch_start = time.perf_counter()
        for batch, (images, labels) in enumerate(_batches(train_set, _SEED + epoch), start=1):
            data_time = time.perf_counter() - batch_start
            damaged = epoch == min(2, epochs) and batch == _DAMAGED_BATCH
            loss, accuracy, norm = _robust_step(log, classifier, images, labels, epoch, batch, damaged)
            batch_time = time.perf_counter() - batch_start
            log.log_batch_progress(
                epoch=epoch,
                batch=batch,
                total_batches=total_batches,
                loss=loss,
                accuracy=accuracy,
                learning_rate=rate,
                gradient_norm=norm,
                batch_time=batch_time,
                data_time=data_time,
                samples=len(labels),
            )
            progress.update_progress(epoch, batch, total_batches, epochs)
            batch_start = time.perf_counter()
        with log.training_context("validation"):
            validation_loss, validation_accuracy = classifier.evaluate(*test_set)
        log.log_performance_metrics(batch_time=time.perf_counter() - batch_start, data_time=0.0)
        metrics = {"loss": validation_loss, "accuracy": validation_accuracy}
        log.log_validation(epoch, metrics, is_best=validation_accuracy > best)
        best = max(best, validation_accuracy)
        log.end_epoch(epoch, metrics)
    log.end_training({"final_loss": validation_loss, "final_accuracy": validation_accuracy, "best_accuracy": best})


def _robust_step(
    log: AdvancedLogger, model: Classifier, images: Any, labels: Any, epoch: int, batch: int, damaged: bool
) -> tuple[float, float, float]:
    """Take one training step. Log a batch of the wrong shape, as from a torn read, and read it again."""
    arrived = images[:, :-1] if damaged else images
    try:
        return model.step(arrived, labels)
    except (RuntimeError, ValueError) as error:
        context = {"epoch": epoch, "batch": batch, "shape": arrived.shape, "expected": images.shape}
        log.log_error(error, operation="train_step", context=context)
    result = model.step(images, labels)
    log.log_recovery("train_step", "read the batch again", success=True)
    return result


def _batches(data: tuple[Any, Any], seed: int) -> Iterator[tuple[Any, Any]]:
    import numpy as np

    images, labels = data
    order = np.random.default_rng(seed).permutation(len(labels))
    for start in range(0, len(order), _BATCH_SIZE):
        chosen = order[start : start + _BATCH_SIZE]
        yield images[chosen], labels[chosen]


def _show_files(paths: RunPaths) -> None:
    print("\nFiles")
    for path, content in (
        (paths.main_log, "lifecycle, configuration, system"),
        (paths.training_log, "a line a batch; epochs, validation, milestones"),
        (paths.errors_log, "errors with tracebacks, and recoveries"),
        (paths.metrics_jsonl, "a JSON object a batch"),
        (paths.metrics_parquet, "the same in columns: every record of every attempt"),
        (paths.system_jsonl, "memory and performance samples"),
        (paths.system_parquet, "the same in columns"),
        (paths.events_jsonl, "every event"),
        (paths.summary, "the summary"),
    ):
        size_bytes = sum(part.stat().st_size for part in (path, *path.rglob("*.parquet")) if part.is_file())
        print(f"  {path!s:<42} {size_bytes:>9,} B  {content}")


def _show_summary(summary: dict[str, Any]) -> None:
    print("\nSummary")
    loss, accuracy = summary["loss_stats"], summary["accuracy_stats"]
    print(f"  batches logged  {summary['total_metrics']:,} in {summary['training_duration']}")
    print(f"  errors          {summary['total_errors']}, made on purpose: see how {NAME}_errors.log reports it")
    print(f"  training loss   {loss['min']:.4f} to {loss['max']:.4f}, {loss['mean']:.4f} on average")
    print(f"  accuracy        {accuracy['min']:.1%} to {accuracy['max']:.1%}, {accuracy['mean']:.1%} on average")


def _show_analysis(folder: Path) -> None:
    import pyarrow.parquet

    print(f"\nFrom {folder}, with pyarrow")
    table = pyarrow.parquet.read_table(folder)
    latest = max(table["attempt"].unique().to_pylist())
    table = pyarrow.parquet.read_table(folder, filters=[("attempt", "=", latest)])
    by_epoch = table.group_by("epoch").aggregate([("loss", "mean"), ("accuracy", "mean"), ("seq", "count")])
    print("  epoch  batches  loss    accuracy")
    for row in by_epoch.sort_by("epoch").to_pylist():
        batches, loss, accuracy = row["seq_count"], row["loss_mean"], row["accuracy_mean"]
        print(f"  {row['epoch']:>5}  {batches:>7}  {loss:.4f}  {accuracy:.1%}")
    slowest = table.sort_by([("batch_time", "descending")]).slice(0, 3).to_pylist()
    shown = ", ".join(f"{row['epoch']}/{row['batch']} ({row['batch_time'] * 1e3:.1f} ms)" for row in slowest)
    print(f"  slowest batches: {shown}")
