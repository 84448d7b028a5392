"""What the logging system covers, end to end: a test class for each point.

Runs under pytest with all other tests, and alone: `python tests/test_advanced_logging.py`.
"""

import logging
import math
import re
import sys
from pathlib import Path

import pytest
from run_files import (
    batch_lines,
    error_entries,
    events_of,
    json_lines,
    physical_lines,
    summary_of,
    text_lines,
)

from advlog_fast import AdvancedLogger, TrainingProgressTracker, read_jsonl, read_run


@pytest.fixture
def logs(tmp_path):
    return tmp_path / "logs"


@pytest.fixture
def logger(logs):
    with AdvancedLogger(logs, "run") as logger:
        yield logger


class TestInitialisation:
    def test_every_argument_has_the_guides_default(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        AdvancedLogger().close()
        assert (tmp_path / "logs" / "experiment_main.log").exists()

    def test_arguments_are_positional_in_the_guides_order(self, logs):
        AdvancedLogger(logs, "run", logging.INFO, 10, 10 * 1024 * 1024).close()
        assert (logs / "run_main.log").exists()

    @pytest.mark.parametrize(
        ("wrong", "argument"),
        [
            ({"experiment_name": "../x"}, "experiment_name"),
            ({"experiment_name": ""}, "experiment_name"),
            ({"experiment_name": 7}, "experiment_name"),
            ({"log_level": "LOUD"}, "log_level"),
            ({"max_log_files": 0}, "max_log_files"),
            ({"max_log_size": 0}, "max_log_size"),
            ({"max_log_size": "10MB"}, "max_log_size"),
            ({"console": "loud"}, "console"),
        ],
    )
    def test_a_wrong_argument_is_named_with_what_was_expected_and_what_came(self, logs, wrong, argument):
        with pytest.raises((TypeError, ValueError)) as raised:
            AdvancedLogger(**{"log_dir": logs, **wrong})
        assert re.match(rf"{argument}: expected .+, got \w+ .+", str(raised.value))
        assert not logs.exists()

    def test_a_log_dir_that_cannot_be_made_is_an_error_at_once(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="file"):
            AdvancedLogger(tmp_path / "file" / "logs")

    def test_a_second_start_is_a_second_attempt_and_overwrites_nothing(self, logs):
        for loss in (1.0, 2.0):
            with AdvancedLogger(logs, "run") as logger:
                logger.log_batch_progress(1, 1, 1, loss)
        found = [row for path in sorted(logs.glob("run_metrics.jsonl*")) for row in json_lines(path)]
        assert sorted((row["attempt"], row["loss"]) for row in found) == [(1, 1.0), (2, 2.0)]

    @pytest.mark.parametrize("how", ["argument", "environment"])
    def test_a_disabled_logger_takes_every_call_and_touches_no_file(self, logs, monkeypatch, how):
        if how == "environment":
            monkeypatch.setenv("ADVLOG_DISABLED", "1")
        with AdvancedLogger(logs, "run", enabled=how == "environment") as logger:
            logger.start_training({})
            logger.log_batch_progress(1, 1, 1, 0.5)
            logger.log_error(ValueError("x"))
            with logger.training_context("work"):
                TrainingProgressTracker(logger).update_progress(1, 1, 1, 1)
            logger.end_training({})
        assert not logs.exists()


class TestTrainingProgress:
    def test_a_batch_is_one_line_and_one_object_with_the_same_values(self, logs, logger):
        logger.log_batch_progress(
            epoch=3,
            batch=7,
            total_batches=45,
            loss=0.8312,
            accuracy=0.5,
            learning_rate=0.001,
            gradient_norm=2.0,
        )
        assert logger.flush()
        (line,) = batch_lines(logs / "run_training.log")
        assert line.text == ("epoch=3 batch=7/45 step=97 loss=0.8312 accuracy=0.5 learning_rate=0.001 gradient_norm=2")
        (row,) = json_lines(logs / "run_metrics.jsonl")
        assert list(row.items())[1:] == [
            ("attempt", 1),
            ("rank", 0),
            ("seq", 1),
            ("epoch", 3),
            ("batch", 7),
            ("total_batches", 45),
            ("step", 97),
            ("loss", 0.8312),
            ("accuracy", 0.5),
            ("learning_rate", 0.001),
            ("gradient_norm", 2.0),
        ]
        assert row["timestamp"] == line.timestamp

    def test_a_new_name_is_a_metric_of_its_own(self, logs, logger):
        logger.log_batch_progress(1, 1, 2, 0.5, perplexity=12.5)
        logger.log_batch_progress(1, 2, 2, 0.5, step=900, samples=32)
        logger.close()
        first, second = json_lines(logs / "run_metrics.jsonl")
        assert (first["perplexity"], first["step"]) == (12.5, 1)
        assert (second["samples"], second["step"]) == (32, 900)
        assert "perplexity" not in second

    def test_a_step_is_given_or_computed_or_absent_and_never_counted(self, logs, logger):
        logger.log_batch_progress(2, 1, 10, 0.5)
        logger.log_batch_progress(2, 2, None, 0.5)
        logger.log_batch_progress(2, 3, None, 0.5, step=5)
        logger.close()
        assert [row.get("step") for row in json_lines(logs / "run_metrics.jsonl")] == [11, None, 5]

    def test_values_that_are_not_finite_survive_and_are_named(self, logs, logger):
        for batch, loss in enumerate((math.nan, math.inf, -math.inf, -0.0, 5e-324), start=1):
            logger.log_batch_progress(1, batch, 5, loss)
        logger.close()
        rows = json_lines(logs / "run_metrics.jsonl")
        assert [row.get("nonfinite") for row in rows] == [
            {"loss": "nan"},
            {"loss": "inf"},
            {"loss": "-inf"},
            None,
            None,
        ]
        assert [row["loss"] for row in rows] == [None, None, None, -0.0, 5e-324]
        assert math.copysign(1, rows[3]["loss"]) == -1
        losses = [row["loss"] for row in read_jsonl(logs / "run_metrics.jsonl")]
        assert [repr(loss) for loss in losses] == ["nan", "inf", "-inf", "-0.0", "5e-324"]

    @pytest.mark.parametrize(
        ("arguments", "named"),
        [
            ((1, 1, 1, "0.5"), "loss"),
            ((1, 1, 1, 0.5, [1]), "accuracy"),
            (("1", 1, 1, 0.5), "epoch"),
            ((1, 1.5, 1, 0.5), "batch"),
        ],
    )
    def test_a_wrong_type_is_a_warning_that_names_the_argument_and_loses_nothing_else(
        self, logs, logger, arguments, named
    ):
        logger.log_batch_progress(1, 1, 3, 0.25)
        with pytest.warns(RuntimeWarning, match=rf"{named}: expected .+, got "):
            logger.log_batch_progress(*arguments)
        logger.log_batch_progress(1, 2, 3, 0.125)
        logger.close()
        losses = [row.get("loss") for row in json_lines(logs / "run_metrics.jsonl")]
        assert losses == [0.25, None if named == "loss" else 0.5, 0.125]

    def test_a_missing_argument_is_an_error_that_names_it(self, logger):
        with pytest.raises(TypeError, match="loss"):
            logger.log_batch_progress(1, 1, 1)

    def test_epochs_and_validations_are_lines_between_the_batches_and_events(self, logs, logger):
        logger.start_epoch(1, 2)
        logger.log_batch_progress(1, 1, 1, 0.5)
        logger.log_validation(1, {"accuracy": 0.9123}, is_best=True)
        logger.end_epoch(1, {"accuracy": 0.9123})
        logger.close()
        texts = [line.text for line in text_lines(logs / "run_training.log")]
        batch = next(i for i, text in enumerate(texts) if text.startswith("epoch=1 batch=1/1"))
        validation = texts.index("validation epoch=1 accuracy=0.9123 best=true")
        assert 0 < batch < validation < len(texts) - 1
        (event,) = events_of(logs, "run", "validation")
        assert (event["seq"], event["epoch"]) == (1, 1)


class TestErrors:
    def test_an_error_is_in_the_file_when_the_call_returns(self, logs, logger):
        try:
            int("seven")
        except ValueError as error:
            logger.log_error(error, operation="parse", context={"epoch": 2, "batch": 17})
        ((header, traceback),) = error_entries(logs / "run_errors.log")
        assert re.match(r"id=e1 attempt=1 category=\w+ operation=parse epoch=2 batch=17 ", header.text)
        assert header.fields["type"] == "ValueError"
        assert "Traceback (most recent call last):" in traceback
        assert traceback[-1].startswith("ValueError: invalid literal")

    def test_a_chained_cause_is_in_the_traceback(self, logs, logger):
        try:
            try:
                {}["weights"]
            except KeyError as cause:
                raise RuntimeError("no checkpoint") from cause
        except RuntimeError as error:
            logger.log_error(error)
        ((_, traceback),) = error_entries(logs / "run_errors.log")
        assert any(line.startswith("KeyError: ") for line in traceback)
        assert traceback[-1] == "RuntimeError: no checkpoint"

    @pytest.mark.parametrize("severity", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
    def test_the_severity_is_the_level_of_the_line(self, logs, logger, severity):
        logger.log_error(ValueError("x"), severity=severity)
        ((header, _),) = error_entries(logs / "run_errors.log")
        assert header.level == severity

    def test_an_unknown_severity_is_an_error_that_names_it(self, logger):
        with pytest.raises(ValueError, match=r"severity: expected .+, got str 'FATAL'"):
            logger.log_error(ValueError("x"), severity="FATAL")

    def test_a_message_cannot_forge_a_line(self, logs, logger):
        logger.log_error(ValueError("a\r\nERROR forged\x1b[2J\x00"), operation="a\nb")
        logger.close()
        ((header, _),) = error_entries(logs / "run_errors.log")
        assert "forged" in header.fields["message"]
        for name in ("run_main.log", "run_training.log", "run_errors.log"):
            lines = physical_lines(logs / name) if (logs / name).exists() else []
            assert not any(line.startswith("ERROR forged") for line in lines)

    def test_recoveries_are_counted_beside_the_errors(self, logs, logger):
        logger.log_error(ConnectionError("lost"), operation="read")
        logger.log_recovery("read", "connected again", success=True)
        logger.log_recovery("read", "connected again", success=False)
        summary = logger.get_training_summary()
        assert summary["total_errors"] == 1
        logger.close()
        recoveries = events_of(logs, "run", "recovery")
        assert [row["success"] for row in recoveries] == [True, False]
        assert "connected again" in (logs / "run_errors.log").read_text()


class TestMetricsAndPerformance:
    def test_performance_and_memory_are_rows_of_the_system_stream(self, logs, logger):
        logger.log_performance_metrics(0.5, 0.125)
        logger.log_performance_metrics(0.5)
        logger.log_memory_usage()
        logger.close()
        rows = json_lines(logs / "run_system.jsonl")
        performance = [row for row in rows if row["kind"] == "performance"]
        assert [(row["batch_time"], row.get("data_time")) for row in performance] == [
            (0.5, 0.125),
            (0.5, None),
        ]
        assert any(row["kind"] == "memory" and row["cpu_memory_gb"] > 0 for row in rows)

    def test_hyperparameters_are_readable_and_secrets_masked(self, logs, logger):
        logger.log_hyperparameters({"lr": 0.1, "path": Path("data"), "api_key": "s3cret", "num_tokens": 7})
        logger.close()
        hyperparameters = summary_of(logs, "run")["hyperparameters"]
        assert (hyperparameters["lr"], hyperparameters["path"], hyperparameters["num_tokens"]) == (
            0.1,
            "data",
            7,
        )
        assert not any("s3cret" in path.read_text() for path in logs.iterdir() if path.is_file())

    @pytest.mark.torch
    def test_model_info_counts_parameters_and_layers(self, logs, logger):
        import torch

        model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
        model[0].bias.requires_grad_(False)
        logger.log_model_info(model)
        logger.close()
        (event,) = events_of(logs, "run", "model_info")
        found = event["model"]
        assert (found["total_parameters"], found["trainable_parameters"]) == (4 * 3 + 3 + 6, 4 * 3 + 6)

    def test_parquet_and_jsonl_hold_the_same_rows(self, logs, logger):
        for batch in range(1, 101):
            logger.log_batch_progress(1, batch, 100, loss=1 / batch, accuracy=batch / 128)
        logger.close()
        table = read_run(logs, "run").metrics
        rows = list(read_jsonl(logs / "run_metrics.jsonl"))
        for name in ("seq", "batch", "loss", "accuracy"):
            assert table[name].to_pylist() == [row[name] for row in rows]


class TestProgressTracking:
    def test_milestones_are_told_once_for_the_epoch_and_once_for_the_whole(self, logs, logger):
        tracker = TrainingProgressTracker(logger)
        for epoch in (1, 2):
            for batch in range(1, 11):
                tracker.update_progress(epoch, batch, 10, 2)
        logger.close()
        found = [(row["scope"], row["percent"]) for row in events_of(logs, "run", "milestone")]
        assert [percent for scope, percent in found if scope == "epoch"] == [25, 50, 75, 90] * 2
        assert [percent for scope, percent in found if scope == "overall"] == [25, 50, 75, 90]

    def test_a_wrong_argument_is_named(self, logger):
        with pytest.warns(RuntimeWarning, match="batch: expected"):
            TrainingProgressTracker(logger).update_progress(1, "1", 10, 2)


class TestContextManagers:
    def test_a_context_logs_start_end_and_duration(self, logs, logger):
        with logger.training_context("outer"), logger.training_context("inner"):
            pass
        logger.close()
        events = [row for row in json_lines(logs / "run_events.jsonl") if row["event"].startswith("context_")]
        assert [(row["event"], row["path"]) for row in events] == [
            ("context_start", "outer"),
            ("context_start", "outer/inner"),
            ("context_end", "outer/inner"),
            ("context_end", "outer"),
        ]
        assert 0 <= events[2]["duration_s"] <= events[3]["duration_s"]

    def test_an_error_is_logged_once_through_nested_contexts_and_raised(self, logs, logger):
        with (
            pytest.raises(ZeroDivisionError),
            logger.training_context("outer"),
            logger.training_context("inner"),
        ):
            int(1 / 0)
        assert logger.get_training_summary()["total_errors"] == 1

    def test_a_context_works_with_async_with(self, logs, logger):
        import asyncio

        async def work():
            async with logger.training_context("download"):
                await asyncio.sleep(0)

        asyncio.run(work())
        logger.close()
        assert "download" in (logs / "run_main.log").read_text()

    def test_the_logger_is_a_context_that_closes_itself_and_names_how_it_ended(self, logs):
        with pytest.raises(RuntimeError, match="broken"), AdvancedLogger(logs, "run") as logger:
            logger.start_training({})
            logger.log_batch_progress(1, 1, 1, 0.5)
            raise RuntimeError("broken")
        assert summary_of(logs, "run")["status"] == "failed"
        assert len(json_lines(logs / "run_metrics.jsonl")) == 1


class TestFilesAndRotation:
    def test_no_file_is_larger_than_allowed_and_no_more_stand_than_allowed(self, logs):
        with AdvancedLogger(logs, "run", max_log_files=2, max_log_size=2048) as logger:
            for batch in range(1, 301):
                logger.log_batch_progress(1, batch, 300, 1 / batch)
        for series in ("run_training.log", "run_metrics.jsonl"):
            files = sorted(logs.glob(f"{series}*"))
            assert len(files) == 2
            assert all(path.stat().st_size <= 2048 for path in files)
        assert read_run(logs, "run").metrics["batch"].to_pylist() == list(range(1, 301)), "Parquet keeps every record"

    def test_nothing_but_parts_lies_in_a_dataset_folder(self, logs, logger):
        logger.log_batch_progress(1, 1, 1, 0.5)
        logger.close()
        files = [path.relative_to(logs) for path in (logs / "run_metrics.parquet").rglob("*") if path.is_file()]
        assert [str(path) for path in files] == ["run_metrics.parquet/attempt-1/rank00000-000001.parquet"]

    def test_logging_after_close_warns_once_and_raises_nothing(self, logs, logger):
        logger.close()
        with pytest.warns(RuntimeWarning, match=r"after close\(\)") as warned:
            logger.log_batch_progress(1, 1, 1, 0.5)
            logger.log_batch_progress(1, 1, 1, 0.5)
        assert len(warned) == 1
        assert logger.health().dropped_at_entry["closed"] == 2


class TestSummaries:
    def test_the_summary_has_the_guides_keys_and_shapes(self, logger):
        logger.start_training({"epochs": 1})
        for batch, loss in enumerate((2.5, 0.5, 0.1), start=1):
            logger.log_batch_progress(1, batch, 3, loss)
        summary = logger.get_training_summary()
        assert (summary["total_metrics"], summary["total_errors"]) == (3, 0)
        assert re.fullmatch(r"\d+:\d\d:\d\d", summary["training_duration"])
        assert (summary["loss_stats"]["min"], summary["loss_stats"]["max"]) == (0.1, 2.5)
        assert summary["loss_stats"]["mean"] == pytest.approx(3.1 / 3)
        assert math.isnan(summary["accuracy_stats"]["mean"])

    def test_what_is_not_finite_is_counted_and_left_out_of_the_moments(self, logger):
        for batch, loss in enumerate((1.0, math.nan, 3.0, math.inf), start=1):
            logger.log_batch_progress(1, batch, 4, loss)
        stats = logger.get_training_summary()["loss_stats"]
        assert (stats["mean"], stats["min"], stats["max"]) == (2.0, 1.0, 3.0)

    def test_accepted_is_written_plus_dropped_plus_pending_for_each_sink(self, logger):
        for batch in range(1, 1001):
            logger.log_batch_progress(1, batch, 1000, 0.5)
        assert logger.flush()
        health = logger.health()
        assert health.offered == health.accepted + sum(health.dropped_at_entry.values()) >= 1000
        for sink in health.sinks.values():
            assert sink.accepted == sink.written + sink.dropped + sink.pending
            assert (sink.dropped, sink.pending) == (0, 0)


@pytest.mark.torch
class TestIntegration:
    def test_the_optimisation_demo_trains_and_leaves_a_complete_run(self, run_python, logs):
        example = Path(__file__).resolve().parent.parent / "examples" / "optimized_trainer.py"
        ended = run_python(example, "--epochs", "1", "--log-dir", logs)
        assert ended.returncode == 0, ended.stderr
        summary = summary_of(logs, "optimized_trainer")
        assert summary["status"] == "completed"
        assert read_run(logs, "optimized_trainer").metrics.num_rows == summary["total_metrics"]


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
