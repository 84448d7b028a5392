"""The control plane on real files: what each call leaves in which of them.

Above 500 lines because the plane has one class of tests for each group of its calls, and all share one rig.
"""

import argparse
import asyncio
import io
import logging
import math
import re
import signal
import threading
import time
import types

import numpy as np
import pytest
from run_files import error_entries, json_lines, physical_lines, strict_json, text_lines, unescape

from advlog_fast.checks import Intake
from advlog_fast.config import LoggerConfig
from advlog_fast.control import events
from advlog_fast.control.console import Console
from advlog_fast.control.contexts import TrainingContext
from advlog_fast.control.milestones import Progress
from advlog_fast.control.plane import ControlPlane
from advlog_fast.snapshots import CallCost, EpochTotals, Health, MetricStats, NonFinite, SinkHealth, Totals
from advlog_fast.store.paths import RunPaths
from advlog_fast.store.ranks import RunIdentity

FORGED = "a\r\nERROR forged\x1b[2J\x00"
ESCAPED = r'a "b" c\\d\ne\x1b'
QUOTED = r'"a \"b\" c\\d\ne\x1b"'


class RecordedLink:
    """The far side of the protocol: keeps the lines, and answers with what it is given."""

    def __init__(self):
        self.lines = []
        self.counted = Totals()
        self.last_seq = -1

    def line(self, level, text):
        assert "\n" not in text
        assert len(text.encode()) <= 4096
        self.lines.append((level, text))

    last_line = line

    def first_epoch(self):
        return None

    def go_on(self, state, *, same_run):
        pass

    def seq(self):
        return self.last_seq

    def shielded(self, task):
        task()

    def totals(self, timeout_s=1.0):
        return self.counted

    def health(self):
        sink = SinkHealth(
            name="jsonl",
            accepted=5,
            written=5,
            dropped=0,
            pending=0,
            filtered=0,
            expired=0,
            vanished=0,
            faults=0,
            error=None,
            set_aside=False,
        )
        return Health(
            offered=5,
            accepted=5,
            dropped_at_entry={"full": 0},
            pending=0,
            ring_slots=1024,
            ring_used=0,
            sinks={"jsonl": sink},
            unresolved={},
            ring_path=None,
            status="running",
            call=CallCost(),
            drain_cpu_s=0.0,
            sealer_cpu_s=0.0,
            parts=0,
            seal_faults=0,
            seal_error=None,
            entries_lost={},
            entries_error=None,
        )

    def memory(self):
        return {"cpu_memory_gb": 1.5}


class Run:
    def __init__(self, log_dir, **options):
        self.config = LoggerConfig(log_dir=log_dir, experiment_name="run", **options)
        self.paths = RunPaths(log_dir, "run")
        self.link = RecordedLink()
        self.shown = io.StringIO()
        console = Console("plain", 0, self.config.log_level, stream=self.shown)
        identity = RunIdentity("0" * 32, "run", 1, 0, 1, "host", 7)
        self.plane = ControlPlane(self.config, self.paths, identity, self.link, console)

    def events(self, name):
        return [row for row in json_lines(self.paths.events_jsonl) if row["event"] == name]

    def texts(self):
        return [text for _, text in self.link.lines]

    def main(self):
        return [line.text for line in text_lines(self.paths.main_log)]

    def summary(self):
        return strict_json(self.paths.summary.read_text())


@pytest.fixture
def make(tmp_path):
    made = []

    def run(**options):
        made.append(Run(tmp_path, **options))
        return made[-1]

    yield run
    for each in made:
        each.plane.close("completed")


@pytest.fixture
def run(make):
    return make()


@pytest.fixture
def plane(run):
    return run.plane


