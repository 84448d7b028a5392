"""The events of a training, as values: this module makes and checks each event, and every control plane has one `emit`
for all of them.

To add an event: a function here, and a method in control_calls.py that emits what it returns. ARCHITECTURE.md has the
rest.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import checks
from ..checks import INT64_MAX, Intake, Misuse
from ..snapshots import NonFinite
from .fields import settings
from .masking import masked
from .milestones import Progress
from .model_info import describe_model
from .resumption import checked_state
from .text import escape, fields_text, with_nulls


@dataclass(frozen=True)
class Event:
    """One event, on its way to the outputs."""

    kind: str
    """Which built-in event it is, and its name in `NAME_events.jsonl`; empty for one of the user's, which has a
    `name`."""
    fields: Mapping[str, Any]
    """Its fields in `NAME_events.jsonl`."""
    shown: Mapping[str, Any]
    """Its fields in lines of text."""
    level: int = logging.INFO
    name: str = ""
    title: str = ""
    """The first word of its lines of text, if it is not the name; escaped."""
    in_training_log: bool = True
    brief: Mapping[str, Any] | None = None
    """Its fields in the training log, if they are fewer than in the main log."""
    console: str | None = None
    """The console's text before the fields; None shows nothing."""
    console_fields: Mapping[str, Any] | None = None
    """The fields on the console, if they differ."""
    console_last: bool = False
    """Whether the console's live bar ends here."""
    misuses: Sequence[Misuse] = ()
    """What was given for it and left out."""

    def line(self, fields: Mapping[str, Any] | None = None, digits: int | None = None) -> str:
        """A line of text, escaped, with its fields or others.

        :param digits: as of :func:`fields_text`.
        """
        shown = self.shown if fields is None else fields
        return f"{self.title or self.name or self.kind} {fields_text(shown, digits)}".rstrip()


def training_start(config: object = None) -> Event:
    """:raises TypeError: the configuration is neither a mapping nor an object with attributes."""
    shown = masked(settings("config", config)) if config is not None else {}
    return Event("training_start", {"config": shown}, with_nulls(shown))


def training_end(final_metrics: Mapping[str, Any] | None = None, status: str | None = None) -> Event:
    """
    :param status: how it ended; None leaves that open: "completed", unless something else is known.
    :raises TypeError: the metrics are no mapping.
    """
    final = masked(checks.mapping("final_metrics", final_metrics)) if final_metrics is not None else {}
    return Event("training_end", {"final_metrics": final, "status": status}, final)


def signal_received(name: str) -> Event:
    """A signal that asks the process to end, and that is only noted."""
    fields = {"signal": name}
    return Event("signal", fields, fields, logging.WARNING, console="received")


def epoch_start(epoch: object, total_epochs: object = None) -> Event:
    """The start of an epoch."""
    intake = Intake()
    fields = {
        "epoch": intake.integer("epoch", epoch),
        "total_epochs": intake.total("total_epochs", total_epochs, 0),
    }
    return Event("epoch_start", fields, fields, misuses=intake.misuses)


def epoch_end(epoch: object, metrics: Mapping[str, Any] | None = None) -> Event:
    """:raises TypeError: the metrics are no mapping."""
    intake = Intake()
    number = intake.integer("epoch", epoch)
    values = intake.metrics("metrics", metrics)
    fields, shown = {"epoch": number, "metrics": values}, {"epoch": number, **values}
    return Event("epoch_end", fields, shown, console_fields=values, misuses=intake.misuses)


def validation(
    epoch: object,
    metrics: Mapping[str, Any] | None,
    is_best: object = None,
    step: object = None,
    name: object = None,
) -> Event:
    """:raises TypeError: the metrics are no mapping."""
    intake = Intake()
    number = intake.integer("epoch", epoch)
    values = intake.metrics("metrics", metrics)
    best = is_best is not None and intake.flag("is_best", is_best)
    at = intake.integer("step", step, -INT64_MAX - 1, INT64_MAX)
    of = None if name is None else intake.text("name", name)
    fields = {"epoch": number, "step": at, "name": of, "metrics": values, "is_best": best}
    shown = {"name": of, "epoch": number, "step": at, **values, **({"best": True} if best else {})}
    return Event("validation", fields, shown, console="validation", misuses=intake.misuses)


