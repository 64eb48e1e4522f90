"""Aliases: from bytes to the audio in them, with the warnings about these bytes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from sensestream_common.contract.alias import Alias, AudioWarning, is_decode_revision, read_alias
from sensestream_common.contract.keys import Keys

AUDIO = "0f" * 32
LOST = AudioWarning("audio_truncated", "the last 0.4 s are missing: “…”")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
warnings = st.lists(st.builds(AudioWarning, texts, texts), max_size=3).map(tuple)


@given(warnings)
def test_an_alias_survives_the_cache(warnings: tuple[AudioWarning, ...]) -> None:
    alias = Alias(AUDIO, warnings)
    assert read_alias(alias.encode().encode()) == alias


def test_an_alias_without_warnings_is_the_identity_alone() -> None:
    assert Alias(AUDIO).encode() == AUDIO


def test_warnings_follow_the_identity_as_json() -> None:
    identity, _, text = Alias(AUDIO, (LOST,)).encode().partition(" ")
    assert identity == AUDIO
    assert json.loads(text) == [{"code": LOST.code, "message": LOST.message}]


def test_a_warning_of_a_later_version_may_say_more() -> None:
    value = f'{AUDIO} [{{"code":"c","message":"m","at":1.5}}]'
    assert read_alias(value.encode()) == Alias(AUDIO, (AudioWarning("c", "m"),))


@pytest.mark.parametrize(
    "value",
    [
        "", AUDIO[:-1], AUDIO.upper(), AUDIO + "\n", AUDIO + " ", AUDIO + " []", AUDIO + "  []",
        AUDIO + " {}", AUDIO + " 1", AUDIO + " [1]", AUDIO + " garbage", AUDIO + ' [{"code":"c"}]',
        AUDIO + ' [{"code":1,"message":"m"}]', AUDIO + ' [{"code":"c","message":null}]',
        AUDIO + ' [{"code":"c","message":"\\ud800"}]', AUDIO + " " + "[" * 100_000,
        f'{AUDIO}\t[{{"code":"c","message":"m"}}]', "1 " + AUDIO,
    ],
)  # fmt: skip
def test_a_value_that_no_worker_writes_is_no_alias(value: str) -> None:
    assert read_alias(value.encode()) is None


def test_bytes_that_are_no_text_are_no_alias() -> None:
    assert read_alias(AUDIO.encode() + b' [{"code":"c","message":"\xff"}]') is None


def test_each_decode_revision_has_aliases_of_its_own() -> None:
    keys = Keys("p")
    assert keys.audio("sha256:0", "1-2.3") == "{p}:audio:1-2.3:sha256:0"
    assert keys.audio("sha256:0", "2").startswith(keys.audio_prefix)


@pytest.mark.parametrize("text", ["", "1:2", "1 2", "a*", "é", "1" * 101, "1\n"])
def test_what_would_be_another_key_is_no_decode_revision(text: str) -> None:
    assert not is_decode_revision(text)
    assert is_decode_revision("2-18.1.0-1.2.2_rc")
