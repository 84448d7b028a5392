"""The console: plain lines through a pipe, a live bar on a pseudo-terminal, silence where it cannot write."""

from __future__ import annotations

import io
import logging
import os
import re
import select
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from advlog_fast.control.console import Console, duration
from advlog_fast.control.position import Position

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the console's terminals are POSIX ones")

LIVE = """
import os, sys, time
from advlog_fast.control.console import Console
from advlog_fast.control.position import Position

console = Console("auto", 0, 20)
position = Position(1, 2, 0, 100, time.monotonic_ns(), 0, time.monotonic_ns(), 0.0)
"""


def run_on_terminal(script: str, columns: int = 100, output: bool = False, **environ: str) -> str:
    """What a process writes whose standard error, and its `output` if asked, is a terminal of so many columns."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", LIVE + textwrap.dedent(script)],
        stdin=subprocess.DEVNULL,
        stdout=theirs if output else subprocess.DEVNULL,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **environ},
    )
    os.close(theirs)
    written = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux reports the end of a terminal as EIO.
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    assert process.wait(10) == 0, written
    return written.decode()


def screen(written: str) -> list[str]:
    """The lines that stand on the terminal after all of it, its control sequences obeyed."""
    lines, column = [""], 0
    for piece in re.findall(r"\x1b\[[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            lines.append("")
        elif piece == "\x1b[2K":
            lines[-1] = ""
        elif piece.startswith("\x1b"):
            assert piece.endswith("m"), f"a sequence that is no colour: {piece!r}"
        else:
            lines[-1] = lines[-1][:column].ljust(column) + piece + lines[-1][column + len(piece) :]
            column += len(piece)
    return lines


def test_a_line_is_one_physical_line_whatever_its_text_holds():
    stream = io.StringIO()
    Console("plain", 0, logging.INFO, stream).say("a\r\nERROR forged\x1b[2J\x00")
    assert stream.getvalue() == "[advlog] a\\r\\nERROR forged\\x1b[2J\\x00\n"


def test_what_was_quoted_before_is_not_escaped_twice():
    stream = io.StringIO()
    Console("plain", 0, logging.INFO, stream).say('message="a\\nb"' + "\\" + "\n")
    assert stream.getvalue() == '[advlog] message="a\\nb"\\\\n\n'


def test_lines_below_the_level_are_not_shown():
    stream = io.StringIO()
    console = Console("plain", 0, logging.WARNING, stream)
    console.say("quiet")
    console.say("loud", logging.ERROR)
    assert stream.getvalue() == "[advlog] loud\n"


@pytest.mark.parametrize(("mode", "rank"), [("off", 0), ("plain", 1), ("auto", 7)])
def test_off_and_other_ranks_show_nothing(mode, rank):
    stream = io.StringIO()
    console = Console(mode, rank, logging.INFO, stream)
    console.say("hello")
    console.follow(Position(1, 1, 1, 2))
    console.close()
    assert stream.getvalue() == ""


def test_standard_error_is_the_stream_as_it_stands_at_each_line(capsys):
    console = Console("auto", 0, logging.INFO)
    console.say("hello")
    assert capsys.readouterr().err == "[advlog] hello\n"


def test_a_pipe_gets_plain_lines_and_no_bar():
    script = LIVE + textwrap.dedent("""
        console.say("begun")
        console.follow(position)
        for position.batch in range(1, 40):
            time.sleep(0.01)
        console.say("done", last=True)
        console.close()
        assert "rich" not in sys.modules
    """)
    environ = {**os.environ, "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180, env=environ)
    assert (done.returncode, done.stderr) == (0, "[advlog] begun\n[advlog] done\n")


def test_a_terminal_gets_a_bar_below_the_lines_and_is_left_clean():
    written = run_on_terminal("""
        console.say("begun")
        console.follow(position)
        for position.batch in range(1, 60):
            time.sleep(0.02)
            if position.batch == 30:
                console.say("half way")
        console.say("done", last=True)
        console.close()
    """)
    frames = written.count("epoch 1/2")
    assert "━" in written
    assert re.search(r"\d+/100  \d[\d.]*/s", written)
    assert 3 <= frames <= 16, "1.2 seconds and an import of rich, at most ten frames a second"
    assert "\x1b[?25l" not in written, "a killed process would leave the terminal without its cursor"
    assert screen(written) == ["[advlog] begun", "[advlog] half way", "[advlog] done", ""]


def test_close_erases_a_bar_that_no_last_line_ended():
    written = run_on_terminal("""
        console.follow(position)
        for position.batch in range(1, 30):
            time.sleep(0.02)
        began = time.monotonic()
        console.close()
        assert time.monotonic() - began < 15
        console.say("after", last=True)
    """)
    assert "epoch 1/2" in written
    assert screen(written) == ["[advlog] after", ""]


def test_the_bar_goes_at_the_end_of_an_epoch_so_that_prints_have_the_line_to_themselves():
    written = run_on_terminal("""
        console.follow(position)
        for position.batch in range(1, 30):
            time.sleep(0.02)
        position.batch = 100
        time.sleep(0.4)
        os.write(2, b"the user's own line\\n")
        console.close()
    """)
    assert re.search(r"[12]\d/100", written)
    assert screen(written) == ["the user's own line", ""]


BESIDE = """
import logging
held = logging.StreamHandler()  # holds the stream since before the bar
logging.basicConfig(handlers=[held], format="%(message)s")
console.follow(position)
def train(first, last):
    for position.batch in range(first, last):
        time.sleep(0.02)
