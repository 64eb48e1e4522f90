"""The result of decoding: samples, and warnings about the bytes that they came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["DecodeWarning", "Decoded"]


@dataclass(frozen=True, slots=True)
class DecodeWarning:
    """One thing that a sender would want to know about a recording that was decoded all the same.

    Attributes:
        code: one of the codes in `docs/audio-sources.md`, such as `audio_truncated`.
        message: a sentence for a person: what was lost or guessed, from where, how much.
    """

    code: str
    message: str


class Decoded(NamedTuple):
    """Samples, int16[n], mono at 16 kHz, n at least 1, and the warnings about their bytes."""

    samples: NDArray[np.int16]
    warnings: tuple[DecodeWarning, ...]
