"""Recordings in other voices: the WORLD vocoder moves pitch and formants apart from each other.

Playing a take faster moves both together, and masks nothing of what a speaker's pitch does to the
mel bands of low vowels. Here each take is said again at other pitches by other vocal tracts.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from typing import Final

import numpy as np
import pyworld  # type: ignore[import-untyped]
import soxr
from numpy.typing import NDArray

from training.features import SAMPLE_RATE

Floats = NDArray[np.float32]

__all__ = ["VOICES", "in_other_voices"]

Take = tuple[Floats, int]  # samples in ±1, and their rate

_CHUNK: Final = 60
# Factors of pitch, of formants, and of pace.
VOICES: Final = (
    (0.65, 0.94, 1.0),
    (0.78, 1.07, 0.9),
    (0.88, 0.88, 1.1),
    (1.2, 0.95, 0.85),
    (1.35, 1.1, 1.0),
    (1.6, 1.18, 1.1),
)


def in_other_voices(takes: list[Take], processes: int = 2) -> list[list[Floats]]:
    """Each take in each of `VOICES`, in ±1 at 16 kHz.

    Every chunk of takes has a fresh process: what WORLD makes of a take depends on what its
    process did before.
    """
    chunks = [takes[start : start + _CHUNK] for start in range(0, len(takes), _CHUNK)]
    with ThreadPoolExecutor(processes) as threads:
        return [said for part in threads.map(_in_fresh_process, chunks) for said in part]


def _in_fresh_process(takes: list[Take]) -> list[list[Floats]]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
        return one.submit(_revoice_all, takes).result()


def _revoice_all(takes: list[Take]) -> list[list[Floats]]:
    return [_revoice(*take) for take in takes]


def _revoice(samples: Floats, rate: int) -> list[Floats]:
    sound = samples.astype(np.float64)
    rough, times = pyworld.dio(sound, rate)
    pitch = pyworld.stonemask(sound, rough, times, rate)
    envelope = pyworld.cheaptrick(sound, pitch, times, rate)
    breath = pyworld.d4c(sound, pitch, times, rate)
    said = []
    for pitch_factor, formant_factor, pace in VOICES:
        moved = _move_formants(envelope, formant_factor)
        period = pyworld.default_frame_period / pace
        voiced = pyworld.synthesize(pitch * pitch_factor, moved, breath, rate, period)
        said.append(np.asarray(soxr.resample(voiced, rate, SAMPLE_RATE), dtype=np.float32))
    return said


def _move_formants(envelope: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    bins = envelope.shape[1]
    places = np.minimum(np.arange(bins) / factor, bins - 1.0)
    below = np.minimum(places.astype(np.intp), bins - 2)
    share = places - below
    moved = np.exp(
        np.log(envelope[:, below]) * (1.0 - share) + np.log(envelope[:, below + 1]) * share
    )
    return np.ascontiguousarray(moved)
