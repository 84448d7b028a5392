"""Writes the page of a run as one file, which asks for nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ..reader import Run
from ..store.files import write_whole
from .facts import page_of
from .wire import Planes

_STATIC = Path(__file__).parent / "static"


def report(
    run: Run,
    path: str | os.PathLike[str],
    *,
    metrics: Sequence[str] | None = None,
    width: int = 750,
    each: bool = False,
    anonymous: bool = False,
) -> Path:
    """Writes a page that shows a run: every value of each metric by bucket, what deserves a look, the ranks, errors and
    the configuration. It opens from the disk, with no server and no network, and runs nothing but its own script.

    :param metrics: those to show; None for all.
    :param width: buckets of a picture at least; fewer than twice as many are there.
    :param each: each rank alone too, in a quarter as many buckets; it makes the file as many times larger.
    :param anonymous: numbers, steps, names of metrics and types of errors, and no other text of the run.
    :raises ValueError: there is no such metric, or `width` is out of range.
    :raises OSError: a file cannot be read, or the page not be written.
    """
    target = Path(path)
    write_whole(target, page(run, metrics=metrics, width=width, each=each, anonymous=anonymous).encode())
    return target


def page(
    run: Run,
    *,
    metrics: Sequence[str] | None = None,
    width: int = 750,
    each: bool = False,
    anonymous: bool = False,
) -> str:
    """Returns the page of :func:`report`."""
    planes = Planes()
    facts = page_of(run, planes, metrics=metrics, width=width, each=each, anonymous=anonymous)
    data = base64.b64encode(planes.deflated()).decode()
    scripts = [_static("vendor/uPlot.iife.min.js"), _static("page.js")]
    styles = [_static("vendor/uPlot.min.css"), _static("page.css")]
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    parts = {
        "POLICY": policy,
        "TITLE": _escaped(f"{facts['name']} · advlog"),
        "STYLES": "".join(f"<style>{style}</style>" for style in styles),
        "FACTS": json.dumps(plain(facts), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "DATA": data,
        "SCRIPTS": "".join(f"<script>{script}</script>" for script in scripts),
    }
    pieces = _static("page.html").split("%%")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def _static(name: str) -> str:
    return (_STATIC / name).read_text(encoding="utf-8")


def _hashes(texts: Sequence[str]) -> str:
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in texts)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def plain(value: object) -> object:
    """Without the numbers that JSON has not."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value
