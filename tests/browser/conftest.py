"""A headless Chromium, for what people look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .checks import until

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Watched:
    """A page, and what it has done that nobody may see: requests, errors, dialogs."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.troubles: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("console", self._said)
        page.on("dialog", lambda dialog: (self.troubles.append(f"dialog: {dialog.message}"), dialog.dismiss()))

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type}: {message.text}")

    def open(self, path: Path, fragment: str = "") -> Any:
        """Opens a file, and waits until it is drawn."""
        self.page.goto(f"file://{path}{fragment}")
        until(self.page, "document.body.dataset.ready")
        return self.page

    def scroll_through(self) -> None:
        """So that every chart is drawn."""
        height = self.page.evaluate("document.documentElement.scrollHeight")
        for at in range(0, height, 700):
            self.page.evaluate(f"scrollTo({{top: {at}, behavior: 'instant'}})")
            self.page.wait_for_timeout(40)
        self.page.evaluate("scrollTo({top: 0, behavior: 'instant'})")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright, which `make test-ui` installs")
    if CHROMIUM is None:
        pytest.skip("needs Chromium (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def browse(chromium: Any) -> Iterator[Callable[..., Watched]]:
    """Opens pages in contexts of their own: `browse(width=1440, dark=False, offline=True)`."""
    contexts = []

    def made(
        width: int = 1440, height: int = 1000, *, dark: bool = False, offline: bool = True, **options: Any
    ) -> Watched:
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            offline=offline,
            **options,
        )
        contexts.append(context)
        return Watched(context.new_page())

    yield made
    for context in contexts:
        context.close()
