"""The pages of `advlog ui` in a browser: the table of runs, a run as it grows, runs over each other."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette", reason="needs starlette, which `make test-ui` installs")
pytest.importorskip("uvicorn", reason="needs uvicorn, which `make test-ui` installs")

from advlog_fast import AdvancedLogger

from .checks import check_for_everybody, until
from .served import Served
from .test_report import HOSTILE, make_run


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("ui") / "logs", steps=4000)
    for seed in range(4):
        rate, rng = (0.1, 0.3)[seed % 2], random.Random(seed)
        options = {"console": "off", "memory_interval_s": 0, "group": f"lr={rate}", "tags": ("sweep",)}
        with AdvancedLogger(folder, f"sweep-{seed}", **options) as log:
            log.start_training({"lr": rate, "seed": seed, "note": HOSTILE})
            for step in range(1, 501):
                log.log_batch_progress(1, step, 500, 3 * math.exp(-step * rate / 100) + 0.2 + rng.gauss(0, 0.02))
    return folder


@pytest.fixture(scope="module")
def served(logs: Path) -> Iterator[Served]:
    found = Served(logs, "--port", "0")
    yield found
    found.end()


def opened(browse, served: Served, fragment: str = "", ready: str = "runs", **options):
    """Signed in, at a page."""
    watched = browse(offline=False, **options)
    watched.page.goto(served.link)
    until(watched.page, "document.body.dataset.ready === 'runs'")
    if fragment:
        watched.page.evaluate(f"location.hash = {fragment!r}")
        until(watched.page, f"document.body.dataset.ready === {ready!r}")
    return watched


def test_the_token_is_wiped_from_the_address_and_stays_in_the_tab(browse, served: Served):
    watched = opened(browse, served)
    page = watched.page
    assert served.token not in page.url
    assert page.evaluate("document.cookie") == ""
    assert all(served.token not in url for url in watched.requests[1:])
    page.reload()
    until(page, "document.body.dataset.ready === 'runs'")
    assert watched.troubles == []
    other = browse(offline=False)
    other.page.goto(served.link.split("#")[0])
    until(other.page, "document.body.dataset.ready === 'refused'")
    assert "needs its link" in other.page.inner_text("main")
    assert "wide" not in other.page.content()


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize(
    ("fragment", "ready"), [("", "runs"), ("run=0%2Fwide", "yes"), ("with=0%2Fsweep-0&with=0%2Fsweep-1", "together")]
)
def test_each_page_is_for_everybody(browse, served: Served, dark: bool, width: int, fragment: str, ready: str):
    watched = opened(browse, served, fragment, ready, width=width, dark=dark)
    watched.scroll_through()
    check_for_everybody(watched.page)
    assert watched.troubles == []
    assert {url.split("/")[2] for url in watched.requests} == {f"127.0.0.1:{served.port}"}


def test_runs_are_searched_sorted_and_compared(browse, served: Served):
    page = opened(browse, served).page
    page.get_by_label("search runs").fill("lr=0.3 sweep")
    names = page.locator("tbody a")
    assert sorted(names.all_inner_texts()) == ["sweep-1", "sweep-3"]
    page.get_by_label("search runs").fill("sweep")
    page.get_by_role("button", name="loss, last").click()
    assert names.all_inner_texts()[0] in ("sweep-1", "sweep-3")  # the lowest first
    for seed in range(4):
        page.get_by_label(f"compare sweep-{seed}").check()
    page.get_by_role("button", name="compare 4").click()
    until(page, "document.body.dataset.ready === 'together'")
    text = page.inner_text("main")
    assert "lr=0.1" in text
    assert "deviation" in text
    assert "What differs" in text
    page.go_back()
    until(page, "document.body.dataset.ready === 'runs'")


def test_two_runs_say_where_they_differ_first(browse, served: Served):
    page = opened(browse, served, "with=0%2Fsweep-0&with=0%2Fsweep-2", "together").page
    assert "loss differs first at step 1 of rank 0" in page.inner_text("main")


def test_a_zoom_brings_each_value_and_is_a_link(browse, served: Served):
    watched = opened(browse, served, "run=0%2Fwide&x=2350..2450", "yes")
    page = watched.page
    until(page, "document.body.dataset.near")
    page.locator("figure.chart details.as-table summary").first.click()
    rows = page.locator("figure.chart table").first.locator("tbody tr")
    assert rows.count() == 101
    cells = rows.nth(50).locator("td").all_inner_texts()
    assert (cells[0], cells[3]) == ("2,400", "50")
    page.get_by_role("button", name="each rank").click()
    until(page, "document.querySelector('figure.chart .legend').textContent.includes('rank 3')")
    assert "ranks=each" in page.url
    assert watched.troubles == []


def test_a_live_step_appears(browse, tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0) as log:
        for step in range(1, 101):
            log.log_batch_progress(1, step, 200, 1.0)
        assert log.flush()
        served = Served(tmp_path, "--port", "0")
        try:
            watched = opened(browse, served, "run=0%2Frun", "yes")
            page = watched.page
            assert "100" in page.locator("dl.kpis").inner_text()
            page.wait_for_timeout(1000)
            for step in range(101, 151):
                log.log_batch_progress(1, step, 200, 1.0)
            assert log.flush()
            until(page, "document.querySelector('dl.kpis').textContent.includes('150')")
            label = "document.querySelector('figure.chart').getAttribute('aria-label')"
            until(page, f"{label}.includes('step 1 to 150')")
            assert watched.troubles == []
        finally:
            served.end()


def test_logs_are_searched(browse, served: Served):
    page = opened(browse, served, "run=0%2Fwide", "yes").page
    page.locator("summary", has_text="Logs").click()
    until(page, "document.querySelector('pre').textContent.includes('bad label')")
    page.get_by_label("search the log").fill("nowhere to be found")
    until(page, "document.querySelector('pre').textContent === 'no line'")


def test_the_report_is_a_file(browse, served: Served, tmp_path: Path):
    page = opened(browse, served, "run=0%2Fwide", "yes").page
    with page.expect_download() as found:
        page.get_by_role("button", name="report").click()
    found.value.save_as(tmp_path / "wide.html")
    assert found.value.suggested_filename == "wide.html"
    watched = browse()
    watched.open(tmp_path / "wide.html")
    assert watched.troubles == []


def test_hostile_texts_run_nothing_on_any_page(browse, tmp_path: Path):
    make_run(tmp_path, steps=200, extra=1, text=HOSTILE)
    served = Served(tmp_path, "--port", "0")
    try:
        watched = opened(browse, served, "run=0%2Fwide", "yes")
        watched.scroll_through()
        page = watched.page
        for figure in page.locator("figure.chart").all():
            figure.hover()
        page.locator("summary", has_text="Logs").click()
        page.wait_for_timeout(300)
        assert page.evaluate("window.ran") is None
        page.evaluate("location.hash = ''")
        until(page, "document.body.dataset.ready === 'runs'")
        assert page.evaluate("window.ran") is None
        assert watched.troubles == []
        assert {url.split("/")[2] for url in watched.requests} == {f"127.0.0.1:{served.port}"}
    finally:
        served.end()