train(1, 50)
"""


def test_what_the_program_writes_beside_the_bar_has_its_lines_to_itself():
    written = run_on_terminal(
        BESIDE
        + """
for i in range(3):
    print("printed", i)
    train(50, 60)
    logging.warning("logged %d", i)
    sys.stderr.writelines(["one\\n", "two\\n"])
    train(50, 60)
try:
    raise ValueError("caught")
except ValueError:
    import traceback
    traceback.print_exc()
console.say("done", last=True)
console.close()
""",
        output=True,
    )
    assert written.count("epoch 1/2") > 3
    threes = [line for i in range(3) for line in (f"printed {i}", f"logged {i}", "one", "two")]
    assert [line for line in screen(written) if not line.startswith(("Traceback", "  "))] == [
        *threes,
        "ValueError: caught",
        "[advlog] done",
        "",
    ]


def test_a_line_that_the_program_has_begun_is_its_own_until_it_ends():
    written = run_on_terminal(
        BESIDE
        + """
print("evaluating ", end="", flush=True)
for percent in (10, 20):
    train(50, 70)
    print(percent, end=" ", flush=True)
console.say("a line of the logger's")
train(70, 75)
print("ended")
console.say("done", last=True)
console.close()
""",
        output=True,
    )
    assert screen(written) == ["evaluating 10 20 ", "[advlog] a line of the logger's", "ended", "[advlog] done", ""]


def test_the_bar_comes_back_after_a_bar_that_cleared_its_line():
    written = run_on_terminal(
        BESIDE
        + """
sys.stderr.write("\\r 50%")
sys.stderr.write("\\r    ")
sys.stderr.write("\\r")
sys.stderr.flush()
written = time.monotonic()
train(50, 80)
os._exit(0)
""",
        output=True,
    )
    assert re.match(r"epoch 1/2 .* [67]\d/100", screen(written)[-1])


def test_the_streams_are_as_they_were_when_the_bar_has_ended():
    written = run_on_terminal(
        BESIDE
        + """
def replaced(text):
    return type(sys.stdout).write(sys.stdout, text.upper())
assert "write" in vars(sys.stdout) and "write" in vars(sys.stderr)
pid = os.fork()
if pid == 0:
    assert console._bar_shown
    with console._lock:  # as if another thread had held it at the fork: a child does not wait for it
        print("child", flush=True)
        os._exit(0)
