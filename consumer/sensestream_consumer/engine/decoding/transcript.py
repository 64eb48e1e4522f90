"""From the rows of a recording's pieces to its transcript."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensestream_common.contract.transcript import Transcript

from sensestream_consumer.engine.decoding.ctc import TAG_ROWS, collapse
from sensestream_consumer.engine.decoding.words import RowClock, join_texts, seconds, segments_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sensestream_consumer.engine.decoding.ctc import Rows, Token
    from sensestream_consumer.engine.frontend import FrontendOptions
    from sensestream_consumer.engine.model.vocabulary import Vocabulary
    from sensestream_consumer.engine.segmentation.cutters import Piece

__all__ = ["NO_SPEECH", "SegmentResult", "assemble"]

NO_SPEECH = "nospeech"
# The model's words for "I cannot tell". A transcript leaves the field empty instead.
_UNKNOWN = frozenset({"EMO_UNKNOWN", "Event_UNK"})


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """What the model says about one piece. An empty name: no tag, or one that means unknown."""

    piece: Piece
    tags: tuple[int, ...]  # ids of the four classification rows
    tokens: tuple[Token, ...]  # every CTC token, also those that are no text
    language: str
    emotion: str
    event: str

    @classmethod
    def of(cls, piece: Piece, rows: Rows, vocabulary: Vocabulary) -> SegmentResult:
        """Tags by name from the first four rows, tokens from the others."""
        tags = tuple(int(number) for number in rows.ids[:TAG_ROWS])
        names = [vocabulary.tag(number) for number in tags]
        language, emotion, event = ("" if name in _UNKNOWN else name for name in names[:3])
        return cls(piece, tags, tuple(collapse(rows)), language, emotion, event)

    @property
    def length(self) -> int:
        """Samples of the piece."""
        return self.piece.stop - self.piece.start


def assemble(
    results: Sequence[SegmentResult],
    vocabulary: Vocabulary,
    options: FrontendOptions,
    *,
    hint: str,
    samples: int,
) -> Transcript:
    """The transcript of a recording of so many samples from its pieces, in order.

    Language and emotion are those of most of the speech, by the length of the pieces; a piece
    tagged `nospeech` gives no text, and its tags count only where no piece has speech.
    `hint`, the language asked for, tells how words are written where the model names none.
    No results at all, where a voice activity model found no speech, are no speech too.
    """
    if not results:
        return Transcript(text="", language=NO_SPEECH, duration=seconds(samples))
    spoken = [result for result in results if result.language != NO_SPEECH]
    said = [(result, _text_tokens(result, vocabulary)) for result in spoken]
    texts = [vocabulary.text([token.id for token in tokens]) for _, tokens in said]
    segments = [
        segment
        for result, tokens in said
        for segment in segments_of(
            tokens, vocabulary, result.language or hint, RowClock.of(result.piece, options)
        )
    ]
    decisive = spoken or results
    return Transcript(
        text=join_texts(texts),
        language=_majority((result.language, result.length) for result in decisive),
        emotion=_majority((result.emotion, result.length) for result in decisive),
        events=tuple(dict.fromkeys(result.event for result in results if result.event)),
        segments=tuple(segments),
        confidence=_confidence([token for _, tokens in said for token in tokens]),
        duration=seconds(samples),
    )


def _text_tokens(result: SegmentResult, vocabulary: Vocabulary) -> list[Token]:
    return [token for token in result.tokens if vocabulary.is_text(token.id)]


def _majority(votes: Iterable[tuple[str, int]]) -> str:
    """The name with the most samples behind it, the earlier one of equals; empty for none."""
    weights: dict[str, int] = {}
    for name, weight in votes:
        if name:
            weights[name] = weights.get(name, 0) + weight
    return max(weights, key=lambda name: weights[name], default="")


def _confidence(tokens: Sequence[Token]) -> float | None:
    """The mean probability of the rows that emitted these tokens, to four decimals."""
    rows = sum(token.rows for token in tokens)
    if rows == 0:
        return None
    return round(sum(token.probability * token.rows for token in tokens) / rows, 4)