class TestTraining:
    def test_a_start_notes_the_configuration_and_where_the_run_comes_from(self, run, plane):
        plane.emit(events.training_start({"model": "ResNet18", "lr": 1e-3, "api_key": "s3cret"}))
        (event,) = run.events("training_start")
        assert event["config"] == {"model": "ResNet18", "lr": 0.001, "api_key": "***"}
        assert event["provenance"]["python"]["version"]
        assert "training_start attempt=1 model=ResNet18 lr=0.001 api_key=***" in run.main()
        assert any(text.startswith("system python=") for text in run.main())
        assert run.texts() == ["training_start"]
        assert "attempt 1" in run.shown.getvalue()
        summary = run.summary()
        assert summary["config"] == event["config"]
        assert summary["provenance"] == event["provenance"]
        assert summary["status"] == "running"

    def test_an_end_notes_final_metrics_and_the_duration_and_does_not_close(self, run, plane):
        plane.emit(events.training_start())
        plane.emit(events.training_end({"final_loss": np.float32(0.5), "best": math.nan, "note": FORGED}))
        (event,) = run.events("training_end")
        assert event["final_metrics"] == {"final_loss": 0.5, "best": "nan", "note": FORGED}
        assert event["status"] == plane.status == "completed"
        assert run.texts()[-1].startswith("training_end status=completed duration_s=")
        assert run.summary()["final_metrics"] == {"final_loss": 0.5, "best": None, "note": FORGED}
        plane.emit(events.of_the_user("after", {}))
        assert run.events("after")

    def test_settings_may_be_the_attributes_of_an_object(self, run, plane):
        plane.emit(events.training_start(argparse.Namespace(lr=0.1, api_key="s3cret")))
        plane.emit(events.hyperparameters(types.SimpleNamespace(depth=4)))
        (started,), (given,) = run.events("training_start"), run.events("hyperparameters")
        assert started["config"] == {"lr": 0.1, "api_key": "***"}
        assert given["hyperparameters"] == {"depth": 4}

    def test_the_duration_stands_still_after_the_end_and_begins_anew_with_a_start(self, run, plane):
        plane.emit(events.training_start())
        time.sleep(0.02)
        plane.emit(events.training_end())
        ended = plane.summary()["duration_s"]
        assert ended >= 0.02
        time.sleep(0.02)
        assert plane.summary()["duration_s"] == ended
        before = time.monotonic()
        plane.emit(events.training_start())
        assert plane.summary()["duration_s"] <= time.monotonic() - before + 1e-6  # rounded
        assert (plane.status, plane.summary()["ended_at"]) == ("running", None)

    def test_events_name_the_record_they_follow(self, run, plane):
        plane.emit(events.of_the_user("before", {}))
        run.link.last_seq = 41
        plane.emit(events.of_the_user("after", {}))
        assert [row["seq"] for row in json_lines(run.paths.events_jsonl) if row["event"] in ("before", "after")] == [
            -1,
            41,
        ]


