"""Outcomes in the response formats of OpenAI's transcription API."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Collection, Iterator
from typing import Any

from sensestream_common.contract.outcome import Outcome
from sensestream_common.contract.transcript import Segment

from sensestream_producer.outcomes.subtitles import srt, vtt

__all__ = ["FORMATS", "body_of", "events_of"]

_LANGUAGES = {
    "zh": "chinese",
    "en": "english",
    "yue": "cantonese",
    "ja": "japanese",
    "ko": "korean",
}
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
# Response formats and their media types.
FORMATS = {"json": _JSON, "verbose_json": _JSON, "text": _TEXT, "srt": _TEXT, "vtt": _TEXT}


def body_of(outcome: Outcome, response_format: str, granularities: Collection[str]) -> str:
    """The body of a response in one of `FORMATS`.

    `granularities` with "word" adds words to verbose_json.
    """
    if response_format == "text":
        return outcome.text + "\n"
    if response_format == "srt":
        return srt(outcome)
    if response_format == "vtt":
        return vtt(outcome)
    content = {"text": outcome.text, "usage": _usage(outcome)}
    if response_format == "verbose_json":
        content |= _details(outcome, granularities)
    return json.dumps(content, ensure_ascii=False)


def events_of(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """The events of a streamed response: a delta for each segment, then the whole text.

    The deltas together equal the text, white space included.
    """
    position = 0
    for segment in outcome.segments:
        found = outcome.text.find(segment.text.strip(), position)
        if found < 0:
            continue
        end = found + len(segment.text.strip())
        if outcome.text[position:end]:
            yield {"type": "transcript.text.delta", "delta": outcome.text[position:end]}
        position = end
    if outcome.text[position:]:
        yield {"type": "transcript.text.delta", "delta": outcome.text[position:]}
    yield {"type": "transcript.text.done", "text": outcome.text, "usage": _usage(outcome)}


def _usage(outcome: Outcome) -> dict[str, Any]:
    return {"type": "duration", "seconds": outcome.duration or 0.0}


def _details(outcome: Outcome, granularities: Collection[str]) -> dict[str, Any]:
    content: dict[str, Any] = {
        "task": "transcribe",
        "language": _LANGUAGES.get(outcome.language, outcome.language or "unknown"),
        "duration": outcome.duration or 0.0,
        "segments": [
            _segment(number, segment, outcome) for number, segment in enumerate(outcome.segments)
        ],
    }
    if "word" in granularities:
        content["words"] = [
            {"word": word.text, "start": word.start, "end": word.end}
            for segment in outcome.segments
            for word in segment.words
        ]
    if outcome.warnings:  # not OpenAI's
        content["warnings"] = [warning.to_json() for warning in outcome.warnings]
    return content


def _segment(number: int, segment: Segment, outcome: Outcome) -> dict[str, Any]:
    """A segment with Whisper's fields; `tokens` stays empty, since they are another model's."""
    text = segment.text.encode()
    return {
        "id": number,
        "seek": round(segment.start * 100),  # in Whisper's frames of 10 ms
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": math.log(max(outcome.confidence or 1.0, 1e-9)),
        "compression_ratio": len(text) / len(zlib.compress(text)) if text else 0.0,
        "no_speech_prob": 1.0 if outcome.language == "nospeech" else 0.0,
    }
