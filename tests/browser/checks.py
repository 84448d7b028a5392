"""What a page must do for everybody: names, contrast, focus, no overflow."""

from __future__ import annotations

import time
from typing import Any

_CONTRAST = """() => {
  const parse = (color) => (color.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = parse(getComputedStyle(at).backgroundColor);
      if (color.length < 4 || color[3] > 0.99) return color;
    }
    return [255, 255, 255];
  };
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    if (!text || ["SCRIPT", "STYLE", "OPTION", "NOSCRIPT"].includes(element.tagName)) continue;
    if (!element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)} ${element.tagName} ${text.slice(0, 40)}`);
  }
  return found;
}"""

_NAMES = """() => [...document.querySelectorAll("a, button, select, input, summary, figure, canvas, [role=img]")]
  .filter((each) => each.checkVisibility() && !each.closest("[aria-hidden=true]"))
  .filter((each) => !(each.getAttribute("aria-label") || each.textContent || each.title || "").trim()
    && !(each.labels && each.labels.length))
  .map((each) => each.outerHTML.slice(0, 120))"""


def until(page: Any, expression: str, seconds: float = 30.0) -> None:
    """Waits until an expression holds. Playwright's own way evaluates text in the page, which its policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never came: {expression}"
        page.wait_for_timeout(20)


def check_for_everybody(page: Any) -> None:
    """No text is too pale, no control without a name, nothing wider than the window, one heading of the first rank."""
    assert page.evaluate(_CONTRAST) == []
    assert page.evaluate(_NAMES) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.evaluate("document.title").strip()


def tab_stops(page: Any, most: int = 200) -> list[str]:
    """The elements that the Tab key reaches, in order."""
    found: list[str] = []
    page.evaluate("document.activeElement && document.activeElement.blur()")
    for _ in range(most):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => { const at = document.activeElement, told = at.getAttribute("aria-label") || at.textContent;
            return at === document.body ? "" : at.tagName + " " + told.trim(); }"""
        )
        if not told:
            break
        found.append(told)
    return found
