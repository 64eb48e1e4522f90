"""The tests that the documents name exist: a race in a table without its test is a promise."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCUMENTS
from tests.packaging.workspace import ROOT

_NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
NAMED = sorted({found for page in DOCUMENTS for found in _NAMED.findall(page.read_text("utf-8"))})


def test_races_are_named_with_their_tests() -> None:
    assert len(NAMED) >= 14


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_a_test_that_a_document_names_exists(module: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / module).read_text("utf-8")
