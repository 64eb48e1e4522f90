"""What a worker remembers of the cache: bounded, and forgotten in the order of use."""

from __future__ import annotations

import pytest
from sensestream_common.contract.identity import checksum
from sensestream_common.contract.transcript import Segment, Transcript, Word
from sensestream_consumer.cache import local as recall_module
from sensestream_consumer.cache.local import LocalCache

HEARD = Transcript("a b", "en", segments=(Segment(0.0, 1.0, "a b", (Word(0.0, 0.5, "a"),)),))


def learn(recall: LocalCache, identity: str, transcript: Transcript = HEARD) -> None:
    recall.learn_transcript(identity, transcript, transcript.dumps().encode())


ROOM = recall_module._OVERHEAD + 400  # bytes; one takes some three hundred beside


def known(recall: LocalCache) -> set[str]:
    return {name for name in "abcd" if name in recall}


def test_a_transcript_comes_back_whole_with_its_checksum() -> None:
    recall = LocalCache()
    learn(recall, "a")
    found = recall.transcript("a")
    assert found is not None
    assert found.transcript == HEARD
    assert found.checksum == checksum(HEARD.dumps().encode())
    assert found.transcript.dumps() == HEARD.dumps()


def test_what_was_not_used_for_longest_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "_TRANSCRIPTS", 3 * ROOM)
    recall = LocalCache()
    for name in "abc":
        learn(recall, name)
    recall.transcript("a")
    learn(recall, "d")
    assert known(recall) == {"a", "c", "d"}


def test_learning_again_and_forgetting_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "_TRANSCRIPTS", 3 * ROOM)
    recall = LocalCache()
    for name in "abc" * 5:
        learn(recall, name)
    assert known(recall) == set("abc")
    recall.forget("b")
    recall.forget("never there")
    learn(recall, "d")
    assert known(recall) == set("acd")


def test_a_long_transcript_is_remembered_and_not_sent_without_a_look() -> None:
    recall = LocalCache()
    learn(recall, "a")
    learn(recall, "b", Transcript("word " * 10_000))
    found = [recall.transcript(name) for name in "ab"]
    assert [known.short for known in found if known] == [True, False]


def test_what_python_takes_for_a_transcript_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "_TRANSCRIPTS", 4000)
    recall = LocalCache()
    learn(recall, "a", Transcript("a" * 1000))
    learn(recall, "b", Transcript("\N{GRINNING FACE}" * 1000))  # four bytes a character here
    assert known(recall) == set()


def test_aliases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall_module, "_ALIASES", 2)
    recall = LocalCache()
    for digest in ("one", "two", "three"):
        recall.learn_audio(digest, f"audio of {digest}")
    assert [recall.audio(digest) for digest in ("one", "two", "three")] == [
        "", "audio of two", "audio of three",
    ]  # fmt: skip
