"""One word for one thing: ARCHITECTURE.md has the glossary, and the words that are not to be used beside each."""

import re

import pytest
from rooms import CHECKOUT, CSRC, PACKAGE

GLOSSARY = (CHECKOUT / "ARCHITECTURE.md").read_text().split("## Words")[1].split("\n## ")[0]
ROWS = [row.strip().strip("|").split("|") for row in GLOSSARY.splitlines() if row.startswith("| ")][1:]
UNUSED = {word.strip(): row[0].strip() for row in ROWS for word in row[2].split(",") if word.strip()}

SOURCES = sorted(
    path
    for folder, endings in ((PACKAGE, {".py"}), (CSRC, {".c", ".h", ".py"}), (CHECKOUT / "tests", {".py", ".c", ".h"}))
    for path in folder.rglob("*")
    if path.suffix in endings and ".hypothesis" not in path.parts
)
PAGES = sorted((*CHECKOUT.glob("*.md"), CHECKOUT / "tests/README.md", CHECKOUT / "benchmarks/README.md"))


def test_the_glossary_says_what_each_word_means():
    assert len(ROWS) > 20
    assert all(len(row) == 3 and row[1].strip() for row in ROWS)
    assert UNUSED


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_no_word_comes_back_that_was_given_up(path):
    text = path.read_text()
    if path.name == "ARCHITECTURE.md":
        text = text.replace(GLOSSARY, "")
    for word, instead in UNUSED.items():
        # Also inside a name: a_word, word_s.
        found = re.search(rf"(?<![A-Za-z]){word}(?![a-z])", text, re.IGNORECASE)
        line = text[: found.start()].count("\n") + 1 if found else 0
        assert not found, f"{path.name}:{line}: {word!r}; say {instead!r}"
