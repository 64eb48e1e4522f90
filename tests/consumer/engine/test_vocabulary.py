"""Vocabularies of all three kinds, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from sensestream_common.contract.errors import ModelError
from sensestream_consumer.engine.model.vocabulary import Vocabulary, read_vocabulary

from tests.consumer.engine.models import BPE, TOKENS, write_vocabulary

KINDS = [BPE, "tokens.json", "tokens.txt"]


def _ids(*tokens: str) -> list[int]:
    return [TOKENS.index(token) for token in tokens]


@pytest.fixture(params=KINDS)
def vocabulary(request: pytest.FixtureRequest, tmp_path: Path) -> Vocabulary:
    path = tmp_path / request.param
    write_vocabulary(path, TOKENS)
    return read_vocabulary(path)


def test_every_kind_has_the_same_tokens(vocabulary: Vocabulary) -> None:
    assert list(vocabulary.tokens) == TOKENS


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["▁hello", "▁wor", "ld", "."], "hello world."),
        (["你", "好", "。"], "你好。"),
        (["你", "▁hello", "好"], "你 hello好"),
        (["<|zh|>", "▁hello", "<unk>", "<s>", "s", "<|Speech|>"], "hellos"),
        (["▁", "ld", "▁"], "ld"),
        (["<unk>"], ""),
        ([], ""),
    ],
)
def test_every_kind_gives_the_same_text(
    vocabulary: Vocabulary, tokens: list[str], text: str
) -> None:
    assert vocabulary.text(_ids(*tokens)) == text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ids=st.lists(st.integers(0, len(TOKENS) - 1), max_size=20))
def test_every_kind_decodes_any_ids_alike(vocabulary: Vocabulary, ids: list[int]) -> None:
    assert vocabulary.text(ids) == Vocabulary(TOKENS).text(ids)


def test_tags_are_known_by_their_names(vocabulary: Vocabulary) -> None:
    assert vocabulary.tag(TOKENS.index("<|yue|>")) == "yue"
    assert vocabulary.tag(TOKENS.index("你")) == ""
    assert not vocabulary.is_text(TOKENS.index("<|NEUTRAL|>"))
    assert not vocabulary.is_text(0)


def test_a_blank_that_looks_like_text_is_no_text() -> None:
    vocabulary = Vocabulary(["a", "b"])
    assert vocabulary.text([0, 1]) == "b"


def test_an_empty_token_is_no_text() -> None:
    assert not Vocabulary(["<unk>", ""]).is_text(1)


def test_byte_tokens_become_the_character_they_spell() -> None:
    vocabulary = Vocabulary(["<unk>", "<0xE4>", "<0xBD>", "<0xA0>", "▁hi"])
    assert vocabulary.text([4, 1, 2, 3]) == "hi你"
    assert vocabulary.text([1, 2]) == "\ufffd"


def test_a_text_file_of_bare_tokens_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("<unk>\r\n▁one\r\n7\r\n", encoding="utf-8")
    assert read_vocabulary(path).tokens == ("<unk>", "▁one", "7")


def test_numbered_tokens_are_put_in_the_order_of_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("b 1\n<unk> 0\n3 2\n", encoding="utf-8")
    assert read_vocabulary(path).tokens == ("<unk>", "b", "3")


def test_a_text_file_that_skips_an_id_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tokens.txt"
    path.write_text("a 0\nb 2\n", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokens\.txt.*not 0 to 1"):
        read_vocabulary(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage\xff"])
def test_an_unreadable_vocabulary_is_refused_by_name(
    kind: str, content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / kind
    path.write_bytes(content)
    with pytest.raises(ModelError, match=kind.replace(".", r"\.")):
        read_vocabulary(path)


@pytest.mark.parametrize("content", ['{"a": 0}', '["a", 1]', "[]"])
def test_json_that_is_no_list_of_tokens_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"tokens\.json"):
        read_vocabulary(path)


def test_the_published_vocabulary_has_the_tags_of_sensevoice(data: Path) -> None:
    vocabulary = read_vocabulary(data / "sensevoice" / "tokens.json")
    assert len(vocabulary) == 25_055
    assert [vocabulary.tag(number) for number in (24884, 24992, 25004, 24993, 25016)] == [
        "zh",
        "nospeech",
        "NEUTRAL",
        "Speech",
        "withitn",
    ]
