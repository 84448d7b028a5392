"""What pages are drawn with is what its makers published, and is in the package."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import advlog_fast

STATIC = Path(advlog_fast.__file__).parent / "views" / "static"
VENDOR = STATIC / "vendor"
LISTED = re.findall(r"`(uPlot[\w.]+)` \| `([0-9a-f]{64})`", (VENDOR / "VENDOR.md").read_text())


def test_each_vendored_file_is_listed_with_its_hash():
    files = {path.name for path in VENDOR.iterdir()} - {"VENDOR.md", "uPlot.LICENSE"}
    assert {name for name, _ in LISTED} == files
    assert "MIT" in (VENDOR / "uPlot.LICENSE").read_text()


@pytest.mark.parametrize(("name", "digest"), LISTED)
def test_a_vendored_file_is_what_was_published(name: str, digest: str):
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


def test_the_pages_are_in_the_package():
    wanted = {"page.html", "page.js", "page.css", "shell.html", "ui.js", "vendor"}
    assert wanted <= {path.name for path in STATIC.iterdir()}


@pytest.mark.parametrize("name", ["page.js", "ui.js"])
def test_a_page_makes_no_markup_of_text(name: str):
    script = (STATIC / name).read_text()
    for banned in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "srcdoc"):
        assert banned not in script
