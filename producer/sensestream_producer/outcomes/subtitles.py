"""Subtitles of an outcome: SubRip (srt) and WebVTT (vtt).

One cue a segment. A segment that is too long for two lines of 42 columns, or for 7 s, is cut
between words, at the words' own times where the model gives them. A word that is too long itself (a
run of digits, Korean without spaces) is cut between digits, or syllables, in proportion to its
length.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from sensestream_common.contract.outcome import Outcome
from sensestream_common.contract.transcript import Segment, Word

__all__ = ["Cue", "cues", "srt", "vtt"]

MAX_COLUMNS = 42  # of a line; a Chinese or Japanese character takes two
MAX_LINES = 2
MAX_SECONDS = 7.0  # longest time of a cue; usual among broadcasters
_SHORTEST = 0.001  # the formats count milliseconds, and a cue must end after it begins


@dataclass(frozen=True, slots=True)
class Cue:
    """Lines shown from `start` to `end`, in seconds from the beginning of the recording."""

    start: float
    end: float
    lines: tuple[str, ...]


def srt(outcome: Outcome) -> str:
    """The outcome as SubRip."""
    blocks = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines)
        for number, cue in enumerate(cues(outcome), 1)
    ]
    return "".join(block + "\n\n" for block in blocks)


def vtt(outcome: Outcome) -> str:
    """The outcome as WebVTT; text is escaped, so that no word is taken for markup."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n"
        + "\n".join(_escape(line) for line in cue.lines)
        for cue in cues(outcome)
    ]
    return "WEBVTT\n\n" + "".join(block + "\n\n" for block in blocks)


def cues(outcome: Outcome) -> list[Cue]:
    """The cues of an outcome, in its order; none for silence."""
    segments = outcome.segments
    if not segments and outcome.text.strip():
        segments = (Segment(0.0, outcome.duration or 0.0, outcome.text),)
    return [_cue(piece) for segment in segments for piece in _pieces(segment)]


def _cue(piece: Segment) -> Cue:
    end = min(max(piece.end, piece.start + _SHORTEST), piece.start + MAX_SECONDS)
    return Cue(piece.start, end, tuple(_wrap(piece.text)))


def _pieces(segment: Segment) -> Iterator[Segment]:
    """The segment in pieces, each of as many words as fit."""
    words = [part for word in _words(segment) for part in _cut(word)]
    spaced = _spaced(segment.text, words)
    first = 0
    for index in range(1, len(words) + 1):
        if index == len(words) or not _fits(words[first : index + 1], spaced[first : index + 1]):
            taken = words[first:index]
            start, end = taken[0].start, taken[-1].end
            # A whole segment keeps its own span where a cue may: the words' is shorter.
            if first == 0 and end - segment.start <= MAX_SECONDS:
                start = segment.start
            if index == len(words) and segment.end - start <= MAX_SECONDS:
                end = segment.end
            yield Segment(start, end, _join(taken, spaced[first:index]))
            first = index


def _fits(words: list[Word], spaced: list[bool]) -> bool:
    if words[-1].end - words[0].start > MAX_SECONDS:
        return False
    return len(_wrap(_join(words, spaced))) <= MAX_LINES


def _words(segment: Segment) -> list[Word]:
    """The segment's text in words with their times; guessed by length where it has none."""
    if segment.words and _squeezed(segment.words) == "".join(segment.text.split()):
        return list(segment.words)
    parts = [part for chunk in segment.text.split() for part in _breakable(chunk)]
    total = sum(map(len, parts)) or 1
    scale = max(segment.end - segment.start, 0.0) / total
    words, done = [], 0
    for part in parts:
        start, done = done, done + len(part)
        words.append(Word(segment.start + start * scale, segment.start + done * scale, part))
    return words


def _cut(word: Word) -> list[Word]:
    """A word in parts that fit a cue; the word itself where it does, or cannot be cut."""
    text = "".join(word.text.split())
    too_wide = len(_wrap(text)) > MAX_LINES
    if not too_wide and word.end - word.start <= MAX_SECONDS:
        return [word]
    # Letters are not spoken one by one: only too many of them are cut.
    parts = list(text) if too_wide else _syllables(text)
    scale = (word.end - word.start) / len(text)
    cut, done = [], 0
    for part in parts:
        start, done = done, done + len(part)
        cut.append(Word(word.start + start * scale, word.start + done * scale, part))
    return cut


def _syllables(text: str) -> list[str]:
    """Digits and wide characters by themselves, other characters together."""
    parts: list[str] = []
    for part in _breakable(text):
        for char in part:
            if parts and not (char.isdigit() or _columns(char) == 2):
                parts[-1] += char
            else:
                parts.append(char)
    return parts


def _squeezed(words: tuple[Word, ...]) -> str:
    return "".join("".join(word.text.split()) for word in words)


def _spaced(text: str, words: list[Word]) -> list[bool]:
    """For each word whether the text has a space before it."""
    spaced = []
    position = 0
    for word in words:
        found = len(text) - len(text[position:].lstrip())
        spaced.append(found > position)
        for char in "".join(word.text.split()):
            position = text.index(char, position) + 1
    return spaced


def _join(words: list[Word], spaced: list[bool]) -> str:
    parts = [
        (" " if space else "") + "".join(word.text.split())
        for word, space in zip(words, spaced, strict=True)
    ]
    return "".join(parts).strip()


def _breakable(text: str) -> list[str]:
    """Parts between which a line may end: wide characters stand alone, others together."""
    parts: list[str] = []
    glued = False
    for char in text:
        wide = _columns(char) == 2
        if parts and glued and not wide:
            parts[-1] += char
        elif parts and unicodedata.category(char).startswith(("P", "M")):
            parts[-1] += char  # a line does not begin with a mark
        else:
            parts.append(char)
        glued = not wide
    return parts


def _wrap(text: str) -> list[str]:
    """Lines of at most `MAX_COLUMNS`; a longer word is cut."""
    lines: list[str] = []
    line = ""
    for chunk in text.split():
        for index, part in enumerate(_breakable(chunk)):
            gap = " " if line and index == 0 else ""
            if line and _columns(line + gap + part) > MAX_COLUMNS:
                lines.append(line)
                line, gap = "", ""
            line += gap + part
            while _columns(line) > MAX_COLUMNS:
                head = _head(line)
                lines.append(head)
                line = line[len(head) :]
    return [*lines, line] if line else lines


def _head(line: str) -> str:
    width = 0
    for index, char in enumerate(line):
        width += _columns(char)
        if width > MAX_COLUMNS:
            return line[:index]
    return line


def _columns(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _clock(seconds: float, mark: str) -> str:
    milliseconds = max(0, round(seconds * 1000))
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{mark}{rest % 1000:03}"


def _escape(line: str) -> str:
    # "-->" cannot stand in a cue; with ">" escaped it does not.
    return line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