class TestEpochs:
    def test_an_epoch_is_lines_events_and_a_row_of_the_summary(self, run, plane):
        plane.emit(events.epoch_start(np.int64(3), 10))
        empty = MetricStats()
        epoch = EpochTotals(3, 45, 0, 10**9, 1440.0, 0.0, empty, empty)
        run.link.counted = Totals(epoch=epoch, epochs={3: epoch})
        time.sleep(0.01)
        plane.emit(events.epoch_end(3, {"accuracy": np.float32(0.5), "nested": {"f1": 0.25}}))
        assert run.texts()[0] == "epoch_start epoch=3 total_epochs=10"
        assert re.match(r"epoch_end epoch=3 duration_s=\d+\.\d+ batches=45 ", run.texts()[1])
        assert run.texts()[1].endswith(" accuracy=0.5 nested/f1=0.25")
        (event,) = run.events("epoch_end")
        assert (event["epoch"], event["batches"]) == (3, 45)
        assert event["samples_per_s"] == pytest.approx(1440 / event["duration_s"], rel=1e-3)
        assert event["metrics"] == {"accuracy": 0.5, "nested/f1": 0.25}
        assert plane.summary()["epochs"][0]["metrics"] == event["metrics"]
        assert "epoch 3/10 done in" in run.shown.getvalue()

    def test_a_validation_is_a_line_in_the_shape_of_the_design(self, run, plane):
        plane.emit(events.validation(1, {"accuracy": 0.9123}, is_best=np.True_))
        plane.emit(events.validation(2, {"accuracy": 0.5}))
        assert run.texts() == [
            "validation epoch=1 accuracy=0.9123 best=true",
            "validation epoch=2 accuracy=0.5",
        ]
        assert [row["best_so_far"] for row in run.events("validation")] == [True, False]
        summary = plane.summary()
        best = summary["best"]
        assert (best["epoch"], best["metric"], best["metrics"], summary["validations"]) == (
            1,
            None,
            {"accuracy": 0.9123},
            2,
        )

    def test_the_console_shows_four_significant_digits_and_the_text_logs_six(self, run, plane):
        loss = 1.2067729234695435
        plane.emit(events.validation(1, {"loss": loss, "tiny": 1.23456789e-7, "samples": 123456.0}))
        plane.emit(events.epoch_end(1, {"loss": loss}))
        plane.emit(events.training_end({"loss": loss, "deep": {"losses": [loss, math.nan]}, "steps": 123456}))
        start, validation, epoch, end = (line.removeprefix("[advlog] ") for line in run.shown.getvalue().splitlines())
        assert start.startswith("run: attempt 1, logs in /")
        assert validation == "validation epoch=1 loss=1.207 tiny=1.235e-07 samples=123456"
        assert epoch == "epoch 1 done loss=1.207"
        assert end.endswith('s loss=1.207 deep="{\\"losses\\":[1.207,\\"nan\\"]}" steps=123456')
        assert [text.count("loss=1.20677 ") + text.endswith("loss=1.20677") for text in run.texts()] == [1, 1, 1]
        assert "loss=1.20677 tiny=1.23457e-07 samples=123456" in run.texts()[0]
        assert 'deep="{\\"losses\\":[1.20677,\\"nan\\"]}"' in run.texts()[2]
        assert sum("loss=1.20677" in text for text in run.main()) == 3
        assert run.events("validation")[0]["metrics"]["loss"] == loss
        assert run.summary()["final_metrics"]["loss"] == loss

    def test_a_milestone_is_a_line_an_event_and_counted(self, run, plane):
        plane.emit(events.milestone(Progress("epoch", 25, 1, 3, 12, 4.56789, 2.0)))
        plane.emit(events.milestone(Progress("overall", 50, 2)))
        assert run.texts()[0] == (
            "milestone scope=epoch percent=25 epoch=1 batch=3 total_batches=12 batches_per_s=4.568 eta_s=2"
        )
        found = plane.summary()["milestones"]
        assert (found["total"], found["epoch"]) == (2, {"epoch": 1, "percents": [25]})
        assert list(found["overall"]) == ["50"]

    def test_the_first_value_that_is_not_finite_is_a_warning_everywhere(self, run, plane):
        plane.emit(events.nonfinite("loss", NonFinite("nan", 97, 45, 1, 45, 10**18)))
        assert run.link.lines == [(logging.WARNING, "nonfinite metric=loss value=nan step=45 epoch=1 batch=45")]
        (event,) = run.events("nonfinite")
        assert (event["level"], event["metric"], event["first_seq"]) == ("WARNING", "loss", 97)
        assert "loss" in run.shown.getvalue()


