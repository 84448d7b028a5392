"""NAME_metrics.jsonl and NAME_system.jsonl: one strict JSON object a record."""

from __future__ import annotations

from .._native import lib
from .rotation import RotatedSink


class MetricsJsonlSink(RotatedSink):
    """The metrics stream."""

    name = "metrics_jsonl"
    kind = lib.ADVLOG_SINK_JSONL
    stream = lib.ADVLOG_STREAM_METRICS


class SystemJsonlSink(RotatedSink):
    """The system stream: memory and performance samples."""

    name = "system_jsonl"
    kind = lib.ADVLOG_SINK_JSONL
    stream = lib.ADVLOG_STREAM_SYSTEM
