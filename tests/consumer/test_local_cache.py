"""The local cache: bounded, and evicted in the order of use."""

from __future__ import annotations

import pytest
from sensestream_common.contract.alias import Alias, AudioWarning
from sensestream_common.contract.identity import checksum
from sensestream_common.contract.transcript import Segment, Transcript, Word
from sensestream_consumer.cache import local as local_module
from sensestream_consumer.cache.local import LocalCache

TRANSCRIPT = Transcript("a b", "en", segments=(Segment(0.0, 1.0, "a b", (Word(0.0, 0.5, "a"),)),))


def put(cache: LocalCache, identity: str, transcript: Transcript = TRANSCRIPT) -> None:
    cache.put_transcript(identity, transcript, transcript.dumps().encode())


ROOM = local_module._OVERHEAD + 400  # bytes; one takes some three hundred beside


def kept(cache: LocalCache) -> set[str]:
    return {name for name in "abcd" if name in cache}


def test_a_transcript_comes_back_whole_with_its_checksum() -> None:
    cache = LocalCache()
    put(cache, "a")
    found = cache.transcript("a")
    assert found is not None
    assert found.transcript == TRANSCRIPT
    assert found.checksum == checksum(TRANSCRIPT.dumps().encode())
    assert found.transcript.dumps() == TRANSCRIPT.dumps()


def test_the_least_recently_used_transcript_is_evicted_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_module, "_TRANSCRIPTS", 3 * ROOM)
    cache = LocalCache()
    for name in "abc":
        put(cache, name)
    cache.transcript("a")
    put(cache, "d")
    assert kept(cache) == {"a", "c", "d"}


def test_replacing_and_evicting_leave_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_TRANSCRIPTS", 3 * ROOM)
    cache = LocalCache()
    for name in "abc" * 5:
        put(cache, name)
    assert kept(cache) == set("abc")
    cache.evict("b")
    cache.evict("never there")
    put(cache, "d")
    assert kept(cache) == set("acd")


def test_a_long_transcript_is_kept_and_not_sent_without_a_look_up() -> None:
    cache = LocalCache()
    put(cache, "a")
    put(cache, "b", Transcript("word " * 10_000))
    found = [cache.transcript(name) for name in "ab"]
    assert [known.short for known in found if known] == [True, False]


def test_the_size_of_a_transcript_is_what_python_takes_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_module, "_TRANSCRIPTS", 4000)
    cache = LocalCache()
    put(cache, "a", Transcript("a" * 1000))
    put(cache, "b", Transcript("\N{GRINNING FACE}" * 1000))  # four bytes a character here
    assert kept(cache) == set()


def test_aliases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_module, "_ALIASES", 2)
    cache = LocalCache()
    for digest in ("one", "two", "three"):
        cache.put_alias(digest, Alias(f"audio of {digest}"))
    assert [cache.alias(digest) for digest in ("one", "two", "three")] == [
        None, Alias("audio of two"), Alias("audio of three"),
    ]  # fmt: skip


def test_an_alias_with_long_warnings_takes_the_room_of_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(local_module, "_ALIASES", 10)
    cache = LocalCache()
    cache.put_alias("short", Alias("a"))
    long = Alias("b", (AudioWarning("audio_damaged", "x" * 256 * 7),))
    cache.put_alias("long", long)
    assert (cache.alias("short"), cache.alias("long")) == (None, long)