def hyperparameters(given: object) -> Event:
    """:raises TypeError: they are neither a mapping nor an object with attributes."""
    masked_settings = masked(settings("hyperparameters", given))
    return Event(
        "hyperparameters", {"hyperparameters": masked_settings}, with_nulls(masked_settings), in_training_log=False
    )


def model_info(model: Any) -> Event:
    """:raises TypeError: the model is None."""
    description = masked(describe_model(model))
    shown = {name: value for name, value in description.items() if name != "layers"}
    return Event("model_info", {"model": description}, shown, title="model", in_training_log=False)


def recovery(operation: object, action: object, success: object = True) -> Event:
    """An attempt to recover from an error."""
    intake = Intake()
    fields = {
        "operation": intake.text("operation", operation),
        "action": intake.text("action", action),
        "success": intake.flag("success", success),
    }
    level = logging.INFO if fields["success"] else logging.WARNING
    return Event("recovery", fields, fields, level, misuses=intake.misuses)


def of_the_user(name: object, fields: Mapping[str, Any]) -> Event:
    """An event of the user's own."""
    intake = Intake()
    text = intake.text("name", name)
    masked_fields = masked(fields)
    return Event("", masked_fields, masked_fields, name=text, title=escape(text), misuses=intake.misuses)


def resumed(state: object) -> Event | None:
    """None for the empty state of a logger that was off.

    :raises TypeError: the state is no mapping.
    :raises ValueError: it is none that a logger gave.
    """
    origin = checked_state(state)
    if origin is None:
        return None
    shown = {name: value for name, value in origin.items() if name not in ("best", "duration_s")}
    return Event("resumed", {"resumed_from": origin, "kept": True}, with_nulls(shown))


def milestone(passed: Progress) -> Event:
    """A mark of an epoch or of the whole training."""
    fields = passed.fields()
    return Event("milestone", fields, fields)


def nonfinite(metric: str, value: NonFinite) -> Event:
    """The first value of a metric that was NaN or infinite."""
    where = {"metric": metric, **{name: getattr(value, name) for name in ("value", "step", "epoch", "batch")}}
    return Event(
        "nonfinite",
        {**where, "first_seq": value.seq},
        where,
        logging.WARNING,
        console="first value that is not finite:",
    )


def steps_contradicted(first_epoch: int, what: str) -> Event:
    """Something speaks for another first epoch than the one that the steps are derived with."""
    fields = {"first_epoch": first_epoch, "but": what}
    return Event("steps_contradicted", fields, fields, logging.WARNING, console="steps are counted from another epoch:")


def steps_collide(epoch: int, total_batches: int, step: int, last_step: int) -> Event:
    """With another `total_batches` the derived steps begin below those that there are."""
    fields = {"epoch": epoch, "total_batches": total_batches, "step": step, "last_step": last_step}
    return Event("steps_collide", fields, fields, logging.WARNING, console="steps collide, pass step=:")


def clock_jump(moved_s: float, seqs: tuple[int, int]) -> Event:
    """The wall clock has been set, forward or back; it lies before one of these records."""
    shown = {"moved_s": round(moved_s, 3)}
    return Event(
        "clock_jump",
        {**shown, "first_seq": seqs[0], "last_seq": seqs[1]},
        shown,
        logging.WARNING,
        console="the wall clock has jumped:",
    )


def recovered(report: Mapping[str, Any]) -> Event:
    """An attempt before this one was recovered."""
    return Event("recovered", report, {}, in_training_log=False)


def context_start(path: tuple[str, ...]) -> Event:
    """A context was entered: the names of those around it and its own."""
    whole = "/".join(path)
    return Event("context_start", {"context": path[-1], "path": whole}, {"context": whole}, in_training_log=False)


def context_end(path: tuple[str, ...], duration_s: float, outcome: str | None = None) -> Event:
    """A context was left."""
    took = {"duration_s": round(duration_s, 6), **({} if outcome is None else {"outcome": outcome})}
    whole = "/".join(path)
    fields = {"context": path[-1], "path": whole, **took}
    return Event("context_end", fields, {"path": whole, **took}, in_training_log=False)
