"""docs/glossary.md: each term once, in order, with paths that exist."""

from __future__ import annotations

import re

import pytest

from tests.packaging.workspace import ROOT, package

ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines()
    if line.startswith("|")
][2:]
PLACE = re.compile(r"\[`(\w+): ([\w/.]+)`\]\(\.\./([\w/.]+)\)")


def test_terms_stand_once_and_in_order() -> None:
    terms = [term.lower() for term, _, _ in ROWS]
    assert terms == sorted(set(terms))


@pytest.mark.parametrize(("term", "places"), [(term, places) for term, _, places in ROWS])
def test_a_term_lives_where_its_row_says(term: str, places: str) -> None:
    found = [PLACE.fullmatch(place) for place in places.split(", ")]
    for each in found:
        assert each, places
        distribution, path, target = each.groups()
        assert ROOT / target.rstrip("/") == package(distribution) / path.rstrip("/")
        assert (ROOT / target).exists()
