"""The dispatcher: what it does with arguments and with errors that a user can mend."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import advlog_fast
from advlog_fast import AdvancedLogger
from advlog_fast.cli import main
from advlog_fast.cli.table import aligned


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


ODD = {"loss": 1.0, "größe": 1.0, "損失": 2.0, "a\x1b[2Jb": 3.0, "two\nlines": 4.0, "\u202egpj": 5.0}


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
@pytest.mark.parametrize("command", [["ls"], ["show", "run"], ["verify"], ["compact"], ["recover"]])
def test_no_command_dies_of_an_encoding_or_sends_a_control_character(tmp_path, monkeypatch, encoding, command):
    with AdvancedLogger(tmp_path / "logs", "run", console="off") as log:
        log.log_metrics(ODD, step=1)
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code = "import sys; from advlog_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [command[0], str(tmp_path / "logs"), *command[1:]]
    ended = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, timeout=180)
    assert ended.returncode == 0, ended.stderr
    shown = ended.stdout.decode(encoding)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)
    if command[0] == "show":
        lines = [line for line in shown.splitlines() if re.match(r"(a\\x1b\[2Jb|two\\nlines|\\u202egpj) ", line)]
        assert len(lines) == 3


def test_columns_of_wide_characters_are_aligned():
    assert aligned(("name", "n"), [["損失", 1], ["loss", 22]]) == ["name   n", "損失   1", "loss  22"]