os.waitpid(pid, 0)
print("parent")
console.close()
assert "write" not in vars(sys.stdout)
sys.stdout.write = replaced
later = Console("auto", 0, 20)
later.follow(position)
train(1, 50)
print("shout")
over = sys.stderr.write
sys.stderr.write = lambda text: over(text.replace("still", "STILL"))
later.close()
assert sys.stdout.write is replaced
sys.stderr.write("still there\\n")
""",
        output=True,
    )
    assert [line for line in screen(written) if "epoch" not in line] == ["parent", "SHOUT", "STILL there", ""]


def test_the_bar_fits_any_width():
    written = run_on_terminal(
        """
        console.follow(position)
        for position.batch in range(1, 30):
            time.sleep(0.02)
        time.sleep(0.2)
        os._exit(0)
        """,
        columns=30,
    )
    assert max(map(len, screen(written))) == 29


def test_without_colours_and_beyond_ascii_the_bar_keeps_its_shape():
    body = """
        console.follow(position)
        for position.batch in range(10, 30):
            time.sleep(0.02)
        os._exit(0)
    """
    plain = run_on_terminal(body, NO_COLOR="1")
    assert "\x1b[3" not in plain
    ascii_only = run_on_terminal(body, PYTHONIOENCODING="ascii")
    assert ascii_only.isascii()
    for written in (plain, ascii_only):
        assert re.fullmatch(r"epoch 1/2 .{24} \d\d/100  .*left\)", screen(written)[-1])


@pytest.mark.parametrize(
    ("why", "prelude", "environ"),
    [
        ("a dumb terminal", "", {"TERM": "dumb"}),
        ("a notebook", "import types; sys.modules['ipykernel'] = types.ModuleType('ipykernel')", {}),
        ("plain", "console = Console('plain', 0, 20)", {}),
        (
            "a bar of tqdm's",
            "import io; from tqdm import tqdm; bar = tqdm(total=5, file=io.StringIO())",
            {},
        ),
    ],
)
def test_no_bar_beside(why, prelude, environ):
    body = """
        console.follow(position)
        for position.batch in range(1, 20):
            time.sleep(0.02)
        console.say("done", last=True)
        console.close()
    """
    if "tqdm" in prelude:
        pytest.importorskip("tqdm")
    written = run_on_terminal(textwrap.dedent(prelude) + textwrap.dedent(body), **environ)
    assert "epoch 1/2" not in written, why
    assert screen(written) == ["[advlog] done", ""], why


def test_a_line_stands_above_a_bar_of_tqdms():
    pytest.importorskip("tqdm")
    written = run_on_terminal("""
        from tqdm import tqdm
        for i in tqdm(range(20)):
            time.sleep(0.02)
            if i % 10 == 5:
                console.say("at %d" % i)
        console.say("done", last=True)
    """)
    first, second, bar, done, rest = screen(written)
    assert (first, second, done, rest) == ("[advlog] at 5", "[advlog] at 15", "[advlog] done", "")
    assert bar.startswith("100%")


def test_no_bar_while_rich_shows_a_live_display():
    pytest.importorskip("rich")
    body = """
        import rich.console
        from rich.progress import Progress
        with Progress(console=rich.console.Console(stderr=True)) as progress:
            task = progress.add_task("rich", total=20)
            console.follow(position)
            for position.batch in range(1, 20):
                progress.advance(task)
                time.sleep(0.02)
        console.say("done", last=True)
        console.close()
    """
    written = run_on_terminal(body)
    assert "epoch 1/2" not in written
    assert "rich" in written
    assert written.endswith("[advlog] done\r\n")


class Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [Broken, closed_stream])
def test_a_stream_that_fails_costs_the_line_and_never_raises(make):
    console = Console("auto", 0, logging.INFO, make())
    console.say("hello")
    console.follow(Position(1, 1, 1, 2))
    console.close()
    assert console.dropped == 1


def test_no_standard_error_at_all(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    console = Console("auto", 0, logging.INFO)
    console.say("hello")
    console.follow(Position(1, 1, 1, 2))
    console.close()
    assert console.dropped == 1


def test_a_broken_pipe_changes_neither_the_run_nor_its_exit_status():
    read_end, write_end = os.pipe()
    script = LIVE + textwrap.dedent("""
        sys.stdin.read()
        for _ in range(3):
            console.say("unheard")
        console.close()
        sys.exit(console.dropped)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=write_end)
    os.close(write_end)
    os.close(read_end)
    process.communicate(b"", timeout=180)
    assert process.returncode == 3


def test_a_reader_that_does_not_read_costs_one_wait():
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    try:
        while True:
            os.write(write_end, b"x" * 4096)
    except BlockingIOError:
        os.set_blocking(write_end, True)
    with os.fdopen(write_end, "w") as stream:
        console = Console("plain", 0, logging.INFO, stream)
        began = time.monotonic()
        for _ in range(20):
            console.say("a line")
        assert time.monotonic() - began < 15
        assert console.dropped == 20
        os.read(read_end, 1 << 20)
        console.say("again")
        assert os.read(read_end, 1 << 20).decode() == "[advlog] again\n"
    os.close(read_end)


def test_text_that_the_stream_cannot_encode_is_spelled_out():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    Console("plain", 0, logging.INFO, stream).say("größer")
    assert raw.getvalue() == b"[advlog] gr\\xf6\\xdfer\n"


def test_a_very_long_line_is_cut():
    stream = io.StringIO()
    Console("plain", 0, logging.INFO, stream).say("ä" * 100_000)
    assert len(stream.getvalue().encode()) <= 4001
    assert stream.getvalue().endswith("...\n")


def test_a_forked_child_says_nothing():
    script = LIVE + textwrap.dedent("""
        pid = os.fork()
        console.say("from the child" if pid == 0 else "from the parent")
        console.follow(position)
        console.close()
        if pid == 0:
            os._exit(console.dropped)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    """)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stderr) == (0, "[advlog] from the parent\n")


def test_nothing_is_left_running():
    before = threading.active_count()
    console = Console("auto", 0, logging.INFO, io.StringIO())
    console.follow(Position(1, 1, 1, 2))
    assert threading.active_count() == before
    console.close()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0s"), (59.4, "59s"), (59.6, "1:00"), (185, "3:05"), (3723, "1:02:03"), (349_323, "4d 01:02:03")],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown
