"""The examples in the docstrings of the public names run, and print what they show."""

from __future__ import annotations

import doctest
import inspect
from pathlib import Path

import pytest

import advlog_fast
from advlog_fast import AdvancedLogger, Run, TrainingProgressTracker, read_run

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
PUBLIC = {name: getattr(advlog_fast, name) for name in advlog_fast.__all__ if name != "__version__"}
MEMBERS = {
    f"{cls.__name__}.{name}": inspect.getattr_static(cls, name)
    for cls in (AdvancedLogger, Run, TrainingProgressTracker)
    for name in dir(cls)
    if not name.startswith("_")
}
DOCUMENTED = {**PUBLIC, **MEMBERS}


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The logger that the examples speak of, on which one batch was logged."""
    monkeypatch.chdir(tmp_path)
    with AdvancedLogger("logs", "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, 10, 0.5, step=1)
        yield log


def examples(name: str) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(inspect.getdoc(DOCUMENTED[name]) or "", {}, name, None, 0)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_of_a_docstring_hold(name: str, log: AdvancedLogger):
    test = examples(name)
    assert test.examples, f"{name} has none"
    test.globs.update(PUBLIC, log=log)
    if name == "Run" or name.startswith("Run."):
        assert log.flush()
        assert log.close()
        test.globs["run"] = read_run("logs", "run")
    told: list[str] = []
    failed = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=told.append, clear_globs=False).failed
    assert not failed, "".join(told)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_docstring_begins_with_one_sentence_that_stands_alone(name: str):
    first = (inspect.getdoc(DOCUMENTED[name]) or "").split("\n\n")[0]
    assert first.rstrip().endswith((".", ":"))
