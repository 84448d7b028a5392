"""Ray Train: the run of a worker, with its rank and with the exception that ends it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..exceptions import expected
from ..logger import AdvancedLogger
from .base import LazyRun, require


@contextlib.contextmanager
def open_for_worker(
    log_dir: str | os.PathLike[str], name: str | None = None, **options: Any
) -> Iterator[AdvancedLogger]:
    """Opens the run of a Ray Train worker, for the body of `train_loop_per_worker`; logs the exception that leaves it.

    A worker runs in a folder of Ray's, where a relative path would be lost, and Ray ends the process after an
    exception, so that nothing else would say that the training failed. A retry is the run's next attempt.

    :param log_dir: an absolute path, the same on every node.
    :param name: the experiment's name; None is the experiment's in Ray.
    :param options: as of :class:`AdvancedLogger`.
    :raises ValueError: the path is relative, or an option is out of its range.
    :raises OSError: the folder cannot be written.

    >>> with open_for_worker("/shared/logs", "digits") as log:
    ...     log.log_batch_progress(1, 1, 100, loss)
    """
    if not Path(log_dir).is_absolute():
        raise ValueError(
            expected("log_dir", "an absolute path: a worker runs in a folder of Ray's", os.fspath(log_dir))
        )
    context = require("ray.train", "ray").get_context()
    run = LazyRun(log_dir, name or context.get_experiment_name(), options)
    log = run.open(context.get_world_rank(), context.get_world_size())
    try:
        yield log
    except BaseException as error:
        run.fail(error, "train_loop_per_worker")
        raise
    else:
        run.end()
    finally:
        run.close()
