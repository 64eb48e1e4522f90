"""Real recordings of spoken digits, from the Free Spoken Digit Dataset (CC BY-SA 4.0).

Files are named `{digit}_{speaker}_{take}.wav`, 8 kHz mono. The last takes of each speaker are
never trained on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.corpus import Corpus, Label, join
from training.features import SAMPLE_RATE, log_mel
from training.voices import VOICES, in_other_voices

__all__ = [
    "FIRST_HELD_OUT_TAKE",
    "PROMPTS",
    "Recording",
    "SpeakerBank",
    "build_voices",
    "read_prompts",
    "read_recordings",
    "splice",
]

Floats = NDArray[np.float32]

FIRST_HELD_OUT_TAKE: Final = 45
_NAME: Final = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
# Playing faster or slower shifts the pitch as well: each take counts as several voices.
_SPEEDS: Final = (0.82, 0.91, 1.0, 1.1, 1.21)
# The vocoder takes a tenth of a second a take, and neighbouring takes sound much the same.
_REVOICED_EVERY: Final = 2
PROMPTS: Final = Path("/usr/share/asterisk/sounds/en_US_f_Allison/digits")
# Quieter than this share of the loudest is the silence around a prompt.
_QUIET_SHARE: Final = 0.02


@dataclass(frozen=True)
class Recording:
    """One spoken digit, at its own sample rate."""

    digit: int
    speaker: str
    take: int
    samples: Floats
    rate: int

    @property
    def held_out(self) -> bool:
        """Whether this take is kept for evaluation."""
        return self.take >= FIRST_HELD_OUT_TAKE

    def at_16k(self, speed: float = 1.0) -> Floats:
        """Samples in ±1 at 16 kHz, played at `speed` times the pace."""
        resampled = soxr.resample(self.samples, self.rate * speed, SAMPLE_RATE)
        return np.asarray(resampled, dtype=np.float32)


def read_recordings(folder: Path) -> list[Recording]:
    """All recordings of a folder, in the order of their names; ValueError if there are none."""
    found = []
    for path in sorted(folder.glob("*.wav")):
        if match := _NAME.fullmatch(path.name):
            samples, rate = soundfile.read(str(path), dtype="float32")
            digit, speaker, take = match.groups()
            found.append(Recording(int(digit), speaker, int(take), samples, rate))
    if not found:
        raise ValueError(
            f"no recordings named like 7_jackson_12.wav in {str(folder)!r}: clone "
            "Jakobovski/free-spoken-digit-dataset and name its folder `recordings` with --fsdd"
        )
    return found


def read_prompts(folder: Path = PROMPTS) -> list[Recording]:
    """Asterisk's digits, one take each of one woman, cut as closely as the recordings."""
    found = []
    for digit in range(10):
        path = folder / f"{digit}.wav"
        if not path.exists():
            raise ValueError(
                f"no spoken digit at {str(path)!r}: install Asterisk's English sounds "
                "(Debian: apt-get install asterisk-core-sounds-en-wav) or name their folder "
                "with --prompts"
            )
        samples, rate = soundfile.read(str(path), dtype="float32")
        loud = np.flatnonzero(np.abs(samples) > _QUIET_SHARE * np.abs(samples).max())
        trimmed = samples[loud[0] : loud[-1] + 1]
        found.append(Recording(digit, "allison", 0, trimmed, rate))
    return found


def build_voices(recordings: list[Recording]) -> Corpus:
    """Every other training take in other voices; the words of a label are digit and voice."""
    takes = [item for item in recordings if not item.held_out and item.take % _REVOICED_EVERY == 0]
    said = in_other_voices([(take.samples, take.rate) for take in takes])
    return join(
        [
            (Label("voice", take.speaker, (take.digit, number)), log_mel(voice).astype(np.float16))
            for take, voices in zip(takes, said, strict=True)
            for number, voice in enumerate(voices)
        ]
    )


class SpeakerBank:
    """Log-mel frames of the training takes, by speaker, voice and digit.

    A voice is a speed or, of the `voices` that `build_voices` made, another pitch and vocal tract.
    """

    def __init__(
        self, recordings: list[Recording], left_out: str | None, voices: Corpus | None = None
    ) -> None:
        kept = [item for item in recordings if not item.held_out and item.speaker != left_out]
        self.speakers = sorted({item.speaker for item in kept})
        self._mels: dict[tuple[str, int, int], list[Floats]] = {}
        for item in kept:
            for number, speed in enumerate(_SPEEDS):
                place = (item.speaker, number, item.digit)
                self._mels.setdefault(place, []).append(log_mel(item.at_16k(speed)))
        for place_in_corpus, label in enumerate(voices.labels if voices else ()):
            digit, number = label.words
            if label.language != left_out:
                place = (label.language, len(_SPEEDS) + number, digit)
                self._mels.setdefault(place, []).append(voices.mel(place_in_corpus))
        self._voices = len(_SPEEDS) + (len(VOICES) if voices else 0)

    def draw_string(self, rng: np.random.Generator, count: int) -> tuple[tuple[int, ...], Floats]:
        """Digits of one speaker at one speed, spliced with gaps: digits, frames (frames, 80)."""
        digits = tuple(int(digit) for digit in rng.integers(0, 10, count))
        return digits, self._splice(rng, digits)

    def draw_reversed(self, rng: np.random.Generator, count: int) -> Floats:
        """Real voices saying nothing: takes in reverse. Nine is left out, being its own mirror."""
        digits = tuple(int(digit) for digit in rng.integers(0, 9, count))
        return self._splice(rng, digits)[::-1].copy()

    def _splice(self, rng: np.random.Generator, digits: tuple[int, ...]) -> Floats:
        speaker = str(rng.choice(self.speakers))
        voice = int(rng.integers(self._voices))
        longest_gap = int(rng.choice([2, 8, 30]))
        parts = []
        for number, digit in enumerate(digits):
            takes = self._mels[speaker, voice, digit]
            mel = takes[int(rng.integers(len(takes)))]
            if number:
                quiet = np.quantile(mel, 0.05, axis=0)
                parts.append(np.tile(quiet, (int(rng.integers(longest_gap + 1)), 1)))
            parts.append(mel + np.float32(rng.normal(0.0, 0.4)))
        return np.concatenate(parts).astype(np.float32)


def splice(rng: np.random.Generator, takes: list[Recording]) -> Floats:
    """Takes one after another as samples, 0 to 200 ms of faint noise between, for evaluation."""
    parts = []
    for take in takes:
        pause = int(rng.integers(0, SAMPLE_RATE // 5))
        parts.append((1e-4 * rng.standard_normal(pause)).astype(np.float32))
        parts.append(take.at_16k())
    return np.concatenate(parts)
