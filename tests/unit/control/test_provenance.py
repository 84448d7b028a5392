"""Where a run comes from: true answers, None where there is none, and nothing that disturbs the process."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from advlog_fast.control import provenance
from advlog_fast.control.provenance import gather


def gathered_by(script: Path, *arguments: str, cwd: Path, **environ: str) -> dict:
    """What a process that runs this script, with these arguments, finds out about itself."""
    script.write_text(
        "import json, sys\n"
        "from advlog_fast.control.provenance import gather\n"
        "print(json.dumps(gather(), allow_nan=False))\n"
    )
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=180,
        cwd=cwd,
        env={**clean, **environ},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    try:
        git(folder, "init", "-q", "-b", "trunk")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    (folder / "train.py").write_text("")
    git(folder, "add", "train.py")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "-m", "one")
    return folder


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_this_process_and_machine():
    found = gather()
    assert found["cwd"] == str(Path.cwd())
    assert found["host"] == socket.gethostname()
    assert found["pid"] == os.getpid()
    assert found["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert found["python"]["implementation"] == "CPython"
    assert found["cpu"]["count"] == os.cpu_count()
    assert found["memory_total_gb"] == pytest.approx(psutil.virtual_memory().total / 1024**3, abs=0.01)
    assert found["packages"]["pyarrow"] == importlib.metadata.version("pyarrow")
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_secrets_on_the_command_line_are_masked(tmp_path):
    found = gathered_by(
        tmp_path / "train.py",
        *(
            "--lr",
            "0.1",
            "--api-key",
            "hunter2",
            "--token=hunter3",
            "--num-tokens",
            "512",
            "s3://me:hunter4@host/x",
        ),
        cwd=tmp_path,
    )
    text = json.dumps(found)
    assert "hunter" not in text
    shown = found["command"][found["command"].index("--lr") :]
    assert shown[:2] == ["--lr", "0.1"]
    assert "512" in shown
    assert found["command"][0] == sys.executable or Path(found["command"][0]).name.startswith("python")


def test_an_endless_command_line_is_cut(monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python", "x" * 10_000, *map(str, range(5000))])
    command = gather()["command"]
    assert len(command) < 1100
    assert max(map(len, command)) <= 1000
    assert command[-1] == "... 4002 more"


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({"SLURM_JOB_ID": "1234"}, {"SLURM_JOB_ID": "1234"}),
        ({"PBS_JOBID": "7.head", "TORCHELASTIC_RUN_ID": "none"}, {"PBS_JOBID": "7.head"}),
        ({"TORCHELASTIC_RUN_ID": "none"}, None),
        ({"LSB_JOBID": ""}, None),
    ],
)
def test_the_job_is_the_schedulers(monkeypatch, environ, job):
    for name in provenance.JOB_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert gather()["job"] == job


def test_the_commit_of_the_main_script_and_whether_it_was_changed(repository, tmp_path):
    script = repository / "train.py"
    found = gathered_by(script, cwd=tmp_path)["git"]
    assert found == {"commit": git(repository, "rev-parse", "HEAD"), "branch": "trunk", "dirty": True}
    git(repository, "checkout", "-q", "--", "train.py")
    (repository / "untracked").write_text("")
    outside = tmp_path / "elsewhere.py"
    assert gathered_by(outside, cwd=repository)["git"]["dirty"] is False
    assert gathered_by(repository / "new.py", cwd=tmp_path)["git"]["dirty"] is True, "the script itself is untracked"


def test_no_repository_and_no_git_give_none(tmp_path):
    outside = {"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)}
    assert gathered_by(tmp_path / "train.py", cwd=tmp_path, **outside)["git"] is None
    found = gathered_by(tmp_path / "train.py", cwd=tmp_path, PATH=str(tmp_path))
    assert found["git"] is None
    assert found["pid"] > 0


def test_a_git_that_hangs_is_given_up(tmp_path):
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    slow.chmod(slow.stat().st_mode | stat.S_IXUSR)
    began = time.monotonic()
    found = gathered_by(tmp_path / "train.py", cwd=tmp_path, PATH=str(tmp_path))
    assert found["git"] is None
    assert time.monotonic() - began < 20


def test_git_is_not_made_to_write(repository):
    """A status that refreshes the index would take its lock, beside the user's own commit."""
    script = repository / "train.py"
    index = repository / ".git" / "index"
    # An index that is out of date by its times alone is what a plain status would write anew.
    os.utime(script, (1_000_000_000, 1_000_000_000))
    before = index.read_bytes()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from advlog_fast.control.provenance import gather; print(gather()['git']['dirty'])",
        ],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.stdout.strip() == "False", done.stderr
    assert index.read_bytes() == before


def test_a_probe_that_fails_costs_its_own_answer_only(monkeypatch):
    def fail() -> None:
        raise OSError("no")

    monkeypatch.setattr(socket, "gethostname", fail)
    found = gather()
    assert found["host"] is None
    assert found["pid"] == os.getpid()


def test_a_working_directory_that_is_gone():
    script = """
        import os, sys, tempfile
        from advlog_fast.control.provenance import gather
        folder = tempfile.mkdtemp()
        os.chdir(folder)
        os.rmdir(folder)
        found = gather()
        assert found["cwd"] is None
        assert found["pid"] == os.getpid()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=180)


def test_torch_is_not_imported_and_cuda_not_started():
    script = """
        import sys
        from advlog_fast.control.provenance import gather
        assert gather()["torch"] is None
        assert not {"torch", "pyarrow", "numpy"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=180)
    torch = pytest.importorskip("torch")
    started = torch.cuda.is_initialized()
    found = gather()["torch"]
    assert found["version"] == torch.__version__
    assert found["cuda"] == torch.version.cuda
    assert torch.cuda.is_initialized() == started
    if not started:
        assert found["devices"] is None
