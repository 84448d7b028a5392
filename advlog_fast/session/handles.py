"""The handle that a logger becomes when it is unpickled in another process."""

from __future__ import annotations

from typing import Any

from .._native import Producer
from ..config import LoggerConfig, is_disabled
from ..engine.child import ChildSession, ParentHandle
from . import registry


def in_another_process(kind: Any, config: LoggerConfig, parent: ParentHandle | None) -> Producer:
    """Returns the logger of the session if this process has it open, else a handle, whose first record opens a child
    ring.

    :param kind: the logger's class.
    :param parent: None where the logger was off.
    """
    log: Any = kind.__new__(kind)
    if parent is not None and not is_disabled():
        here = registry.living(parent) if parent.is_here() else None
        if here is not None:
            return here
        log.config, log.enabled, log._engine = parent.config, True, ChildSession(parent)
    else:
        log.config, log.enabled, log._engine = config, False, None
    log._warned = set()
    log._load(config.experiment_name)
    if log.enabled:
        log._unbind()  # from here on its calls come to _open_session
    logger: Producer = log
    return logger
