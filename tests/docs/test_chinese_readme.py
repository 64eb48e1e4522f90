"""README.zh-CN.md says in Chinese what README.md says: the same commands, the same pages."""

from __future__ import annotations

import re

from tests.docs.pages import fenced, links
from tests.packaging.workspace import ROOT

ENGLISH = ROOT / "README.md"
CHINESE = ROOT / "README.zh-CN.md"


def without_comments(block: str) -> list[str]:
    """The lines without what stands behind `#`: that alone is prose."""
    return [re.sub(r"(^|\s+)# .*", "", line) for line in block.splitlines()]


def test_the_code_is_the_same_but_for_its_comments() -> None:
    english, chinese = (
        [(language, without_comments(block)) for language, block in fenced(each.read_text("utf-8"))]
        for each in (ENGLISH, CHINESE)
    )
    assert chinese == english


def test_both_lead_to_the_same_pages_and_to_each_other() -> None:
    english, chinese = set(links(ENGLISH)), set(links(CHINESE))
    assert english - chinese == {("README.zh-CN.md", "")}
    assert chinese - english == {("README.md", "")}


def test_both_have_the_same_sections() -> None:
    counts = [
        len(re.findall(r"^## ", each.read_text("utf-8"), re.M)) for each in (ENGLISH, CHINESE)
    ]
    assert counts[0] == counts[1]
