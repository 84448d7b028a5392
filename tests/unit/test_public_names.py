"""The public names and signatures, frozen: a change here changes the API, and stands in CHANGELOG.md."""

import inspect

import pytest

import advlog_fast

NAMES = [
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

# Without annotations: mypy looks after those.
SIGNATURES = {
    "AdvancedLogger": (
        "(log_dir='logs', experiment_name='experiment', log_level=20, max_log_files=10, "
        "max_log_size=10485760, *, metrics=(), group=None, tags=(), best_metric=None, best_mode=None, "
        "first_epoch=None, text=True, jsonl=True, parquet=True, training_log_every=1, text_digits=6, "
        "text_ranks='rank0', rank=None, world_size=None, console='auto', ring_bytes=4194304, ring_dir=None, "
        "overflow='block', overflow_timeout_s=1.0, memory_interval_s=5.0, part_interval_s=300.0, part_rows=1000000, "
        "close_timeout_s=30.0, deferred_values=4096, "
        "deferred_timeout_s=60.0, fsync='never', handle_signals=False, capture_logging=False, enabled=True, "
        "on_misuse='warn')"
    ),
    "TrainingProgressTracker": "(logger)",
    "compare": "(runs, metric='loss', *, x=None, span=None, width=1500, smooth=None)",
    "follow": "(log_dir, name='experiment', since=None, *, stream='metrics', wait_s=0.0)",
    "list_runs": "(log_dir, *, metric='loss')",
    "read_jsonl": "(path, *, rotated=True)",
    "safe_name": "(text)",
    "read_run": "(log_dir, name='experiment', *, attempts='chain')",
}

METHODS = {
    "attempt": "property",
    "close": "(self, timeout=None, status=None)",
    "end_epoch": "(self, epoch, metrics=None)",
    "end_training": "(self, final_metrics=None, status=None)",
    "flush": "(self, timeout=None)",
    "get_training_summary": "(self)",
    "handler": "property",
    "health": "(self)",
    "load_state_dict": "(self, state_dict)",
    "log_batch_progress": (
        "(self, /, epoch, batch, total_batches, loss, accuracy=None, learning_rate=None, gradient_norm=None, "
        "batch_time=None, data_time=None, step=None, **metrics)"
    ),
    "log_error": "(self, error, operation='', context=None, severity='ERROR')",
    "log_event": "(self, name, /, **fields)",
    "log_hyperparameters": "(self, hyperparameters)",
    "log_level": "property",
    "log_memory_usage": "(self)",
    "log_metrics": "(self, /, metrics, step=None)",
    "log_model_info": "(self, model)",
    "log_performance_metrics": "(self, /, batch_time, data_time=None)",
    "log_recovery": "(self, operation, action, success=True)",
    "log_validation": "(self, epoch=None, metrics=Ellipsis, is_best=None, *, step=None, name=None)",
    "logger": "property",
    "paths": "property",
    "reduce_summary": "(self, timeout_s=30.0, group=None)",
    "shared": "(log_dir='logs', experiment_name='experiment', **options)",
    "start_epoch": "(self, epoch, total_epochs=None)",
    "start_training": "(self, config=None)",
    "state_dict": "(self)",
    "training_context": "(self, name)",
}


def signature_of(function):
    signature = inspect.signature(function)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(inspect.Signature(bare))


def test_the_public_names_are_these():
    assert list(advlog_fast.__all__) == NAMES == sorted(NAMES)
    assert all(hasattr(advlog_fast, name) for name in NAMES)


@pytest.mark.parametrize("name", SIGNATURES)
def test_signature(name):
    assert signature_of(getattr(advlog_fast, name)) == SIGNATURES[name]


def test_the_loggers_public_members_are_these():
    public = {name for name in dir(advlog_fast.AdvancedLogger) if not name.startswith("_")}
    assert public == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_method_signature(name):
    member = inspect.getattr_static(advlog_fast.AdvancedLogger, name)
    if isinstance(member, classmethod):
        member = getattr(advlog_fast.AdvancedLogger, name)
    found = "property" if isinstance(member, property) else signature_of(member)
    assert found == METHODS[name]


def test_update_progress_signature():
    found = signature_of(advlog_fast.TrainingProgressTracker.update_progress)
    assert found == "(self, epoch, batch, total_batches, total_epochs=None)"


def test_the_error_classes_can_be_caught_as_one_and_as_their_built_in_kind():
    assert issubclass(advlog_fast.RunBusyError, advlog_fast.AdvlogError)
    assert issubclass(advlog_fast.RunNotFoundError, (advlog_fast.AdvlogError, FileNotFoundError))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "__version__"])
def test_every_public_name_says_what_it_is(name):
    assert inspect.getdoc(getattr(advlog_fast, name))


def test_import_loads_nothing_heavy_that_only_a_logger_at_work_needs(run_python):
    heavy = {"torch", "pyarrow", "numpy", "pandas", "rich", "psutil", "socket", "tempfile", "decimal", "statistics"}
    code = f"import sys; before = {{*sys.modules}}; import advlog_fast; print(*{heavy} & set(sys.modules) - before)"
    ended = run_python("-c", code)
    assert (ended.returncode, ended.stdout.split()) == (0, []), ended.stderr
