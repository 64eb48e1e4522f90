"""Links between the project's documents lead somewhere: on a code host, and in the site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import DOCUMENTS, anchors, links
from tests.packaging.workspace import ROOT

SITE = (ROOT / "mkdocs.yml").read_text("utf-8")


def by_path(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=by_path)
def test_every_link_leads_to_a_file_of_the_repository_and_to_a_heading(document: Path) -> None:
    broken = []
    for path, anchor in links(document):
        target = (document.parent / path).resolve() if path else document
        if not target.is_relative_to(ROOT) or not target.exists():
            broken.append(path)
        elif anchor and anchor not in anchors(target):
            broken.append(f"{path}#{anchor}")
    assert broken == []


def test_every_page_of_docs_is_in_the_navigation_of_the_site() -> None:
    listed = set(re.findall(r": (\S+\.md)$", SITE.split("\nnav:\n")[1], re.MULTILINE))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert pages - listed == set(), "give it a line in the nav of mkdocs.yml"
    assert {name for name in listed if not (ROOT / "docs" / name).exists()} == set()
