"""An outcome: what became of one request, as a stream entry and as JSON on the channel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from functools import lru_cache
from json.encoder import encode_basestring
from typing import Any

from sensestream_common.contract.alias import (
    AudioWarning,
    read_warnings,
    warnings_from_json,
    write_warnings,
)
from sensestream_common.contract.errors import ErrorCode, PipelineError
from sensestream_common.contract.request import VERSION
from sensestream_common.contract.transcript import (
    MALFORMED,
    Segment,
    Segments,
    Transcript,
    read_segments,
)

__all__ = [
    "CacheUse",
    "Outcome",
    "Status",
    "outcome_from_entry",
    "outcome_from_json",
    "to_json_text",
    "transcript_fields",
]


class Status(StrEnum):
    """How a request ended."""

    COMPLETED = "completed"
    FAILED = "failed"


class CacheUse(StrEnum):
    """Where a transcript came from."""

    MISS = "miss"  # transcribed now
    HIT = "hit"  # found in the cache
    COALESCED = "coalesced"  # joined a transcription already under way


class _SegmentsField:
    """The field `segments`: given as JSON text, it is read at the first access.

    Three words are spoken in every second, and most callers that wait for a text look at none of
    them. A dataclass takes a descriptor for a field, but not together with slots.
    """

    def __get__(self, outcome: Outcome | None, owner: type[Outcome]) -> tuple[Segment, ...]:
        if outcome is None:
            return ()  # the default value of the field
        value: tuple[Segment, ...] | str = outcome.__dict__["_segments"]
        if isinstance(value, str):
            value = outcome.__dict__["_segments"] = read_segments(value)
        return value

    def __set__(self, outcome: Outcome, value: tuple[Segment, ...] | str) -> None:
        outcome.__dict__["_segments"] = value


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One outcome; exactly one exists for every request entry.

    Times are milliseconds since the epoch, `duration` is seconds of audio. An empty string,
    an empty tuple or `None` is an absent field. `metadata` is JSON text, as it was sent.
    """

    id: str
    entry: str
    status: Status
    audio: str = ""
    text: str = ""
    language: str = ""
    emotion: str = ""
    events: tuple[str, ...] = ()
    segments: tuple[Segment, ...] = _SegmentsField()  # type: ignore[assignment]  # it is the field
    confidence: float | None = None
    duration: float | None = None
    warnings: tuple[AudioWarning, ...] = ()
    cache: CacheUse | None = None
    digest: str = ""
    model: str = ""
    submitted_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    worker: str = ""
    attempt: int = 0
    error: ErrorCode | None = None
    message: str = ""
    metadata: str = ""
    traceparent: str = ""
    v: str = VERSION

    @property
    def completed(self) -> bool:
        """Whether it has a transcript."""
        return self.status is Status.COMPLETED

    def with_transcript(self, transcript: Transcript) -> Outcome:
        """The same outcome with the fields that a transcript gives."""
        return replace(self, **transcript_fields(transcript))

    def to_json(self) -> dict[str, Any]:
        """The outcome with native types, absent fields left out: what the channel carries.

        A completed outcome always has its `text`, `events` and `segments`, empty or not.
        """
        value: dict[str, Any] = json.loads(self.dumps())
        return value

    def dumps(self) -> str:
        """The JSON text of `to_json`; the metadata stands in it byte for byte as it was sent."""
        return to_json_text(self.encode())

    def encode(self) -> dict[str, str]:
        """The fields of the stream entry: every value a UTF-8 string."""
        entry: dict[str, str] = {}
        for name in _FIELDS:
            if text := _text(name, getattr(self, name)):
                entry[name] = text
        if self.completed:
            for name, nothing in _ALWAYS.items():
                entry.setdefault(name, nothing)
        return entry


