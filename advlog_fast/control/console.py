"""Shows the training to a person: plain lines on standard error, and on a terminal a live bar below them.

The bar is one line of text, drawn and erased in place, and never hides the cursor: a process that is killed leaves
nothing behind but that line. It makes way for whatever the program writes itself, and comes back below it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import select
import sys
import threading
from typing import Any, TextIO

from .._hooks import importing
from .._native import Guard
from ..config import ConsoleMode
from .position import Position
from .terminal import TerminalWatch, is_terminal
from .text import clipped, escape

FRAME_S = 0.1
"""The shortest time between two drawings of the bar."""

_MAX_LINE_BYTES = 4000
"""Below PIPE_BUF (4096): a pipe that says it has room takes so much in one piece."""
_WRITE_WAIT_S = 1.0
_LOCK_WAIT_S = 0.5
_CLOSE_WAIT_S = 1.0
_ERASE = "\r\x1b[2K"
_BAR_WIDTH = 24
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Console:
    """Lines and a bar for a person; nothing where `rank` is not 0 or `mode` is "off".

    :param mode: "auto" shows lines, and a bar on a terminal; "plain" lines only; "off" nothing.
    :param level: the lowest level, on the scale of Python's logging, that is shown.
    :param stream: where it goes; None is `sys.stderr`, as it stands at each line.

    No method raises: a closed stream, a broken pipe or a full disk costs the line, counted in `dropped`. If nobody
    reads the stream, the console waits one second, once.
    """

    def __init__(self, mode: ConsoleMode, rank: int, level: int, stream: TextIO | None = None) -> None:
        self.mode = mode
        self.level = level
        self.dropped = 0
        """Lines that could not be written."""
        self._on = mode != "off" and rank == 0
        self._stream = stream
        # Re-entrant: a signal handler of the user's may log while this thread writes.
        # A line out of order is better than a training that waits for one.
        self._lock = Guard(_LOCK_WAIT_S)
        self._wait_s = _WRITE_WAIT_S
        self._pid = os.getpid()
        self._position: Position | None = None
        self._thread: threading.Thread | None = None
        self._closing: queue.SimpleQueue[None] = queue.SimpleQueue()
        """Ends the bar's thread. Not a `threading.Event`: a signal handler could wait for its lock forever."""
        self._closed = False
        self._bar_shown = False
        self._redraw = True
        self._watch = TerminalWatch(self._lock, self._erase)

    def say(self, text: str, level: int = logging.INFO, *, last: bool = False) -> None:
        """One line, escaped, above the bar; the `last` line of a training ends the bar."""
        if not self._on or level < self.level or os.getpid() != self._pid:
            return
        # For a person, not a parser: backslashes stay single, those of values quoted before among them.
        shown = escape(str(text)).replace("\\\\", "\\")
        line = clipped(f"[advlog] {shown}", _MAX_LINE_BYTES) + "\n"
        with self._lock:
            if last:
                self._position = None
            if self._watch.line_is_open and self._target() is not None:
                line = "\n" + line
            if not self._write(self._erasing() + line):
                self.dropped += 1
            self._redraw = True

    def follow(self, position: Position) -> None:
        """Draws a bar from `position` until the last line, if the stream can have a bar. A thread draws it, not the
        training thread."""
        if not self._on or self.mode != "auto" or self._closed or os.getpid() != self._pid:
            return
        self._position = position
        if self._thread is not None or not _takes_a_bar(self._target()):
            return
        with self._lock:
            self._watch.start()  # already here: a line that the program begins before the first frame is its own
        thread = threading.Thread(target=self._draw, name="advlog-console", daemon=True)
        # Without a thread (the interpreter is ending, the container's limit is reached) there is no bar.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def close(self) -> None:
        """Ends the bar, within a second, and erases it. Lines may still follow."""
        self._closed = True
        self._position = None
        if self._thread is None or os.getpid() != self._pid:
            return
        self._closing.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_CLOSE_WAIT_S)
        self._thread = None
        with self._lock:
            self._erase()
            self._watch.end()

    def _target(self) -> TextIO | None:
        return self._stream if self._stream is not None else sys.stderr

    def _write(self, text: str) -> bool:
        """Returns whether the text went out. It waits for a full pipe only once, until that has room again."""
        try:
            stream = self._target()
            if stream is None:
                return False
            if not _has_room(stream, self._wait_s):
                self._wait_s = 0.0
                return False
            self._wait_s = _WRITE_WAIT_S
            encoding = getattr(stream, "encoding", None) or "utf-8"
            self._watch.write(stream, text.encode(encoding, "backslashreplace").decode(encoding))
            stream.flush()
        except Exception:  # noqa: BLE001 - a stream of the user's may raise anything
            return False
        return True

    def _rich_is_live(self) -> bool:
        """Whether rich shows a live display: it then stands in for standard error, and prints each frame as a line."""
        return type(self._target()).__module__.startswith("rich.")

    def _erasing(self) -> str:
        shown, self._bar_shown = self._bar_shown, False
        # A bar of tqdm's stands on the line as well, and is drawn again by its own next step.
        return _ERASE if shown or (_tqdm_is_active() and is_terminal(self._target())) else ""

    def _erase(self) -> None:
        if self._bar_shown:
            self._write(self._erasing())

    def _closed_within(self, timeout_s: float) -> bool:
        with contextlib.suppress(queue.Empty):
            self._closing.get(timeout=timeout_s)
        return self._closed

    def _draw(self) -> None:
        bar: _Bar | None = None
        last: tuple[int, int] | None = None
        while not self._closed_within(FRAME_S):
            position = self._position
            # Between epochs there is no bar: the user's own prints come there most often.
            if position is None or _at_epoch_end(position) or _tqdm_is_active() or self._rich_is_live():
                if self._bar_shown:
                    with self._lock:
                        self._erase()
                last = None
                continue
            now = (position.epoch, position.batch)
            # Drawn only when something moved: a debugger's prompt keeps its line.
            if now == last and not self._redraw:
                continue
            try:
                bar = bar or _Bar(self._target())
                frame = bar.frame(position)
            except Exception:  # noqa: BLE001 - no bar is worth a fault in it
                return
            with self._lock:
                if self._position is None or self._closed:
                    continue
                self._watch.start()
                if self._watch.line_is_open:
                    continue
                self._redraw = False
                last = now
                self._bar_shown = self._write(_ERASE + frame) or self._bar_shown


