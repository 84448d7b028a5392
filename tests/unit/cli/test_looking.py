"""`advlog report`, `compare` and `watch`, and what the pages of a server stand on, without a browser."""

from __future__ import annotations

import base64
import json
import math
import os
import re
import struct
import zlib
from pathlib import Path

import pytest

from advlog_fast import AdvancedLogger, RunNotFoundError, read_run
from advlog_fast.cli import main
from advlog_fast.views import gallery as galleries
from advlog_fast.views import report
from advlog_fast.views.gallery import Gallery
from advlog_fast.views.logs import log_lines


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def make(folder: Path, name: str = "run", *, steps: int = 300, rate: float = 0.1, differs_at: int = 0) -> None:
    with AdvancedLogger(folder, name, console="off", memory_interval_s=0, group="sweep", tags=("a", "b")) as log:
        log.start_training({"lr": rate, "seed": 1})
        for step in range(1, steps + 1):
            loss = math.nan if step == 200 else 50.0 if step == 100 else 1.0 + step / 1000
            log.log_batch_progress(1, step, steps, loss if step != differs_at else 7.0, batch_time=0.1)
        log.log_validation(1, {"accuracy": 0.9})
        log.log_error(ValueError("a bad label"), "loading")


def facts_of(page: Path) -> dict:
    found: dict = json.loads(re.search(r'id="facts">(.*?)</script>', page.read_text())[1])
    return found


def plane_of(page: Path, told: list) -> list[float]:
    data = zlib.decompress(base64.b64decode(re.search(r'id="data">(.*?)</script>', page.read_text())[1]), -15)
    begin, count, kind = told
    size = int(kind[1])
    planes = [data[begin + place * count : begin + (place + 1) * count] for place in range(size)]
    whole = bytes(planes[place][at] for at in range(count) for place in range(size))
    return list(
        struct.unpack(f"<{count}{ {'f4': 'f', 'f8': 'd', 'u4': 'I', 'u2': 'H'}[kind] }".replace(" ", ""), whole)
    )


def test_a_report_has_the_numbers_of_the_pictures(tmp_path: Path, capsys):
    make(tmp_path / "logs")
    page = tmp_path / "run.html"
    assert main(["report", str(tmp_path / "logs"), "-o", str(page)]) == 0
    assert str(page) in capsys.readouterr().out
    facts = facts_of(page)
    assert (facts["name"], facts["status"], facts["span"]) == ("run", "completed", [1, 300])
    assert [chart["metric"] for chart in facts["charts"]] == ["loss", "batch_time", "accuracy"]
    picture = read_run(tmp_path / "logs", "run").picture("loss", width=750)
    series = facts["charts"][0]["series"][0]
    for name in ("min", "max", "mean"):
        wanted = [math.nan if value is None else value for value in picture.table[name].to_pylist()]
        assert plane_of(page, series[name]) == pytest.approx(wanted, rel=1e-6, nan_ok=True)
    for name in ("count", "nan"):
        assert plane_of(page, series[name]) == picture.table[name].to_pylist()
    assert {finding["kind"] for finding in facts["findings"]} == {"nonfinite", "spike", "error"}
    assert facts["errors"][0]["message"] == "a bad label"
    assert ["lr", "0.1"] in facts["config"]
    assert facts["account"] == {"shown": 300, "rows": 300, "lost": {}}


def test_a_report_begins_with_its_policy_and_holds_no_address(tmp_path: Path):
    make(tmp_path / "logs")
    page = report(read_run(tmp_path / "logs", "run"), tmp_path / "run.html").read_text()
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("<script")
    assert "default-src 'none'" in page
    assert "unsafe" not in page.split("</head>")[0].split("<style>")[0]
    assert not re.findall(r'(?:src|href)="(?!#)', page)


def test_an_anonymous_report_has_no_text_of_the_run(tmp_path: Path):
    make(tmp_path / "secret-place", "secret-name")
    run = read_run(tmp_path / "secret-place", "secret-name")
    text = report(run, tmp_path / "a.html", anonymous=True).read_text()
    for word in ("secret", "a bad label", "loading", "seed", os.uname().nodename + '"'):
        assert word not in text, word
    assert "ValueError" in text
    assert "accuracy" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--metrics", "los"], "expected one of"), (["none"], "no such run"), (["--px", "0"], "from 1")],
)
def test_a_report_that_cannot_be_is_status_2(tmp_path: Path, capsys, options: list[str], said: str):
    make(tmp_path)
    arguments = ["report", str(tmp_path), *options, "-o", str(tmp_path / "x.html")]
    if "--px" in options:
        with pytest.raises(SystemExit):
            main(arguments)
    else:
        assert main(arguments) == 2
    assert said in capsys.readouterr().err or said == "no such run"
    assert not (tmp_path / "x.html").exists()