class TestFacts:
    def test_hyperparameters_add_up_and_secrets_stay_out_of_every_file(self, run, plane, tmp_path):
        plane.emit(events.hyperparameters({"lr": 0.1, "hub_token": "s3cret", "num_tokens": 7}))
        plane.emit(events.hyperparameters({"lr": 0.2, "url": "https://me:s3cret@host/x"}))
        secret = {"password": "s3cret"}
        plane.emit(events.of_the_user("mine", dict(**secret)))
        plane.log_error(ValueError("x"), context={"api_key": "s3cret"})
        plane.emit(events.training_end({"secret": "s3cret"}))
        assert run.summary()["hyperparameters"] == {
            "lr": 0.2,
            "hub_token": "***",
            "num_tokens": 7,
            "url": "https://***@host/x",
        }
        assert not any("s3cret" in path.read_text() for path in tmp_path.iterdir() if path.is_file())

    def test_an_event_of_the_users_own_may_have_fields_of_any_name(self, run, plane):
        plane.emit(events.of_the_user("mine", {"name": "n", "seq": 7, "self": 1, "level": "x"}))
        (event,) = run.events("mine")
        assert (event["name"], event["self"], event["seq"]) == ("n", 1, -1)
        assert event["fields"] == {"seq": 7, "level": "x"}
        assert run.texts() == ["mine name=n seq=7 self=1 level=x"]

    @pytest.mark.torch
    def test_quotes_backslashes_and_line_breaks_are_escaped_once_in_names_and_values(self, run, plane):
        odd = 'a "b" c\\d\ne\x1b'
        plane.emit(events.of_the_user(odd, dict(**{odd: odd})))
        plane.emit(events.hyperparameters({odd: odd, "deep": {odd: [odd]}}))
        (logged,) = (text for text in run.main() if text.startswith("a "))
        assert logged == run.texts()[-1]
        assert logged == f"{ESCAPED} {QUOTED}={QUOTED}"
        assert unescape(ESCAPED) == odd
        (given,) = (text for text in run.main() if text.startswith("hyperparameters "))
        start = f"hyperparameters {QUOTED}={QUOTED} deep="
        assert given.startswith(start)
        assert strict_json(unescape(given[len(start) :])[1:-1]) == {odd: [odd]}
        assert json_lines(run.paths.events_jsonl)[-1]["hyperparameters"] == {odd: odd, "deep": {odd: [odd]}}

    @pytest.mark.torch
    def test_a_model_is_described(self, run, plane):
        import torch

        plane.emit(events.model_info(torch.nn.Linear(4, 3)))
        assert run.events("model_info")[0]["model"]["total_parameters"] == 15
        assert plane.summary()["model"]["total_parameters"] == 15

    def test_a_long_event_is_one_line_of_at_most_4096_bytes_in_the_ring_and_whole_in_the_events(self, run, plane):
        plane.emit(events.of_the_user(FORGED, {"text": "ü" * 5000}))
        assert len(run.texts()[0].encode()) <= 4096
        assert run.events(FORGED)[0]["text"] == "ü" * 5000
        assert not any(line.startswith("ERROR") for line in physical_lines(run.paths.main_log))


