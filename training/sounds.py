"""Sounds without speech, as waveforms: music-like tones, beeps and noises of several colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.features import SAMPLE_RATE

__all__ = ["coloured_noise", "tones"]

Floats = NDArray[np.float32]


def coloured_noise(rng: np.random.Generator, seconds: float) -> Floats:
    """Noise with a random spectral tilt, at a random level, slowly swelling or steady."""
    count = int(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / SAMPLE_RATE), 20.0)
    shaped = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.0, 1.0), count)
    swell = 1.0 + rng.uniform(0.0, 0.9) * np.sin(
        2 * np.pi * rng.uniform(0.2, 4.0) * np.arange(count) / SAMPLE_RATE
    )
    level = 10.0 ** rng.uniform(-3.5, -0.7)
    swelling = shaped * swell
    return np.asarray(swelling * level / (np.abs(swelling).max() + 1e-9), dtype=np.float32)


def tones(rng: np.random.Generator, seconds: float) -> Floats:
    """Notes one after another or in chords, with overtones, decay and vibrato."""
    count = int(seconds * SAMPLE_RATE)
    sound = np.zeros(count)
    length = rng.uniform(0.08, 0.8)
    starts = np.arange(0.0, seconds, length)
    root = rng.uniform(90.0, 700.0)
    for start in starts:
        for _ in range(int(rng.integers(1, 4))):
            pitch = root * 2.0 ** (rng.integers(-12, 13) / 12)
            _add_note(rng, sound, int(start * SAMPLE_RATE), pitch, length * rng.uniform(0.6, 2.5))
    level = 10.0 ** rng.uniform(-1.5, -0.2)
    return np.asarray(sound * level / (np.abs(sound).max() + 1e-9), dtype=np.float32)


def _add_note(
    rng: np.random.Generator, sound: NDArray[np.float64], start: int, pitch: float, length: float
) -> None:
    count = min(int(length * SAMPLE_RATE), len(sound) - start)
    if count <= 0:
        return
    time = np.arange(count) / SAMPLE_RATE
    wobble = rng.uniform(0.0, 0.01) * np.sin(2 * np.pi * rng.uniform(3, 7) * time)
    phase = 2 * np.pi * pitch * (time + wobble / 5)
    dull = rng.uniform(0.3, 1.0)
    note = sum(dull**overtone * np.sin(overtone * phase) for overtone in range(1, 8))
    envelope = np.minimum(1.0, time / 0.01) * np.exp(-time * rng.uniform(0.0, 6.0) / length)
    sound[start : start + count] += note * envelope * rng.uniform(0.3, 1.0)
