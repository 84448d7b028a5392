"""`advlog watch` in a real terminal (tmux), and without one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.importorskip("textual", reason="needs textual, which `make test-ui` installs")

from advlog_fast import AdvancedLogger

from .test_report import make_run


class Terminal:
    """A terminal of tmux's."""

    def __init__(self, folder: Path, width: int, height: int) -> None:
        self._base = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._run(
            "new-session", "-d", "-s", "t", "-x", str(width), "-y", str(height), "env -u COLUMNS -u LINES PS1='$ ' sh"
        )

    def _run(self, *arguments: str) -> str:
        return subprocess.run([*self._base, *arguments], check=True, capture_output=True, text=True, timeout=20).stdout

    def say(self, *keys: str) -> None:
        self._run("send-keys", "-t", "t", *keys)

    def text(self) -> str:
        return self._run("capture-pane", "-p", "-t", "t")

    def until(self, holds: Callable[[str], bool], seconds: float = 30) -> str:
        """Waits until the screen is as it should."""
        deadline = time.monotonic() + seconds
        while not holds(text := self.text()):
            assert time.monotonic() < deadline, text
            time.sleep(0.1)
        return text

    def resize(self, width: int, height: int) -> None:
        self._run("resize-window", "-t", "t", "-x", str(width), "-y", str(height))

    def is_on_the_other_screen(self) -> bool:
        return self._run("display-message", "-p", "-t", "t", "#{alternate_on}").strip() == "1"

    def end(self) -> None:
        subprocess.run([*self._base, "kill-server"], capture_output=True, timeout=20)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    if shutil.which("tmux") is None:
        pytest.skip("needs tmux (Debian: apt install tmux)")
    opened = []

    def open_(width: int = 80, height: int = 24) -> Terminal:
        opened.append(Terminal(tmp_path, width, height))
        return opened[-1]

    yield open_
    for each in opened:
        each.end()


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("watch") / "logs", steps=2000)


def watch(logs: Path, *options: str) -> str:
    return " ".join([sys.executable, "-m", "advlog_fast", "watch", str(logs), *options])


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 60)])
def test_a_screen_shows_the_curve_and_what_deserves_a_look(terminal, logs: Path, width: int, height: int):
    screen = terminal(width, height)
    screen.say(watch(logs), "Enter")
    text = screen.until(lambda text: "loss is not finite" in text)
    assert "wide: completed, step 2,000" in text
    assert any("⠀" < character <= "⣿" for character in text)
    assert "▲" in text
    assert all(len(line) <= width for line in text.splitlines())
    screen.say("n")
    screen.until(lambda text: "step 1,400 to 1,6" in text)
    screen.say("m")
    screen.until(lambda text: "gradient_norm" in text.split("─")[0])
    screen.say("Escape")
    screen.until(lambda text: "step 1 to 2,000" in text)
    screen.resize(100, 30)
    screen.until(lambda text: any(len(line) > 85 for line in text.splitlines()))
    screen.say("q")
    screen.until(lambda text: "$" in text and not screen.is_on_the_other_screen())


def test_a_live_run_goes_on_on_the_screen(terminal, tmp_path: Path):
    with AdvancedLogger(tmp_path / "logs", "run", console="off", memory_interval_s=0) as log:
        for step in range(1, 101):
            log.log_batch_progress(1, step, 200, 1.0)
        assert log.flush()
        screen = terminal()
        screen.say(watch(tmp_path / "logs", "--interval", "0.2"), "Enter")
        screen.until(lambda text: "step 1 to 100" in text)
        for step in range(101, 151):
            log.log_batch_progress(1, step, 200, 1.0)
        assert log.flush()
        screen.until(lambda text: "step 1 to 150" in text, seconds=10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_killed_one_leaves_the_terminal_as_it_was(terminal, logs: Path, number: signal.Signals):
    screen = terminal()
    screen.say("echo begun", "Enter", f"{watch(logs)}; echo ended with $?; stty -a", "Enter")
    screen.until(lambda text: "loss is not finite" in text)
    found = subprocess.run(["pgrep", "-f", f"watch {logs}"], capture_output=True, text=True).stdout.split()
    for pid in found:
        if Path(f"/proc/{pid}/comm").read_text().strip().startswith("python"):
            os.kill(int(pid), number)
    if number == signal.SIGINT:
        screen.say("q")  # in the terminal's own way Ctrl-C is a key of the screen's
    text = screen.until(lambda text: bool(re.search(r"ended with \d+", text)) and "icanon" in text)
    assert not screen.is_on_the_other_screen()
    assert " icanon" in text
    assert " -echo " not in text
    assert "begun" in text


def test_without_a_terminal_it_is_a_line_whenever_something_has_changed(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, 3, 0.5)
        assert log.flush()
        command = [sys.executable, "-m", "advlog_fast", "watch", str(tmp_path), "--interval", "0.1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("run: running, step 1")
        log.log_batch_progress(1, 2, 3, 0.25)
        assert log.flush()
        assert "step 2" in process.stdout.readline()
    out, _ = process.communicate(timeout=30)
    assert out.splitlines()[-1].startswith("run: completed, step 2, loss 0.25")
    assert process.returncode == 0
    assert "\x1b" not in out


def test_ascii_alone_where_it_is_asked_for(terminal, logs: Path):
    screen = terminal()
    screen.say(watch(logs, "--ascii"), "Enter")
    text = screen.until(lambda text: "loss is not finite" in text)
    assert "#" in text
    assert not any("⠀" <= character <= "⣿" for character in text)


def test_no_run_is_status_2(tmp_path: Path):
    command = [sys.executable, "-m", "advlog_fast", "watch", str(tmp_path), "none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "advlog watch:" in done.stderr
