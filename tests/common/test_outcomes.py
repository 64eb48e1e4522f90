"""Outcomes: the same value as a stream entry and as JSON on the channel."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace

import pytest
from hypothesis import given, strategies as st
from pydantic import TypeAdapter
from sensestream_common.contract.alias import AudioWarning
from sensestream_common.contract.errors import ErrorCode, PipelineError
from sensestream_common.contract.outcome import (
    CacheUse,
    Outcome,
    Status,
    outcome_from_entry,
    outcome_from_json,
)
from sensestream_common.contract.transcript import Segment, Transcript, Word

times = st.floats(0, 1e5)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
words = st.builds(Word, times, times, texts)
segments = st.builds(Segment, times, times, texts, st.lists(words, max_size=3).map(tuple))
transcripts = st.builds(
    Transcript,
    text=texts,
    language=st.sampled_from(["", "zh", "en"]),
    emotion=st.sampled_from(["", "NEUTRAL"]),
    events=st.lists(st.sampled_from(["Speech", "BGM"]), max_size=2).map(tuple),
    segments=st.lists(segments, max_size=3).map(tuple),
    confidence=st.none() | st.floats(0, 1),
    duration=times,
)
outcomes = st.builds(
    lambda transcript, **rest: Outcome(**rest).with_transcript(transcript),
    transcript=transcripts,
    id=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
    entry=st.just("1-0"),
    status=st.just(Status.COMPLETED),
    audio=st.just("file:///a.wav"),
    cache=st.sampled_from(CacheUse),
    warnings=st.lists(st.builds(AudioWarning, texts, texts), max_size=2).map(tuple),
    attempt=st.integers(0, 5),
    submitted_at=st.integers(0, 10**15),
    metadata=st.sampled_from(["", '{"big": 12345678901234567890, "list": []}', "1e999", '"ü"']),
)


def raw(outcome: Outcome) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in outcome.encode().items()}


@given(outcomes)
def test_an_outcome_survives_the_stream(outcome: Outcome) -> None:
    assert outcome_from_entry(raw(outcome)) == outcome


@given(outcomes)
def test_the_warnings_of_an_outcome_survive_the_channel(outcome: Outcome) -> None:
    assert outcome_from_json(outcome.dumps()).warnings == outcome.warnings
    assert ("warnings" in outcome.to_json()) == bool(outcome.warnings)
    assert ("warnings" in outcome.encode()) == bool(outcome.warnings)


@pytest.mark.parametrize("warnings", ["{}", "1", "[1]", '[{"code":"c"}]', "garbage"])
def test_an_entry_whose_warnings_are_none_is_refused(warnings: str) -> None:
    with pytest.raises(PipelineError):
        outcome_from_entry(raw(COMPLETED) | {b"warnings": warnings.encode()})
    with pytest.raises(PipelineError):
        outcome_from_json(COMPLETED.dumps()[:-1] + f',"warnings":{warnings}}}')


@given(transcripts)
def test_a_transcript_survives_the_cache(transcript: Transcript) -> None:
    assert Transcript.loads(transcript.dumps()) == transcript


def test_the_channel_carries_native_types_and_the_metadata_untouched() -> None:
    metadata = '{"big": 12345678901234567890123, "none": [], "float": 1e999}'
    outcome = Outcome(
        id="a", entry="1-0", status=Status.COMPLETED, metadata=metadata, attempt=1
    ).with_transcript(Transcript("hello", duration=1.5, confidence=0.5))
    assert metadata in outcome.dumps()
    value = json.loads(outcome.dumps())
    assert value["duration"] == 1.5
    assert value["segments"] == []
    assert value["events"] == []
    assert outcome_from_json(outcome.dumps()).text == "hello"


def test_a_failed_outcome_says_why_and_carries_no_transcript() -> None:
    outcome = Outcome(
        id="a", entry="1-0", status=Status.FAILED, error=ErrorCode.EXPIRED, message="too late"
    )
    fields = outcome.encode()
    assert fields["error"] == "expired"
    assert not {"text", "segments", "events", "cache"} & fields.keys()
    assert outcome_from_entry(raw(outcome)) == outcome


def test_an_error_of_a_later_version_is_treated_as_internal() -> None:
    fields = {b"id": b"a", b"entry": b"1-0", b"status": b"failed", b"error": b"sunspots"}
    assert outcome_from_entry(fields | {b"new_field": b"1"}).error is ErrorCode.INTERNAL


@given(st.dictionaries(st.sampled_from([b"id", b"entry", b"status", b"segments", b"attempt"]),
                       st.binary(max_size=20)))  # fmt: skip
def test_an_entry_that_is_no_outcome_is_refused_with_one_error(raw: dict[bytes, bytes]) -> None:
    try:
        outcome_from_entry(raw)
    except PipelineError:
        return


@pytest.mark.parametrize("text", ["", "[]", "1", '{"id": "a"}', "{", "[" * 100_000])
def test_a_message_that_is_no_outcome_is_refused_with_one_error(text: str) -> None:
    with pytest.raises(PipelineError):
        outcome_from_json(text)


COMPLETED = Outcome(
    id="a", entry="1-0", status=Status.COMPLETED, cache=CacheUse.HIT, text="a b",
    segments=(Segment(0.0, 1.0, "a b", (Word(0.0, 0.5, "a"), Word(0.5, 1.0, "b"))),),
)  # fmt: skip


@pytest.mark.parametrize(
    "look",
    [
        lambda outcome: outcome == COMPLETED,
        lambda outcome: hash(outcome) == hash(COMPLETED),
        lambda outcome: repr(outcome) == repr(COMPLETED),
        lambda outcome: isinstance(outcome.segments, tuple),
        lambda outcome: outcome.segments is outcome.segments,
        lambda outcome: outcome.to_json() == COMPLETED.to_json(),
        lambda outcome: asdict(outcome) == asdict(COMPLETED),
        lambda outcome: pickle.loads(pickle.dumps(outcome)) == COMPLETED,
        lambda outcome: copy.deepcopy(outcome) == COMPLETED,
        lambda outcome: replace(outcome, text="c") == replace(COMPLETED, text="c"),
        lambda outcome: (
            TypeAdapter(Outcome).dump_json(outcome) == TypeAdapter(Outcome).dump_json(COMPLETED)
        ),
    ],
)
def test_segments_that_are_not_read_yet_are_those_of_any_outcome(
    look: Callable[[Outcome], bool],
) -> None:
    assert look(outcome_from_entry(raw(COMPLETED), defer=True))


def test_an_outcome_has_no_other_attribute() -> None:
    outcome = outcome_from_entry(raw(COMPLETED), defer=True)
    for name in ("nothing", "_nothing"):
        with pytest.raises(AttributeError, match=name):
            getattr(outcome, name)


@pytest.mark.parametrize(
    "segments",
    ["[garbage]", "[1]", "{}", "1", '[],"status":"failed","x":[]', '[{"start":1}]',
     '[{"start":1' + "0" * 400 + ',"end":1,"text":""}]', "[" * 100_000],
)  # fmt: skip
def test_an_entry_whose_segments_are_none_is_refused(segments: str) -> None:
    entry = raw(COMPLETED) | {b"segments": segments.encode()}
    with pytest.raises(PipelineError, match="segments"):
        outcome_from_entry(entry)
    outcome = outcome_from_entry(entry, defer=True)
    assert outcome.text == "a b"
    with pytest.raises(PipelineError, match="segments"):
        outcome.to_json()
