"""Variation of log-mel frames: cheap, and most of what makes the model robust.

All functions take and give float32 arrays of shape (frames, 80) in natural-log energies.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.features import MEL_BINS, mel_centres

__all__ = ["FLOOR", "Augmenter"]

Floats = NDArray[np.float32]

# Log energy of digital silence: the logarithm of the float's epsilon.
FLOOR: Final = -15.9424
_POOL_FRAMES: Final = 20000
_WARPS: Final = np.linspace(0.83, 1.19, 25)
_MASK_FRAMES: Final = 6
_MASK_BINS: Final = 9


def _warp_matrices() -> list[Floats]:
    """For each factor, the interpolation that reads bin k from the frequency f_k * factor."""
    centres = mel_centres()
    matrices = []
    for factor in _WARPS:
        place = np.interp(centres * factor, centres, np.arange(MEL_BINS))
        below = np.minimum(place.astype(int), MEL_BINS - 2)
        share = place - below
        matrix = np.zeros((MEL_BINS, MEL_BINS), dtype=np.float32)
        matrix[below, np.arange(MEL_BINS)] = 1.0 - share
        matrix[below + 1, np.arange(MEL_BINS)] += share
        matrices.append(matrix)
    return matrices


class Augmenter:
    """Draws variations; holds the pool of noise that they mix in."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 77])
        # The energy of noise in a mel bin varies as chi-square, less in wide bins.
        freedom = np.linspace(1.0, 6.0, MEL_BINS)
        pool = rng.gamma(freedom, size=(_POOL_FRAMES, MEL_BINS)) / freedom
        self._noise_pool = np.log(np.maximum(pool, 1e-4)).astype(np.float32)
        self._warp = _warp_matrices()
        self._bins = np.linspace(0.0, 1.0, MEL_BINS)

    def vary(self, rng: np.random.Generator, mel: Floats, others: Floats | None = None) -> Floats:
        """One variation of speech; `others` is speech to hear faintly behind it."""
        if rng.random() < 0.7:
            mel = _stretch(mel, rng.uniform(0.82, 1.22))
        if rng.random() < 0.75:
            mel = mel @ self._warp[int(rng.integers(len(self._warp)))]
        mel = _pad(rng, mel)
        if rng.random() < 0.2:
            mel = _reverberate(rng, mel)
        mel = mel + self._equaliser(rng, 1.2)
        if rng.random() < 0.35:
            mel = self._cut_band(rng, mel)
        mel = mel + np.float32(rng.normal(0.0, 2.0))
        level = float(np.quantile(mel.mean(axis=1), 0.9))
        if others is not None:
            mel = _mix(mel, _fit(others, len(mel)) + (level - rng.uniform(3.0, 7.0)) - others.max())
        if rng.random() < 0.75:
            noise = self.noise(rng, len(mel), level - rng.uniform(0.0, 12.0))
            mel = _mix(mel, noise)
        mel = np.maximum(mel, np.float32(FLOOR))
        return self._mask(rng, mel)

    def noise(self, rng: np.random.Generator, count: int, level: float) -> Floats:
        """Noise of a random colour whose mean log energy is `level`, shape (count, 80)."""
        start = int(rng.integers(_POOL_FRAMES - count))
        colour = self._equaliser(rng, 1.5) + rng.normal(0.0, 1.5) * (self._bins - 0.5)
        noise = self._noise_pool[start : start + count] + colour + np.float32(level)
        if rng.random() < 0.2:
            swell = np.sin(np.arange(count) * rng.uniform(0.005, 0.2) + rng.uniform(0.0, 6.0))
            noise = noise + (rng.uniform(0.2, 1.5) * swell)[:, None]
        return noise.astype(np.float32)

    def nothing(self, rng: np.random.Generator) -> Floats:
        """Silence, noise, or clicks in either."""
        count = int(rng.integers(20, 350))
        if rng.random() < 0.15:
            mel = np.full((count, MEL_BINS), FLOOR, dtype=np.float32)
        else:
            mel = self.noise(rng, count, rng.uniform(-12.0, 18.0))
        if rng.random() < 0.3:
            for _ in range(int(rng.integers(1, 8))):
                self._add_click(rng, mel)
        return np.maximum(mel, np.float32(FLOOR))

    def _add_click(self, rng: np.random.Generator, mel: Floats) -> None:
        start, length = int(rng.integers(len(mel))), int(rng.integers(2, 25))
        decay = -np.arange(length)[:, None] * rng.uniform(0.05, 1.0)
        click = rng.uniform(6.0, 18.0) + self._equaliser(rng, 2.0) + decay
        part = mel[start : start + length]
        mel[start : start + length] = np.logaddexp(part, click[: len(part)])

    def _equaliser(self, rng: np.random.Generator, depth: float) -> Floats:
        waves = np.arange(1, 5)[:, None]
        phases = rng.uniform(0.0, 2 * np.pi, (4, 1))
        heights = rng.normal(0.0, depth / 2, (4, 1)) / np.sqrt(waves)
        curve = (heights * np.cos(np.pi * waves * self._bins + phases)).sum(axis=0)
        return np.asarray(curve, dtype=np.float32)

    def _cut_band(self, rng: np.random.Generator, mel: Floats) -> Floats:
        centres = mel_centres()
        drop = np.zeros(MEL_BINS)
        octaves_over = np.log2(np.maximum(centres / rng.uniform(3000.0, 4200.0), 1e-3))
        drop -= np.maximum(octaves_over, 0.0) * rng.uniform(20.0, 80.0)
        if rng.random() < 0.4:
            drop -= np.maximum(np.log2(rng.uniform(100.0, 350.0) / centres), 0.0) * 4.0
        floor = rng.uniform(FLOOR, -2.0)
        cut = mel + np.maximum(drop, -30.0)
        return np.asarray(np.where(drop < 0, np.maximum(cut, floor), cut), dtype=np.float32)

    def _mask(self, rng: np.random.Generator, mel: Floats) -> Floats:
        if rng.random() < 0.5:
            mel = mel.copy()
            mean = mel.mean()
            for _ in range(int(rng.integers(1, 3))):
                low, width = int(rng.integers(MEL_BINS)), int(rng.integers(1, _MASK_BINS))
                mel[:, low : low + width] = mean
            if len(mel) > 60:
                start, width = int(rng.integers(len(mel))), int(rng.integers(1, _MASK_FRAMES))
                mel[start : start + width] = mean
        return mel


