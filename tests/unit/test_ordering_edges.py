"""The ordering edges of the C core: each release names its edge, each acquire names the edge it pairs with, and the
head of a file says what each edge is for."""

import re

import pytest
from rooms import CSRC

LABEL = r"\w+:[a-z]"
FUNCTION = re.compile(
    r"^(?:__attribute__\(\(\w+\)\) )?(?!typedef|struct|enum|extern|_Static|#|/|\s|\})[\w\* ]*?\b(\w+)\("
)
RELEASE = re.compile(rf"_release\(.*/\* ({LABEL}) \*/|fence_full\(.*/\* ({LABEL}), pairs with")
PAIRS = re.compile(rf"pairs with ({LABEL}(?:, {LABEL})*)")
ORDERED = re.compile(r"\b(?:store(?:32)?_release|load(?:32)?_acquire|exchange32_acquire|fence_full)\(")
WITHOUT_AN_EDGE = {
    # It takes the word back that says that the drain sleeps; the fence before it orders it.
    "ring.c: if (load32_relaxed(&h->sleeping) && exchange32_acquire(&h->sleeping, 0)) ring_wake(ring);",
    # For whoever finds the ring after a SIGKILL: no thread acquires them.
    "repair.c: fence_full();",
    "slab.c: fence_full(); /* a SIGKILL must not find the bit gone and the reference still there */",
    "child_ring.c: store_release(&taking->position, to);",
    "child_ring.c: store_release(&taking->until, w->from + r->slots);",
}

SOURCES = [path for path in sorted(CSRC.iterdir()) if path.suffix in {".c", ".h"} and path.name != "atomics.h"]


def lines_of(path):
    """Each line with the function that it stands in."""
    function = None
    for line in path.read_text().splitlines():
        begun = FUNCTION.match(line)
        if begun:
            function = begun[1]
        yield function, line


def ends():
    """The functions and labels of all releases, and the labels that acquires pair with."""
    releases, paired = set(), set()
    for path in SOURCES:
        for function, line in lines_of(path):
            releases.update((function, a or b) for a, b in RELEASE.findall(line))
            for labels in PAIRS.findall(line):
                paired.update(labels.split(", "))
    return releases, paired


def test_an_edge_is_named_after_the_function_that_releases():
    releases, _ = ends()
    assert releases
    for function, label in releases:
        assert label.split(":")[0] == function


def test_each_edge_has_both_ends():
    releases, paired = ends()
    assert {label for _, label in releases} == paired


def test_the_head_of_a_file_says_what_each_edge_is_for():
    listed = set()
    for path in SOURCES:
        head = path.read_text().split("*/", maxsplit=1)[0]
        listed.update(re.findall(rf"^ \*   ({LABEL})", head, re.MULTILINE))
        listed.update(re.findall(rf"^ \*   {LABEL} and ({LABEL})", head, re.MULTILINE))
    assert listed == {label for _, label in ends()[0]}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_every_ordered_operation_names_its_edge(path):
    for _, line in lines_of(path):
        if ORDERED.search(line) and f"{path.name}: {line.strip()}" not in WITHOUT_AN_EDGE:
            assert RELEASE.search(line) or PAIRS.search(line), f"{path.name}: {line.strip()}"