def transcript_fields(transcript: Transcript) -> dict[str, Any]:
    """The fields of an outcome that a transcript gives."""
    return {
        "text": transcript.text,
        "language": transcript.language,
        "emotion": transcript.emotion,
        "events": transcript.events,
        "segments": transcript.segments,
        "confidence": transcript.confidence,
        "duration": transcript.duration,
    }


def to_json_text(entry: Mapping[str, str]) -> str:
    """The JSON object that says the same as the fields of an encoded outcome."""
    members = [
        f'"{name}":{value if name in _NATIVE else encode_basestring(value)}'
        for name, value in entry.items()
    ]
    return f"{{{','.join(members)}}}"


def outcome_from_entry(raw: Mapping[bytes, bytes], *, defer: bool = False) -> Outcome:
    """The outcome in an entry of the transcripts stream.

    With `defer` its segments are read, and may raise, at the first access.

    Raises:
        PipelineError: No worker of this contract wrote the entry.
    """
    value: dict[str, Any] = {
        name: text.decode("utf-8", "replace")
        for key, text in raw.items()
        if text and (name := _FIELD_NAMES.get(key))
    }
    try:
        if "events" in value:
            value["events"] = _events(value["events"])
        if "warnings" in value:
            value["warnings"] = read_warnings(value["warnings"])
        outcome = _outcome(value)
    except MALFORMED as error:
        raise PipelineError(
            f"an entry of the transcripts stream is no outcome: {error!r}"
        ) from None
    if not defer:
        outcome.segments  # noqa: B018  (read here, so that an error is raised here)
    return outcome


def outcome_from_json(text: str | bytes) -> Outcome:
    """The outcome in a message of the channel; `PipelineError` if it is none."""
    try:
        sent = json.loads(text)
        value = {name: sent[name] for name in _FIELDS if name in sent}
        if "metadata" in value:
            value["metadata"] = json.dumps(value["metadata"], ensure_ascii=False)
        if "events" in value:
            value["events"] = tuple(str(event) for event in value["events"])
        if "segments" in value:
            value["segments"] = tuple(map(Segment.from_json, value["segments"]))
        if "warnings" in value:
            value["warnings"] = warnings_from_json(value["warnings"])
        return _outcome(value)
    except MALFORMED as error:
        raise PipelineError(f"a message of the channel is no outcome: {error!r}") from None


def _outcome(value: dict[str, Any]) -> Outcome:
    """From native types or their text; without the fields of later versions."""
    for name, convert in _CONVERT.items():
        if name in value:
            value[name] = convert(value[name])
    return Outcome(**value)


def _text(name: str, value: Any) -> str:
    """The value of a field as it is sent: what is no string as JSON, empty what is absent."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if name == "segments":
        text = (value if isinstance(value, Segments) else Segments(value)).json
    elif name == "events":
        text = _events_text(tuple(value))
    elif name == "warnings":
        text = write_warnings(tuple(value)) if value else ""
    else:
        return repr(value)
    return "" if text == "[]" else text


@lru_cache(maxsize=256)  # there are few different ones
def _events(text: str) -> tuple[str, ...]:
    return tuple(str(event) for event in json.loads(text))


@lru_cache(maxsize=256)
def _events_text(events: tuple[str, ...]) -> str:
    return _write(events)


_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
# What a completed outcome has, empty or not.
_ALWAYS = {"text": "", "events": "[]", "segments": "[]"}
# Fields whose text is JSON already.
_NATIVE = frozenset(
    (
        *("events", "segments", "confidence", "duration", "warnings", "attempt", "metadata"),
        *("submitted_at", "started_at", "finished_at"),
    )
)
_FIELDS = tuple(field.name for field in fields(Outcome))
_FIELD_NAMES = {name.encode(): name for name in _FIELDS}
_CONVERT: dict[str, Any] = {
    "status": Status,
    "cache": CacheUse,
    "error": ErrorCode.parse,
    "confidence": float,
    "duration": float,
    **dict.fromkeys(("submitted_at", "started_at", "finished_at", "attempt"), int),
}
