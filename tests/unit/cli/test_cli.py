"""The dispatcher: what it does with arguments and with errors that a user can mend."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import advlog_fast
from advlog_fast.cli import main


def test_version_is_the_distributions(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    installed = Path(advlog_fast.__file__).parent.parent != Path(__file__).resolve().parents[3]
    expected = f"advlog {version('advlog-fast')}\n" if installed else "advlog "
    assert capsys.readouterr().out.startswith(expected)


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["demo", "--epochs", "0"], ["demo", "--epochs", "x"]])
def test_wrong_arguments_end_with_status_2_and_a_usage_line(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: advlog")


def test_every_command_is_listed_in_the_help(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "demo" in capsys.readouterr().out


def test_python_m_advlog_fast_is_advlog(run_python):
    ended = run_python("-m", "advlog_fast", "--version")
    assert (ended.returncode, ended.stdout[:7]) == (0, "advlog "), ended.stderr


def test_an_unusable_log_dir_is_one_line_and_status_1(tmp_path, capsys):
    pytest.importorskip("sklearn")
    (tmp_path / "occupied").write_text("a file")
    assert main(["demo", "--log-dir", str(tmp_path / "occupied"), "--backend", "numpy"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("advlog demo: ")
    assert "occupied" in error
    assert error.count("\n") == 1


def test_a_missing_scikit_learn_names_the_extra(tmp_path):
    """In an interpreter that finds every package but that one."""
    code = (
        "import importlib.util as u, sys; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'sklearn' else find(name, *rest)\n"
        "from advlog_fast.cli import main; sys.exit(main(['demo']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=180)
    assert ended.returncode == 1
    assert ".[demo]" in ended.stderr
    assert "Traceback" not in ended.stderr
