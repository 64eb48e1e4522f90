"""From CTC tokens to words and segments with times.

Times come from the rows that emitted a token, never from the text. A feature row stacks seven
frames around every sixth one, so row `k` is centred on the middle of frame `6 k` and stands for
the 60 ms around it: from `60 k - 17.5` to `60 k + 42.5` ms of the piece.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensestream_common.contract.transcript import Segment, Word

from sensestream_consumer.engine.frontend import SAMPLE_RATE
from sensestream_consumer.engine.model.vocabulary import SPACE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sensestream_consumer.engine.decoding.ctc import Token
    from sensestream_consumer.engine.frontend import FrontendOptions
    from sensestream_consumer.engine.model.vocabulary import Vocabulary
    from sensestream_consumer.engine.segmentation.cutters import Piece

__all__ = ["RowClock", "join_texts", "seconds", "segments_of"]

_WITHOUT_SPACES = frozenset({"zh", "yue", "ja"})
_SENTENCE_ENDS = frozenset("。！？.!?…")
_INSIDE_WORDS = frozenset("'’-")
_PAUSE = SAMPLE_RATE  # samples of silence, a second, that end a word which no space ends
# Scripts written without spaces: kana, ideographs and their extensions, halfwidth kana.
_UNSPACED_SCRIPTS = (
    (0x3040, 0x30FF),
    (0x31F0, 0x31FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, slots=True)
class RowClock:
    """When the rows of one piece were spoken; everything in samples of the recording."""

    piece: Piece
    row_shift: int
    frame_length: int

    @classmethod
    def of(cls, piece: Piece, options: FrontendOptions) -> RowClock:
        """The clock of one piece."""
        return cls(piece, options.row_shift, options.frame_length)

    def start(self, row: int) -> int:
        """Where the row's time begins, never outside the piece."""
        at = self.piece.start + row * self.row_shift + (self.frame_length - self.row_shift) // 2
        return min(max(at, self.piece.start), self.piece.stop)

    def end(self, row: int) -> int:
        """Where the row's time ends."""
        return self.start(row + 1)


def seconds(samples: int) -> float:
    """Seconds, to the millisecond."""
    return round(samples / SAMPLE_RATE, 3)


def segments_of(
    tokens: Sequence[Token], vocabulary: Vocabulary, language: str, clock: RowClock
) -> tuple[Segment, ...]:
    """The sentences of a piece with their words; no tokens give no segments.

    In Chinese, Cantonese and Japanese a word is one character, elsewhere what stands between
    spaces. A pause of a second ends a word as well: a number that is read digit by digit is written
    without spaces. Punctuation belongs to the word before it and takes no time of its own.
    """
    segments = []
    sentence: list[list[Token]] = []
    for group in _group(tokens, vocabulary, clock, unspaced=language in _WITHOUT_SPACES):
        sentence.append(group)
        if _text(group, vocabulary)[-1:] in _SENTENCE_ENDS:
            segments.extend(_segment(sentence, vocabulary, clock))
            sentence = []
    segments.extend(_segment(sentence, vocabulary, clock))
    return tuple(segments)


def join_texts(texts: Sequence[str]) -> str:
    """One text of several, with a space between them except in scripts that have none."""
    joined = ""
    for text in filter(None, texts):
        spaced = joined and not (_is_unspaced(joined[-1]) or _is_unspaced(text[0]))
        joined += f" {text}" if spaced else text
    return joined


def _group(
    tokens: Sequence[Token], vocabulary: Vocabulary, clock: RowClock, *, unspaced: bool
) -> list[list[Token]]:
    groups: list[list[Token]] = []
    before, spoken_until = "", 0
    for token in tokens:
        text = vocabulary.tokens[token.id]
        mark = _is_mark(text)
        paused = not mark and clock.start(token.first) - spoken_until >= _PAUSE
        if groups and not paused and _continues(before, text, unspaced=unspaced):
            groups[-1].append(token)
        else:
            groups.append([token])
        before = text
        spoken_until = spoken_until if mark else clock.end(token.last)
    return groups


def _continues(before: str, text: str, *, unspaced: bool) -> bool:
    """Whether a token goes on with the word whose last token is `before`."""
    if text.startswith(SPACE):
        return False
    if _is_mark(text):
        return True
    if before == SPACE:
        return not _is_unspaced(text[0])
    if _is_unspaced(text[0]) or _is_unspaced(before[-1]):
        return False
    # Among characters, letters go on with a foreign word: `it`, `'`, `s`.
    return not unspaced or (
        text[0].isalpha() and (before[-1].isalpha() or before[-1] in _INSIDE_WORDS)
    )


def _segment(sentence: list[list[Token]], vocabulary: Vocabulary, clock: RowClock) -> list[Segment]:
    words = [word for group in sentence for word in _words(group, vocabulary, clock)]
    if not words:
        return []
    text = _text([token for group in sentence for token in group], vocabulary)
    return [Segment(words[0].start, words[-1].end, text, tuple(words))]


def _words(group: list[Token], vocabulary: Vocabulary, clock: RowClock) -> list[Word]:
    text = _text(group, vocabulary)
    if not text:
        return []
    timed = [token for token in group if not _is_mark(vocabulary.tokens[token.id])] or group[:1]
    start, end = clock.start(timed[0].first), clock.end(timed[-1].last)
    parts = _characters(text)
    share = [start + (end - start) * number // len(parts) for number in range(len(parts) + 1)]
    return [
        Word(seconds(share[number]), seconds(share[number + 1]), part)
        for number, part in enumerate(parts)
    ]


def _characters(text: str) -> list[str]:
    """Each character of an unspaced script by itself, with what follows it; else the text."""
    parts: list[str] = []
    for character in text:
        if parts and not _is_unspaced(character):
            parts[-1] += character
        else:
            parts.append(character)
    return parts


def _text(tokens: list[Token], vocabulary: Vocabulary) -> str:
    return vocabulary.text([token.id for token in tokens])


def _is_mark(text: str) -> bool:
    """Punctuation or another sign: nothing in it is spoken as a letter or digit."""
    return text != SPACE and not any(character.isalnum() for character in text)


def _is_unspaced(character: str) -> bool:
    code = ord(character)
    return any(first <= code <= last for first, last in _UNSPACED_SCRIPTS)