def _stretch(mel: Floats, factor: float) -> Floats:
    places = np.linspace(0.0, len(mel) - 1.0, max(2, round(len(mel) * factor)))
    below = np.minimum(places.astype(int), max(0, len(mel) - 2))
    share = (places - below).astype(np.float32)[:, None]
    above = np.minimum(below + 1, len(mel) - 1)
    return np.asarray(mel[below] * (1.0 - share) + mel[above] * share, dtype=np.float32)


def _pad(rng: np.random.Generator, mel: Floats) -> Floats:
    """Quiet before and after: digital silence, or the clip's own faintest frames."""
    if rng.random() < 0.3:
        return mel
    before, after = (int(rng.choice([0, 5, 20, 60]) * rng.random()) for _ in range(2))
    quiet = np.full(MEL_BINS, FLOOR, dtype=np.float32)
    if rng.random() < 0.6:
        quiet = np.quantile(mel[::4], 0.05, axis=0).astype(np.float32)
    return np.concatenate([np.tile(quiet, (before, 1)), mel, np.tile(quiet, (after, 1))])


def _reverberate(rng: np.random.Generator, mel: Floats) -> Floats:
    """Each frame leaves a tail that decays within 0.1 to 0.6 s."""
    decay = np.float32(np.exp(-13.8 / rng.uniform(10.0, 60.0)))
    share = np.float32(rng.uniform(0.05, 0.5))
    power = np.exp(np.minimum(mel, 40.0))
    tail = np.zeros(MEL_BINS, dtype=np.float32)
    wet = np.empty_like(power)
    for number, frame in enumerate(power):
        wet[number] = frame + share * tail
        tail = decay * (tail + frame)
    return np.log(np.maximum(wet, 1e-12)).astype(np.float32)


def _fit(mel: Floats, count: int) -> Floats:
    return np.resize(mel, (count, MEL_BINS))


def _mix(one: Floats, other: Floats) -> Floats:
    return np.logaddexp(one, other).astype(np.float32)
