"""The project's documents, and how a code host reads them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.packaging.workspace import ROOT

__all__ = ["DOCUMENTS", "anchors", "fenced", "links"]

MODEL_CARD = ROOT / "consumer" / "sensestream_consumer" / "models" / "demo" / "MODEL_CARD.md"
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("[a-z]*/README.md"), MODEL_CARD]
)

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


def fenced(text: str) -> list[tuple[str, str]]:
    """The fenced code blocks, each with its language."""
    return _FENCE.findall(text)


def links(document: Path) -> Iterator[tuple[str, str]]:
    """The links into the repository: their paths, empty for this document, and their anchors."""
    for target in _LINK.findall(_FENCE.sub("", document.read_text("utf-8"))):
        if "://" not in target and not target.startswith("mailto:"):
            path, _, anchor = target.partition("#")
            yield path, anchor


def anchors(document: Path) -> set[str]:
    """The anchors of its headings: lower case, punctuation gone, spaces as hyphens."""
    headings = _HEADING.findall(_FENCE.sub("", document.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", each).strip().lower().replace(" ", "-") for each in headings}
