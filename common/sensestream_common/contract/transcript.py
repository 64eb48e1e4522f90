"""Transcripts: the values that the engine gives and the cache keeps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from sensestream_common.contract.errors import PipelineError

__all__ = [
    "MALFORMED",
    "Segment",
    "Segments",
    "Transcript",
    "Word",
    "read_segments",
    "read_transcript",
]

# What reading JSON of another shape, or none, may raise.
MALFORMED = (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError)

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
        """The value as a JSON object."""
        return {"start": self.start, "end": self.end, "text": self.text}


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of speech: what a subtitle shows at once."""

    start: float  # seconds from the beginning of the recording
    end: float
    text: str
    words: tuple[Word, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The value as a JSON object."""
        value: dict[str, Any] = {"start": self.start, "end": self.end, "text": self.text}
        if self.words:
            value["words"] = [word.to_json() for word in self.words]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Segment:
        """The segment in a JSON object; one of `MALFORMED` if it is none."""
        words = [
            Word(float(word["start"]), float(word["end"]), str(word["text"]))
            for word in value.get("words", ())
        ]
        return cls(float(value["start"]), float(value["end"]), str(value["text"]), tuple(words))


class Segments(Sequence[Segment]):
    """The segments of one transcript inside a worker, kept as values, as JSON, or as both.

    JSON takes a tenth of the memory, and a transcript that answers many requests writes it once.
    """

    __slots__ = ("_json", "_read")

    def __init__(self, segments: Iterable[Segment] = ()) -> None:
        self._read: tuple[Segment, ...] | None = tuple(segments)
        self._json: str | None = None

    def light(self) -> Segments:
        """The same, kept as JSON alone; the values are read from it at the first access."""
        made = Segments()
        made._json, made._read = self.json, None
        return made

    @property
    def json(self) -> str:
        """The JSON list of them."""
        if self._json is None:
            self._json = _write([segment.to_json() for segment in self._all()])
        return self._json

    def _all(self) -> tuple[Segment, ...]:
        if self._read is None:
            self._read = read_segments(self._json or "[]")
        return self._read

    def __len__(self) -> int:
        return len(self._all())

    @overload
    def __getitem__(self, place: int) -> Segment: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Segment, ...]: ...
    def __getitem__(self, place: int | slice) -> Segment | tuple[Segment, ...]:
        return self._all()[place]

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Segments):
            return (self._json is not None and self._json == other._json) or (
                self._all() == other._all()
            )
        return self._all() == other if isinstance(other, tuple) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._all())

    def __repr__(self) -> str:
        return repr(self._all())


def read_segments(text: str) -> tuple[Segment, ...]:
    """The segments in a JSON list; `PipelineError` where it is none of them."""
    try:
        listed = json.loads(text)
        if not isinstance(listed, list):
            raise TypeError(f"{text[:80]!r} is no JSON list")
        return tuple(map(Segment.from_json, listed))
    except MALFORMED as error:
        raise PipelineError(f"the segments of an outcome are none: {error!r}") from None


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
    segments: Sequence[Segment] = ()
    confidence: float | None = None
    duration: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The value as a JSON object."""
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
        """The transcript in a JSON object; one of `MALFORMED` if it is none."""
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
        """The JSON text of `to_json`, as the cache keeps it."""
        return _write(self.to_json())

    @classmethod
    def loads(cls, text: str | bytes) -> Transcript:
        """The transcript in JSON text; one of `MALFORMED` if it is none."""
        return cls.from_json(json.loads(text))


def read_transcript(value: bytes) -> Transcript:
    """The transcript that the cache keeps as `value`; one of `MALFORMED` if it is none."""
    # Decoded here: the JSON decoder lets surrogates through, which cannot be sent on.
    transcript = Transcript.loads(value.decode())
    if b"\\ud" in value.lower():  # nor can an escaped one
        transcript.dumps().encode()
    return transcript
