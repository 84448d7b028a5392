"""A high-throughput asynchronous logging engine for AI training.

`AdvancedLogger` logs; `read_run`, `follow` and `list_runs` read back; `LoggerConfig` has the options. The names below
are the public ones. ARCHITECTURE.md shows the rooms of the package, from the ground up.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._hooks import importing
from .config import LoggerConfig
from .exceptions import AdvlogError, RunBusyError, RunNotFoundError
from .logger import AdvancedLogger
from .records import ErrorLog, TrainingMetrics
from .store.paths import safe_name

if TYPE_CHECKING:
    from .pictures import Heat, Picture
    from .progress import TrainingProgressTracker
    from .reader import Comparison, Followed, Run, compare, follow, list_runs, read_jsonl, read_run
    from .snapshots import Health

__all__ = [
    "AdvancedLogger",
    "AdvlogError",
    "Comparison",
    "ErrorLog",
    "Followed",
    "Health",
    "Heat",
    "LoggerConfig",
    "Picture",
    "Run",
    "RunBusyError",
    "RunNotFoundError",
    "TrainingMetrics",
    "TrainingProgressTracker",
    "__version__",
    "compare",
    "follow",
    "list_runs",
    "read_jsonl",
    "read_run",
    "safe_name",
]

__version__ = "0.1.0"

# What a training that only logs never uses is imported when it is asked for.
_LATER = {
    "Comparison": ".reader",
    "Followed": ".reader",
    "Heat": ".pictures",
    "Health": ".snapshots",
    "Picture": ".pictures",
    "Run": ".reader",
    "TrainingProgressTracker": ".progress",
    "compare": ".reader",
    "follow": ".reader",
    "list_runs": ".reader",
    "read_jsonl": ".reader",
    "read_run": ".reader",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with importing():
        value = getattr(importlib.import_module(_LATER[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