class TestErrors:
    def test_an_error_is_in_every_output(self, run, plane):
        log = plane.log_error(OSError("disk"), "save", {"epoch": 2}, "critical")
        assert (log.error_type, log.severity) == ("OSError", "CRITICAL")
        ((header, _),) = error_entries(run.paths.errors_log)
        assert header.text == 'id=e1 attempt=1 category=io operation=save epoch=2 type=OSError message="disk"'
        (event,) = run.events("error")
        assert (event["id"], event["level"], event["context"]) == ("e1", "CRITICAL", {"epoch": 2})
        assert run.link.lines == [
            (logging.CRITICAL, "error id=e1 category=io operation=save type=OSError message=disk")
        ]
        assert "disk" in run.shown.getvalue()
        summary = plane.summary()
        assert summary["total_errors"] == 1
        assert summary["errors"]["by_severity"] == {"CRITICAL": 1}

    def test_an_error_leaving_nested_contexts_and_logged_by_the_caller_counts_once(self, run, plane):
        error = ValueError("bad batch")
        try:
            with TrainingContext(plane, "outer"), TrainingContext(plane, "inner"):
                raise error
        except ValueError as caught:
            log = plane.log_error(caught, "model_training", {"epoch": 2, "batch": 17}, "CRITICAL")
        assert log.context["context"] == "outer/inner"
        assert (log.context["batch"], log.severity) == (17, "CRITICAL")
        assert "bad batch" in log.traceback
        summary = plane.summary()
        assert (summary["total_errors"], summary["errors"]["by_severity"]) == (1, {"CRITICAL": 1})
        assert len(run.events("error")) == 1
        assert run.events("error_context")[0]["context"] == {"epoch": 2, "batch": 17}
        (first, _), (second, _) = error_entries(run.paths.errors_log)
        assert (first.fields["id"], first.fields["operation"]) == ("e1", "inner")
        assert (second.fields["id"], second.fields["batch"]) == ("e1", "17")
        assert plane.emit(events.recovery("model_training", "skipped it")) is None
        assert plane.summary()["recoveries"] == {"other": {"attempts": 1, "successes": 1, "rate": 1.0}}

    def test_an_error_logged_inside_a_context_is_not_logged_by_the_context(self, plane):
        with pytest.raises(ValueError, match="seven"), TrainingContext(plane, "work"):
            try:
                int("seven")
            except ValueError as error:
                plane.log_error(error)
                raise
        assert plane.summary()["total_errors"] == 1

    @pytest.mark.parametrize("logged_by", ["the user", "a context", "nobody"])
    def test_an_error_that_leaves_the_run_counts_once(self, plane, logged_by):
        error = ValueError("x")
        if logged_by == "the user":
            plane.log_error(error)
        elif logged_by == "a context":
            with pytest.raises(ValueError, match="x"), TrainingContext(plane, "work"):
                raise error
        plane.log_leaving(error, "training")
        plane.log_leaving(KeyboardInterrupt(), "training")
        assert plane.summary()["total_errors"] == 1

    def test_one_object_raised_in_two_contexts_is_two_errors(self, plane):
        error = ValueError("the same object")
        for _ in range(2):
            with pytest.raises(ValueError, match="same"), TrainingContext(plane, "work"):
                raise error
        assert plane.summary()["total_errors"] == 2

    def test_one_object_logged_by_hand_counts_each_time_and_is_not_written_each_time(self, run, plane):
        error = ValueError("again")
        for _ in range(1000):
            plane.log_error(error, "op")
        assert plane.summary()["total_errors"] == 1000
        assert len(run.events("error")) == 5 + 7
        assert run.events("error")[-1]["repeated"] == 512

    def test_an_exception_given_to_the_main_log_is_an_error_once_by_its_level(self, run, plane):
        def train_step():
            try:
                int("seven")
            except ValueError as error:
                plane.logger.warning("step %d failed", 3, exc_info=True)
                plane.logger.exception("again")
                plane.log_error(error, "step", {"batch": 3}, "WARNING")

        train_step()
        assert [text for text in run.main() if not text.startswith(("attempt_start", "options"))] == [
            "step 3 failed",
            "again",
        ]
        first, added = error_entries(run.paths.errors_log)
        assert first[0].level == "WARNING"
        assert "operation=train_step type=ValueError" in first[0].text
        assert first[1][0] == 'context {"logged":"step 3 failed"}'
        assert first[1][-1].startswith("ValueError: invalid literal")
        assert "reported again on its way out" in added[1][-1]
        assert [event["level"] for event in run.events("error")] == ["WARNING"]
        plane.write_summary()
        assert run.summary()["total_errors"] == 1

    @pytest.mark.parametrize(("severity", "shown"), [("debug", False), ("warning", True), ("CRITICAL", True)])
    def test_the_console_says_the_severity_of_an_error_and_hides_what_is_below_the_level(
        self, run, plane, severity, shown
    ):
        plane.log_error("x", severity=severity)
        assert (f"[advlog] {severity.lower()} id=e1 " in run.shown.getvalue()) == shown
        assert ("id=e1" in run.shown.getvalue()) == shown
        assert len(error_entries(run.paths.errors_log)) == 1

    @pytest.mark.parametrize(
        ("kind", "status", "outcome"),
        [
            (KeyboardInterrupt, "interrupted", "interrupted"),
            (SystemExit, "completed", "left by SystemExit"),
            (asyncio.CancelledError, "completed", "left by CancelledError"),
        ],
    )
    def test_what_is_no_error_is_not_logged_as_one(self, run, plane, kind, status, outcome):
        with pytest.raises(kind), TrainingContext(plane, "work"):
            raise kind
        plane.emit(events.training_end())
        assert plane.status == status
        assert plane.summary()["total_errors"] == 0
        assert run.events("context_end")[0]["outcome"] == outcome

    def test_a_context_is_timed_and_works_with_async_with(self, run, plane):
        async def work():
            async with TrainingContext(plane, "download"):
                await asyncio.sleep(0.02)

        asyncio.run(work())
        assert run.events("context_start")[0]["context"] == "download"
        assert run.events("context_end")[0]["duration_s"] >= 0.02
        assert plane.summary()["contexts"]["download"]["count"] == 1
        assert sum("download" in text for text in run.main()) == 2

    def test_errors_of_eight_threads_are_all_counted(self, run, plane):
        def work(thread):
            for number in range(100):
                try:
                    with TrainingContext(plane, f"thread {thread}"):
                        {}[number]
                except KeyError as error:
                    plane.log_error(error, f"thread {thread}", {"batch": number})

        threads = [threading.Thread(target=work, args=(t,)) for t in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        plane.close("completed")
        summary = run.summary()
        assert summary["total_errors"] == 800
        assert sum(entry["count"] for entry in summary["contexts"].values()) == 800
        error_entries(run.paths.errors_log)
        assert set(plane.outputs.lost().values()) == {0}

    def test_a_signal_handler_may_log_an_error_while_its_thread_logs_one(self, run, plane):
        fired = []

        def handler(*_):
            fired.append(plane.log_error("from the handler", "signal", severity="INFO"))

        before = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            for _ in range(1000):
                plane.log_error("from the thread", "loop", severity="INFO")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert fired
        assert plane.summary()["total_errors"] == 1000 + len(fired)
        error_entries(run.paths.errors_log)
        json_lines(run.paths.events_jsonl)


class TestMisuse:
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (
                lambda _: events.training_start([1]),
                "config: expected a mapping, or an object .*, got list",
            ),
            (lambda _: events.training_end(0.5), "final_metrics: expected a mapping, got float"),
            (lambda _: events.validation(1, 0.5), "metrics: expected a mapping, got float"),
            (lambda _: events.hyperparameters(7), "hyperparameters: expected a mapping, or an object .*, got int"),
            (lambda _: events.model_info(None), "model: expected a model, got NoneType"),
            (lambda p: p.log_error("x", "", [1]), r"context: expected a mapping, got list \[1\]"),
            (lambda p: p.log_error("x", "", None, 40), "severity: expected one of DEBUG, .*, got int 40"),
        ],
    )
    def test_what_is_wrong_at_every_call_is_named_and_leaves_no_trace(self, run, plane, call, message):
        before = run.paths.events_jsonl.read_bytes()
        with pytest.raises(TypeError, match=message):
            call(plane)
        assert run.paths.events_jsonl.read_bytes() == before
        assert run.link.lines == []
        summary = plane.summary()
        assert (summary["total_errors"], summary["recoveries"]) == (0, {})

    @pytest.mark.parametrize(
        ("event", "message", "fields"),
        [
            (
                events.epoch_start("1", 2.5),
                "epoch: expected an integer, got str '1'",
                {"epoch": None, "total_epochs": None},
            ),
            (
                events.epoch_end(1, {"a": "b", "c": 1}),
                r"metrics\['a'\]: expected a number, got str 'b'",
                {"epoch": 1, "metrics": {"c": 1.0}},
            ),
            (
                events.validation(1, {"a": 1}, "yes"),
                "is_best: expected True or False, got str 'yes'",
                {"epoch": 1, "step": None, "name": None, "metrics": {"a": 1.0}, "is_best": False},
            ),
            (
                events.recovery(1, "a", "yes"),
                "operation: expected a string, got int 1",
                {"operation": "<int>", "action": "a", "success": False},
            ),
        ],
    )
    def test_a_wrong_value_is_left_out_of_its_event_and_named(self, run, plane, event, message, fields):
        assert re.match(message, event.misuses[0].message())
        assert event.fields == fields
        plane.emit(event)
        (row,) = run.events(event.kind)
        assert {name: row[name] for name in fields} == fields

    def test_what_is_no_error_is_one_by_its_text(self, plane):
        intake = Intake()
        entry = plane.log_error(7, None, intake=intake)
        assert (entry.error_message, entry.operation, entry.error_type) == ("7", "<NoneType>", "Message")
        assert [misuse.name for misuse in intake.misuses] == ["error", "operation"]

    def test_a_wrong_word_is_named(self, plane):
        with pytest.raises(ValueError, match=r"severity: expected one of .*, got str 'FATAL'"):
            plane.log_error(ValueError(), severity="FATAL")


