"""One transcript from several pieces."""

from __future__ import annotations

import numpy as np
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.engine.decoding.ctc import Rows
from sensestream_consumer.engine.decoding.transcript import SegmentResult, assemble
from sensestream_consumer.engine.frontend import FrontendOptions
from sensestream_consumer.engine.model.vocabulary import Vocabulary
from sensestream_consumer.engine.segmentation.cutters import Piece

from tests.consumer.engine.models import TOKENS

VOCABULARY = Vocabulary(TOKENS)
SECOND = 16_000


def _result(
    start: int, stop: int, tags: list[str], *said: str, probability: float = 0.5
) -> SegmentResult:
    ids = np.array([TOKENS.index(token) for token in [*tags, "<|withitn|>", *said]])
    rows = Rows(ids, np.where(ids == 0, 0.0, probability).astype(np.float32))
    return SegmentResult.of(Piece(start * SECOND, stop * SECOND), rows, VOCABULARY)


def _assemble(*results: SegmentResult) -> Transcript:
    samples = results[-1].piece.stop
    return assemble(results, VOCABULARY, FrontendOptions(), hint="auto", samples=samples)


def test_language_and_emotion_are_those_of_most_of_the_speech() -> None:
    transcript = _assemble(
        _result(0, 5, ["<|zh|>", "<|HAPPY|>", "<|Speech|>"], "你"),
        _result(5, 8, ["<|en|>", "<|NEUTRAL|>", "<|Speech|>"], "▁hello"),
        _result(8, 11, ["<|en|>", "<|NEUTRAL|>", "<|BGM|>"], "▁hello"),
    )
    assert (transcript.language, transcript.emotion) == ("en", "NEUTRAL")
    assert transcript.events == ("Speech", "BGM")
    assert transcript.text == "你hello hello"


def test_a_long_silence_does_not_outvote_the_speech() -> None:
    transcript = _assemble(
        _result(0, 30, ["<|nospeech|>", "<|EMO_UNKNOWN|>", "<|BGM|>"], "你"),
        _result(30, 32, ["<|ko|>", "<|HAPPY|>", "<|Speech|>"]),
    )
    assert (transcript.language, transcript.emotion) == ("ko", "HAPPY")
    assert transcript.text == ""


def test_silence_from_end_to_end_is_no_speech() -> None:
    transcript = _assemble(
        _result(0, 30, ["<|nospeech|>", "<|EMO_UNKNOWN|>", "<|Event_UNK|>"]),
        _result(30, 60, ["<|nospeech|>", "<|EMO_UNKNOWN|>", "<|Event_UNK|>"]),
    )
    assert (transcript.language, transcript.emotion, transcript.events) == ("nospeech", "", ())


def test_confidence_weighs_every_row_of_every_piece() -> None:
    tags = ["<|en|>", "<|NEUTRAL|>", "<|Speech|>"]
    transcript = _assemble(
        _result(0, 5, tags, "▁hello", "▁hello", "s", probability=0.5),
        _result(5, 8, tags, "▁hello", "<|en|>", probability=0.9),
    )
    assert transcript.confidence == 0.6  # three rows of 0.5, one of 0.9; the tag does not count