def test_a_report_that_cannot_be_written_is_status_1(tmp_path: Path, capsys):
    make(tmp_path)
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "no" / "folder.html")]) == 1
    assert "advlog report:" in capsys.readouterr().err


def test_a_run_that_has_logged_nothing_has_a_report(tmp_path: Path):
    with AdvancedLogger(tmp_path, "run", console="off", memory_interval_s=0):
        facts = facts_of(report(read_run(tmp_path, "run"), tmp_path / "run.html"))
    assert (facts["charts"], facts["status"]) == ([], "running")


def test_compare_says_what_differs_and_where_first(tmp_path: Path, capsys):
    make(tmp_path, "one")
    make(tmp_path, "other", rate=0.2, differs_at=150)
    make(tmp_path, "same")
    assert main(["compare", str(tmp_path), "one", "other", "--svg", str(tmp_path / "both.svg")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"lr +0\.1 +0\.2", out)
    assert "loss differs first at step 150 of rank 0: 1.15 and 7" in out
    assert (tmp_path / "both.svg").read_text().startswith("<svg")
    assert main(["compare", str(tmp_path), "one", "same"]) == 0
    out = capsys.readouterr().out
    assert "their settings are the same" in out
    assert "loss is the same at every step that both have" in out
    assert main(["compare", str(tmp_path), "one", "other", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first_difference"] == {"step": 150, "rank": 0, "values": [1.15, 7.0]}
    assert main(["compare", str(tmp_path), "one", "none"]) == 2
    assert main(["compare", str(tmp_path), "one", "other", "--metric", "los"]) == 2
    assert main(["compare", str(tmp_path), "one", "same", "--svg", str(tmp_path / "no" / "x.svg")]) == 1


def test_watch_once_is_a_line(tmp_path: Path, capsys):
    make(tmp_path)
    assert main(["watch", str(tmp_path), "--once"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("run: completed, step 300, loss 1.3, ")
    assert "1 error, 1 value not finite" in line
    assert main(["watch", str(tmp_path), "none"]) == 2


def test_the_table_of_runs_is_read_again_only_where_files_have_changed(tmp_path: Path, monkeypatch):
    make(tmp_path, "one")
    make(tmp_path, "other")
    monkeypatch.setattr(galleries, "_STAMPS_S", 0.0)
    asked: list[list[str]] = []
    held = galleries.listed
    monkeypatch.setattr(galleries, "listed", lambda folder, names: asked.append(list(names)) or held(folder, names))
    shown = Gallery([tmp_path])
    for _ in range(3):
        assert [row["name"] for row in shown.rows()] == ["other", "one"]
    assert asked == [["one", "other"]]
    assert shown.rows()[0]["config"] == {"lr": 0.1, "seed": 1}
    with AdvancedLogger(tmp_path, "one", console="off", memory_interval_s=0) as log:
        log.log_batch_progress(1, 1, 1, 0.5)
    assert len(shown.rows()) == 2
    assert asked[1:] == [["one"]]


def test_a_run_is_found_by_its_name_alone(tmp_path: Path):
    make(tmp_path / "logs")
    (tmp_path / "secret").write_text("mine")
    shown = Gallery([tmp_path / "logs"])
    assert shown.run(0, "run") is shown.run(0, "run")
    for folder, name in ((0, "../secret"), (0, ".."), (0, ""), (1, "run"), (-1, "run"), (0, "run\0")):
        with pytest.raises(RunNotFoundError):
            shown.run(folder, name)


def test_lines_of_a_log_come_the_last_first_and_no_link_is_followed(tmp_path: Path):
    make(tmp_path / "logs")
    paths = Gallery([tmp_path / "logs"]).paths(0, "run")
    found = log_lines(paths, "training")
    assert "attempt_end" in found["lines"][0]
    assert all("STEP=" in line or "step=" in line for line in log_lines(paths, "training", "STEP=")["lines"])
    assert log_lines(paths, "main", rank=7) == {"lines": [], "more": False}
    for file, rank in (("summary", 0), ("../main", 0), ("main", -1)):
        with pytest.raises(ValueError, match="expected"):
            log_lines(paths, file, rank=rank)
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "logs" / "run_main.log").unlink()
    (tmp_path / "logs" / "run_main.log").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="regular file"):
        log_lines(paths, "main")
