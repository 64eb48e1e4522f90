"""Cutting long audio into pieces that the model can take at once.

A cutter decides where; everything behind it sees pieces only. `EnergyCutter` cuts at the
quietest moment near the limit and drops nothing; `SpeechCutter` cuts between the utterances that
a voice activity model found and leaves long silence out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sensestream_consumer.engine.frontend import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Cutter", "EnergyCutter", "Piece", "SpeechCutter", "VoiceActivity"]

# Attention's memory grows with the square of a piece's length: an hour at once asks for 54 GB.
MAX_PIECE_SECONDS = 30.0

_SEARCH_SECONDS = 10.0  # how far before the limit a pause is looked for
_SHORTEST_TAIL_SECONDS = 1.0  # no last piece too short to hold a word
_PAUSE_SECONDS = 0.2  # the length of silence that is compared
_STEP_SECONDS = 0.01

# Utterances are transcribed together up to this length, as SenseVoice's own instructions have it
# (merge_length_s=15): one by one they would lack context, longer ones cost more for each second.
_JOINED_SECONDS = 15.0
_LONGEST_PAUSE_SECONDS = 2.0  # a longer silence between two utterances is left out


@dataclass(frozen=True, slots=True)
class Piece:
    """Samples `start` to `stop` (excluded) of a recording."""

    start: int
    stop: int


class Cutter(Protocol):
    """Cuts a recording; thread-safe. `rule` names it in the recogniser's fingerprint."""

    @property
    def rule(self) -> str:
        """A name that changes with anything that may move a cut."""
        ...

    def cut(self, samples: NDArray[np.int16]) -> list[Piece]:
        """Pieces in order, without overlap, none longer than the model takes; perhaps none."""
        ...


class VoiceActivity(Protocol):
    """Finds speech; thread-safe. `identity` changes with anything that may move a boundary."""

    @property
    def identity(self) -> str:
        """A digest of the model and its settings."""
        ...

    def speech(self, samples: NDArray[np.int16]) -> list[tuple[int, int]]:
        """First sample and the one after the last of each utterance, in order."""
        ...


class EnergyCutter:
    """Cuts at the quietest fifth of a second in the ten seconds before the limit.

    Of equally quiet moments the last one counts. No sample is dropped.
    """

    def __init__(self, max_seconds: float = MAX_PIECE_SECONDS) -> None:
        self._limit = round(max_seconds * SAMPLE_RATE)
        self._search = min(round(_SEARCH_SECONDS * SAMPLE_RATE), self._limit // 2)
        self._tail = min(round(_SHORTEST_TAIL_SECONDS * SAMPLE_RATE), self._search // 2)
        self.rule = f"energy-1:{max_seconds:g}s"

    def cut(self, samples: NDArray[np.int16]) -> list[Piece]:
        """Pieces of int16[n] samples at 16 kHz that together hold every sample."""
        pieces = []
        start, end = 0, samples.shape[0]
        while end - start > self._limit:
            latest = min(start + self._limit, end - self._tail)
            earliest = latest - self._search
            stop = earliest + _quietest(samples[earliest:latest])
            pieces.append(Piece(start, stop))
            start = stop
        if end > start:
            pieces.append(Piece(start, end))
        return pieces


class SpeechCutter:
    """Cuts between utterances; what is short enough for one piece is not cut at all.

    Neighbouring utterances are joined while together they stay short and no long silence lies
    between them; an utterance longer than the limit is cut at its quietest moments.
    """

    def __init__(self, voice: VoiceActivity, max_seconds: float = MAX_PIECE_SECONDS) -> None:
        self._voice = voice
        self._within = EnergyCutter(max_seconds)
        self._limit = round(max_seconds * SAMPLE_RATE)
        self._joined = min(round(_JOINED_SECONDS * SAMPLE_RATE), self._limit)
        self._pause = round(_LONGEST_PAUSE_SECONDS * SAMPLE_RATE)
        self.rule = f"speech-1:{voice.identity}:{self._within.rule}"

    def cut(self, samples: NDArray[np.int16]) -> list[Piece]:
        """Pieces of int16[n] samples at 16 kHz; none where the model finds no speech."""
        if samples.shape[0] <= self._limit:
            return [Piece(0, samples.shape[0])] if samples.shape[0] else []
        return [
            Piece(start + piece.start, start + piece.stop)
            for start, stop in self._join(self._voice.speech(samples))
            for piece in self._within.cut(samples[start:stop])
        ]

    def _join(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        joined: list[tuple[int, int]] = []
        for start, stop in found:
            if joined:
                first, last = joined[-1]
                if start - last <= self._pause and stop - first <= self._joined:
                    joined[-1] = first, stop
                    continue
            joined.append((start, stop))
        return joined


def _quietest(samples: NDArray[np.int16]) -> int:
    """The middle of the quietest moment of int16[n], as an offset in samples."""
    step = round(_STEP_SECONDS * SAMPLE_RATE)
    steps = samples.shape[0] // step
    # Whole numbers, so that the same audio is cut alike on every processor.
    loudness = np.abs(samples[: steps * step].astype(np.int64)).reshape(steps, step).sum(axis=1)
    width = min(round(_PAUSE_SECONDS / _STEP_SECONDS), steps)
    total = np.concatenate(([0], np.cumsum(loudness)))
    windows = total[width:] - total[:-width]
    last = windows.size - 1 - windows[::-1].argmin()
    return int((last + width // 2) * step)