class TestEnd:
    def test_closing_writes_the_summary_and_the_last_event_and_closes_once(self, run, plane):
        plane.emit(events.training_start({"lr": 0.1}))
        plane.close("failed")
        plane.close("completed")
        assert run.summary()["status"] == "failed"
        assert [row["status"] for row in run.events("attempt_end")] == ["failed"]
        assert run.summary()["memory"] == {"cpu_memory_gb": 1.5}

    def test_a_training_that_ended_stays_completed(self, run, plane):
        plane.emit(events.training_end())
        plane.close("failed")
        assert run.summary()["status"] == "completed"

    def test_calls_after_the_close_raise_nothing_and_are_counted_as_lost(self, plane):
        plane.close("completed")
        plane.emit(events.of_the_user("late", {}))
        with TrainingContext(plane, "late"):
            pass
        plane.log_error("late")
        assert plane.outputs.lost()["run_events.jsonl"] >= 4
        assert plane.outputs.fault() is None

    def test_a_level_filters_text_and_console_and_neither_events_nor_errors(self, make):
        run = make(log_level="ERROR")
        run.plane.emit(events.epoch_start(1))
        run.plane.log_error("small", severity="INFO")
        run.plane.log_error("large")
        assert [line.level for line in text_lines(run.paths.main_log)] == ["ERROR"]
        assert (len(run.events("epoch_start")), len(run.events("error"))) == (1, 2)
        assert len(error_entries(run.paths.errors_log)) == 2
        assert "small" not in run.shown.getvalue()
        assert "large" in run.shown.getvalue()

    def test_captured_logging_ends_with_the_run(self, make):
        before = list(logging.getLogger().handlers)
        run = make(capture_logging=True)
        logging.getLogger("library").warning("slow")
        run.plane.close("completed")
        assert "library: slow" in run.main()
        assert logging.getLogger().handlers == before

    def test_a_second_attempt_keeps_the_files_of_the_first(self, make, tmp_path):
        make().plane.close("completed")
        make()
        assert (tmp_path / "run_events.jsonl.1").exists()
        assert (tmp_path / "run_main.log.1").exists()

    def test_files_that_cannot_be_made_are_an_error_and_leave_none_open(self, make, tmp_path):
        (tmp_path / "run_events.jsonl").mkdir()
        with pytest.raises(OSError, match=r"got a directory.*run_events\.jsonl"):
            make()

    def test_a_log_folder_that_vanishes_harms_nothing(self, make, tmp_path):
        import shutil

        run = make()
        shutil.rmtree(tmp_path)
        run.plane.emit(events.training_start({"lr": 0.1}))
        run.plane.log_error(ValueError("x"))
        run.plane.emit(events.training_end())
        assert all(run.plane.outputs.lost().values())
        assert run.plane.outputs.fault().startswith("run_main.log: FileNotFoundError: ")
        tmp_path.mkdir(exist_ok=True)
        run.plane.emit(events.of_the_user("back", {}))
        assert run.events("back")

    def test_the_summary_shares_nothing_with_the_plane(self, plane):
        plane.emit(events.hyperparameters({"deep": {"lr": 0.1}}))
        plane.summary()["hyperparameters"]["deep"]["lr"] = 7
        assert plane.summary()["hyperparameters"] == {"deep": {"lr": 0.1}}
