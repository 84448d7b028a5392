"""The page that `advlog report` writes, in a browser without a network."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, read_run
from advlog_fast.cli import main

from .checks import check_for_everybody, tab_stops, until

HOSTILE = '</script><img src=x onerror="window.ran=1"><script>window.ran=2</script>${window.ran=3}\'"&lt;\u202e\x1b[31m'


def make_run(folder: Path, *, ranks: int = 4, steps: int = 4000, extra: int = 0, text: str = "") -> Path:
    """A run with one bad batch, NaN, a slow rank, a resume, validations, an error."""
    rng = random.Random(3)
    logs = [
        AdvancedLogger(folder, "wide", rank=r, world_size=ranks, console="off", memory_interval_s=0)
        for r in range(ranks)
    ]
    for log in logs:
        log.start_training({"lr": 0.1, "note": text or "plain", f"key{text}": 1})
    for step in range(1, steps + 1):
        for rank, log in enumerate(logs):
            loss = 4 * math.exp(-3 * step / steps) + 0.3 + rng.gauss(0, 0.05)
            if rank == 3 % ranks and step == steps * 6 // 10:
                loss = 50.0
            if rank == 2 % ranks and steps * 3 // 4 <= step < steps * 3 // 4 + 20:
                loss = math.nan
            time = 0.05 * (1.6 if rank == 1 and steps * 4 // 10 <= step < steps * 6 // 10 else 1) + rng.random() / 1000
            others = {f"extra/{i}{text}": rng.random() for i in range(extra)}
            epoch, batch = (step - 1) * 4 // steps + 1, (step - 1) % (steps // 4) + 1
            log.log_batch_progress(
                epoch, batch, steps // 4, loss, gradient_norm=1 + rng.random(), batch_time=time, **others
            )
    logs[0].log_validation(1, {"accuracy": 0.5, f"val{text}": 1.0})
    logs[0].log_validation(4, {"accuracy": 0.8, f"val{text}": 0.5})
    logs[0].log_event(f"user event{text}"[:60], value=text)
    logs[0].log_error(ValueError(f"bad label{text}"), f"loading{text}")
    for log in logs:
        assert log.close()
    return folder


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make_run(folder / "logs")
    assert main(["report", str(folder / "logs"), "wide", "-o", str(folder / "wide.html"), "--ranks", "each"]) == 0
    return folder / "wide.html"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1440, 390])
def test_it_is_drawn_without_a_request_and_for_everybody(browse, page_file: Path, dark: bool, width: int):
    watched = browse(width, dark=dark)
    page = watched.open(page_file)
    watched.scroll_through()
    check_for_everybody(page)
    assert watched.requests == [f"file://{page_file}"]
    assert watched.troubles == []
    drawn = page.evaluate("document.querySelectorAll('.uplot canvas').length")
    assert drawn == page.evaluate("document.querySelectorAll('figure.chart').length") == 5


def test_twenty_metrics_take_at_most_600_kilobytes(tmp_path: Path):
    make_run(tmp_path / "logs", ranks=8, steps=3000, extra=17)
    assert main(["report", str(tmp_path / "logs"), "wide", "-o", str(tmp_path / "wide.html")]) == 0
    assert len(read_run(tmp_path / "logs", "wide").metric_names()) >= 20
    assert (tmp_path / "wide.html").stat().st_size <= 600_000


def test_a_hover_names_the_batch(browse, page_file: Path):
    watched = browse()
    page = watched.open(page_file)
    over = page.locator("figure.chart .u-over").first
    box = over.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6 + 2, box["y"] + 60)
    page.wait_for_timeout(50)
    found = page.locator("#tip").inner_text()
    assert "max 50 at step 2,400, rank 3" in found
    assert "mean " in found


def test_dragging_zooms_every_chart_and_the_link_says_where(browse, page_file: Path):
    watched = browse()
    page = watched.open(page_file)
    box = page.locator("figure.chart .u-over").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 50)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60, steps=5)
    page.mouse.up()
    low, high = map(int, re.fullmatch(r".*#x=(\d+)\.\.(\d+)", page.url).groups())
    assert abs(low - 1000) < 30
    assert abs(high - 2000) < 30
    again = browse()
    again.open(page_file, page.url[page.url.index("#") :])
    assert f"step {low:,} to {high:,}" in again.page.locator("figure.chart").first.get_attribute("aria-label")
    page.go_back()
    until(page, "document.body.dataset.view === '#'")
    page.mouse.dblclick(box["x"] + 50, box["y"] + 50)
    assert watched.troubles == []


def test_a_finding_is_a_link_to_its_raw_values(browse, page_file: Path):
    watched = browse()
    page = watched.open(page_file)
    page.get_by_role("link", name="zoom to step 2,400").click()
    until(page, "document.body.dataset.view !== '#'")
    label = page.locator("figure.chart").first.get_attribute("aria-label")
    assert "step 2,300 to 2,500" in label
    page.locator("figure.chart details.as-table summary").first.click()
    rows = page.locator("figure.chart table").first.locator("tbody tr")
    assert rows.count() == 201  # each step alone
    cells = rows.nth(100).locator("td").all_inner_texts()
    assert (cells[0], cells[3]) == ("2,400", "50")


def test_the_table_has_the_numbers_of_the_picture(browse, page_file: Path):
    watched = browse()
    page = watched.open(page_file)
    page.locator("figure.chart details.as-table summary").first.click()
    rows = page.locator("figure.chart table").first.locator("tbody tr")
    picture = read_run(page_file.parent / "logs", "wide").picture("loss", width=750)
    wanted = [row for row in picture.table.to_pylist() if row["records"]][:500]
    assert rows.count() == len(wanted)
    for at in (0, 77, 400):
        cells = rows.nth(at).locator("td").all_inner_texts()
        row = wanted[at]
        assert cells[0] == f"{row['x0']:,}"
        assert [float(cell) for cell in cells[1:4]] == pytest.approx([row["mean"], row["min"], row["max"]], rel=1e-3)
        assert cells[4] == f"{row['count']:,}"


def test_the_keyboard_alone_reads_a_chart_and_reaches_every_finding(browse, page_file: Path):
    watched = browse()
    page = watched.open(page_file)
    stops = tab_stops(page)
    assert [stop for stop in stops if "zoom to step" in stop] == [
        f"A zoom to step {step}" for step in ("3,000", "1,600", "2,400")
    ]
    figure = page.locator("figure.chart").first
    figure.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    until(page, "document.getElementById('said').textContent.includes('mean')")
    page.keyboard.press("Enter")
    until(page, "document.body.dataset.view !== '#'")
    figure.focus()
    page.keyboard.press("Escape")
    until(page, "document.body.dataset.view === '#'")
    assert watched.troubles == []


def test_time_and_epoch_are_axes_too_and_each_rank_can_stand_alone(browse, page_file: Path):
    watched = browse()
    page = watched.open(page_file)
    for name in ("time", "epoch", "active", "step"):
        page.get_by_role("button", name=name, exact=True).click()
        assert page.get_by_role("button", name=name, exact=True).get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="each rank").click()
    assert "rank 3" in page.locator("figure.chart .legend").first.inner_text()
    page.get_by_label("smoothing, half-life in steps").select_option("64")
    until(page, "document.body.dataset.view.includes('smooth=64')")
    page.get_by_role("button", name="dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert watched.troubles == []


def test_hostile_texts_run_nothing_and_ask_for_nothing(browse, tmp_path: Path):
    make_run(tmp_path / "logs", steps=400, extra=2, text=HOSTILE)
    assert main(["report", str(tmp_path / "logs"), "wide", "-o", str(tmp_path / "wide.html")]) == 0
    watched = browse()
    page = watched.open(tmp_path / "wide.html")
    watched.scroll_through()
    for figure in page.locator("figure.chart").all():
        figure.hover()
        figure.locator("details.as-table summary").click()
    for link in page.locator("a").all():
        link.click()
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    assert watched.requests == [f"file://{tmp_path / 'wide.html'}"]
    assert watched.troubles == []
    assert "bad label</script>" in page.locator("main").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_an_anonymous_page_has_no_text_of_the_run(tmp_path: Path):
    make_run(tmp_path / "logs", steps=400, text="SECRET")
    assert (
        main(
            [
                "report",
                str(tmp_path / "logs"),
                "wide",
                "-o",
                str(tmp_path / "a.html"),
                "--anonymous",
                "--metrics",
                "loss",
            ]
        )
        == 0
    )
    page = (tmp_path / "a.html").read_text()
    assert "SECRET" not in page
    assert str(tmp_path) not in page
    assert "ValueError" in page


def test_odd_runs_are_drawn(browse, tmp_path: Path):
    """Without epochs, with values beyond single precision, with validations alone, with steps that begin again."""

    def one(name: str, records) -> None:
        with AdvancedLogger(tmp_path / "logs", name, console="off", memory_interval_s=0) as log:
            records(log)

    one("plain", lambda log: [log.log_metrics({"foo": i / 7}, i) for i in range(300)])
    one("large", lambda log: [log.log_metrics({"loss": (-1) ** i * 1e308}, i) for i in range(300)])
    one("bad", lambda log: [log.log_metrics({"loss": math.nan}, i) for i in range(300)])
    one("validations", lambda log: [log.log_validation(i, {"acc": i / 9}) for i in range(1, 6)])
    one("again", lambda log: [log.log_metrics({"loss": 1.0}, i % 100) for i in range(500)])
    one("tokens", lambda log: [log.log_metrics({"loss": 1 / (i + 1)}, i * 10**10) for i in range(500)])
    one("nothing", lambda log: None)
    for name in ("plain", "large", "bad", "validations", "again", "tokens", "nothing"):
        page_file = tmp_path / f"{name}.html"
        assert main(["report", str(tmp_path / "logs"), name, "-o", str(page_file)]) == 0
        watched = browse(390)
        page = watched.open(page_file)
        watched.scroll_through()
        check_for_everybody(page)
        assert watched.troubles == [], name
        if name == "large":
            label = page.locator("figure.chart").first.get_attribute("aria-label")
            assert "no finite value" not in label
        if name == "tokens":
            page.locator("figure.chart details.as-table summary").first.click()
            first = page.locator("figure.chart table tbody tr").nth(1).locator("td").first.inner_text()
            assert int(first.replace(",", "")) > 0