class _Bar:
    """One line of text from a position, in the colours that the terminal has."""

    def __init__(self, stream: TextIO | None) -> None:
        with importing():
            from rich.console import Console as RichConsole
            from rich.progress_bar import ProgressBar

        self._rich = RichConsole(file=stream, force_terminal=True, force_jupyter=False)
        self._progress_bar = ProgressBar

    def frame(self, position: Position) -> str:
        batch, total = position.batch, position.total_batches
        of = f"/{position.total_epochs}" if position.total_epochs else ""
        left = f"epoch {position.epoch}{of} "
        right = f" {batch}/{total}" if total else f" {batch}"
        if (rate := position.rate()) is not None:
            right += f"  {rate:.3g}/s"
        if (eta_s := position.epoch_eta_s()) is not None:
            right += f"  {duration(eta_s)} left"
        if (eta_s := position.run_eta_s()) is not None:
            right += f"  ({position.fraction():.0%} of all, {duration(eta_s)} left)"
        # One column stays free: a terminal wraps when the last one is written.
        columns = _columns(self._rich.file) - 1
        width = min(_BAR_WIDTH, columns - len(left) - len(right))
        if width < 4:
            return (left + right.lstrip())[: max(columns, 0)]
        bar = self._progress_bar(total=total or 1, completed=min(batch, total) if total else 0, width=width)
        with self._rich.capture() as drawn:
            self._rich.print(bar, end="")
        shown = drawn.get().replace("\n", "")
        # Without colours the part still to do is not drawn; the numbers keep their place.
        return left + shown + " " * (width - len(_COLOUR.sub("", shown))) + right


def duration(seconds: float) -> str:
    """`42s`, `3:05`, `1:02:03`, `4d 01:02:03`."""
    whole = int(seconds + 0.5)
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d {h:02d}:{m:02d}:{s:02d}"
    if hours:
        return f"{h}:{m:02d}:{s:02d}"
    return f"{m}:{s:02d}" if minutes else f"{s}s"


def _at_epoch_end(position: Position) -> bool:
    return position.total_batches is not None and position.batch >= position.total_batches


def _takes_a_bar(stream: TextIO | None) -> bool:
    """A terminal that can erase a line, and no notebook, whose output only imitates one."""
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    if "ipykernel" in sys.modules or "google.colab" in sys.modules:
        return False
    return is_terminal(stream)


def _tqdm_is_active() -> bool:
    tqdm: Any = getattr(sys.modules.get("tqdm.std"), "tqdm", None)
    try:
        return len(getattr(tqdm, "_instances", ())) > 0
    except Exception:  # noqa: BLE001 - another package's internals
        return False


def _has_room(stream: TextIO, wait_s: float) -> bool:
    try:
        descriptor = stream.fileno()
    except Exception:  # noqa: BLE001 - a stream of the user's may raise anything
        return True
    if descriptor >= 1024:  # select() takes no higher one (FD_SETSIZE)
        return True
    return bool(select.select([], [descriptor], [], wait_s)[1])


def _columns(stream: Any) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
