"""The screen of `advlog watch`: a chart, what deserves a look, the ranks. What a run says is text, never markup."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import VerticalScroll
from textual.widgets import Footer, Static

from ..exceptions import RunNotFoundError
from ..pictures.braille import braille
from ..reader.findings import Finding
from ..views.gallery import Gallery
from .headline import headline
from .table import aligned, printable

_MARKS = {"nonfinite": ("▲", "magenta"), "spike": ("●", "red"), "slow": ("■", "yellow")}
_RANKS = 64


class Screen(App[None]):
    """Watches one run.

    :param metric: the one to begin with.
    :param interval_s: between two looks at its files.
    """

    CSS = """
    #head { height: auto; padding: 0 1; text-style: bold; }
    #chart { height: 1fr; min-height: 8; padding: 0 1; }
    #found { height: auto; max-height: 7; padding: 0 1; border-top: solid $surface-lighten-2; }
    #ranks { height: auto; max-height: 12; padding: 0 1; border-top: solid $surface-lighten-2; display: none; }
    """
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "quit"),
        ("m", "metric(1)", "next metric"),
        ("M", "metric(-1)", "metric before"),
        ("n", "finding(1)", "next finding"),
        ("p", "finding(-1)", "finding before"),
        ("plus,equals_sign", "zoom(0.5)", "zoom in"),
        ("minus", "zoom(2)", "out"),
        ("left", "move(-1)", "left"),
        ("right", "move(1)", "right"),
        ("0,escape", "whole", "whole run"),
        ("r", "ranks", "ranks"),
    ]

    def __init__(
        self, gallery: Gallery, name: str, metric: str, interval_s: float, *, ascii_only: bool = False
    ) -> None:
        super().__init__()
        self._gallery, self._run_name, self._interval_s = gallery, name, interval_s
        self._ascii = ascii_only
        self._metric = metric
        self._run_names: list[str] = []
        self._span: tuple[int, int] | None = None
        self._whole: tuple[int, int] | None = None
        self._findings: list[Finding] = []
        self._finding = -1
        self._stamp: object = None

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="chart", markup=False)
        with VerticalScroll(id="found"):
            yield Static(id="findings", markup=False)
        with VerticalScroll(id="ranks"):
            yield Static(id="table", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        # So that the terminal is as it was, whoever ends it.
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGTERM, lambda *_: loop.call_soon_threadsafe(self.exit))
        self._look()
        self.set_interval(self._interval_s, self._look)

    def on_resize(self) -> None:
        self._again()

    def _again(self) -> None:
        self._stamp = None
        self._look()

    @work(exclusive=True, thread=True)
    def _look(self) -> None:
        """Reads the run aside, where its files have changed, and shows it."""
        try:
            stamp = self._gallery.stamp(0, self._run_name), self._metric, self._span
            if stamp == self._stamp:
                return
            run = self._gallery.run(0, self._run_name)
            told, names, findings = run.told(), run.metric_names(), run.findings()
            if names and self._metric not in names:
                self._metric = names[0]
            size = self.query_one("#chart").size
            width = max(size.width * 2, 20)
            picture = run.picture(self._metric, span=self._span, width=min(width, 4000)) if names else None
            whole = run.picture(self._metric, width=1).span if names else None
        except (OSError, ValueError, RunNotFoundError) as error:
            self.call_from_thread(self._say, str(error))
            return
        self._stamp = stamp
        self.call_from_thread(self._show, told, names, findings, picture, whole)

    def _say(self, text: str) -> None:
        self.query_one("#head", Static).update(Text(printable(text)))

    def _show(self, told: dict[str, Any], names: list[str], findings: list[Finding], picture: Any, whole: Any) -> None:
        self._run_names, self._findings, self._whole = names, findings, whole
        self._say(headline(told, self._metric))
        chart = self.query_one("#chart", Static)
        if picture is None:
            chart.update(Text("no metric was logged yet"))
        else:
            chart.update(self._chart(picture, chart.size.width, chart.size.height))
        self.query_one("#findings", Static).update(self._found())
        rows = [[row[key] for key in ("rank", "host", "status", "records", "last_step")] for row in told["ranks"]]
        lines = aligned(("rank", "host", "status", "records", "last step"), rows[:_RANKS]) if rows else []
        self.query_one("#table", Static).update(Text("\n".join(lines)))

    def _chart(self, picture: Any, width: int, height: int) -> Text:
        drawn = braille(picture.curves()[0], width - 2, max(height - 4, 3), ascii_only=self._ascii)
        low, high = picture.span
        text = Text(f"{printable(self._metric)}  {picture.x} {low:,} to {high:,}\n", style="bold")
        text.append(drawn.marks + "\n", "magenta")
        for line in drawn.lines:
            text.append(line[:10], "dim")
            text.append(line[10:] + "\n", "blue")
        text.append(drawn.axis, "dim")
        return text

    def _found(self) -> Text:
        text = Text()
        if not self._findings:
            text.append("nothing that deserves a look", "dim")
        for number, finding in enumerate(self._findings):
            mark, style = _MARKS.get(finding.kind, ("!", "red"))
            text.append("> " if number == self._finding else "  ")
            text.append(f"{mark if not self._ascii else '!'} ", style)
            text.append(printable(finding.text) + "\n")
        return text

    def action_metric(self, by: int) -> None:
        if self._run_names:
            at = self._run_names.index(self._metric) if self._metric in self._run_names else 0
            self._metric = self._run_names[(at + by) % len(self._run_names)]
            self._again()

    def action_finding(self, by: int) -> None:
        there = [number for number, finding in enumerate(self._findings) if finding.span is not None]
        if not there:
            return
        later = [number for number in there if (number - self._finding) * by > 0]
        self._finding = (min(later) if by > 0 else max(later)) if later else there[0 if by > 0 else -1]
        found = self._findings[self._finding]
        self._metric, self._span = found.metric or self._metric, found.span
        self._again()

    def action_zoom(self, times: float) -> None:
        if self._whole is None:
            return
        low, high = self._span or self._whole
        middle, half = (low + high) / 2, max((high - low) * times / 2, 2)
        self._go(middle - half, middle + half)

    def action_move(self, by: int) -> None:
        if self._whole is None:
            return
        low, high = self._span or self._whole
        stride = max((high - low) / 4, 1) * by
        if self._whole[0] <= low + stride and high + stride <= self._whole[1]:
            self._go(low + stride, high + stride)

    def _go(self, low: float, high: float) -> None:
        assert self._whole is not None, "there is a picture"
        ends = max(int(low), self._whole[0]), min(int(high), self._whole[1])
        self._span = None if ends == self._whole else ends
        self._again()

    def action_whole(self) -> None:
        self._span, self._finding = None, -1
        self._again()

    def action_ranks(self) -> None:
        ranks = self.query_one("#ranks")
        ranks.display = not ranks.display
        self._again()
