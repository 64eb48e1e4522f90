"""What was heard in a recording: the value that the engine gives and the cache keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

__all__ = ["Segment", "Segments", "Transcript", "Word"]

_write = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Word(NamedTuple):
    """One word (in Chinese, Cantonese and Japanese: one character) and when it was spoken.

    A tuple, because there are three in every second of speech and it is made in a third of the
    time that a frozen dataclass takes.
    """

    start: float  # seconds from the beginning of the recording
    end: float
    text: str

    def to_json(self) -> dict[str, Any]:
        return {"start": self.start, "end": self.end, "text": self.text}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech: what a subtitle shows at once."""

    start: float  # seconds from the beginning of the recording
    end: float
    text: str
    words: tuple[Word, ...] = ()

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"start": self.start, "end": self.end, "text": self.text}
        if self.words:
            value["words"] = [word.to_json() for word in self.words]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Segment:
        words = [
            Word(float(word["start"]), float(word["end"]), str(word["text"]))
            for word in value.get("words", ())
        ]
        return cls(float(value["start"]), float(value["end"]), str(value["text"]), tuple(words))


class Segments(tuple[Segment, ...]):  # noqa: SLOT001  (what is written once has to lie somewhere)
    """The segments of one transcript, which write themselves once, however often they go out."""

    @cached_property
    def json(self) -> str:
        """The JSON list of them."""
        return _write([segment.to_json() for segment in self])


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of a recording with what SenseVoice says about it.

    `language`, `emotion` and `events` are the names inside the model's tags (`zh`, `NEUTRAL`,
    `Speech`); empty where the model gave none. `confidence` is the mean top-1 probability of
    the emitted tokens, 0 to 1, `None` where nothing was emitted. `duration` is in seconds.
    """

    text: str
    language: str = ""
    emotion: str = ""
    events: tuple[str, ...] = ()
    segments: tuple[Segment, ...] = ()
    confidence: float | None = None
    duration: float = 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "text": self.text,
            "language": self.language,
            "emotion": self.emotion,
            "events": list(self.events),
            "segments": [segment.to_json() for segment in self.segments],
            "confidence": self.confidence,
            "duration": self.duration,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Transcript:
        """The transcript in a JSON object; `KeyError`, `TypeError`, `ValueError` if none."""
        confidence = value["confidence"]
        return cls(
            text=str(value["text"]),
            language=str(value["language"]),
            emotion=str(value["emotion"]),
            events=tuple(str(event) for event in value["events"]),
            segments=Segments(Segment.from_json(segment) for segment in value["segments"]),
            confidence=None if confidence is None else float(confidence),
            duration=float(value["duration"]),
        )

    def dumps(self) -> str:
        return _write(self.to_json())

    @classmethod
    def loads(cls, text: str | bytes) -> Transcript:
        return cls.from_json(json.loads(text))
