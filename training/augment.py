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
_WARPS: Final = 120
_FACTORS: Final = (0.8, 1.24)
# How far, in bins, the first formants move on their own: accents differ in little else.
_BEND: Final = 1.2
_MASK_FRAMES: Final = 8
_MASK_BINS: Final = 10
_PACE_FRAMES: Final = 9
_RESONANCES: Final = 20


def _warps(rng: np.random.Generator) -> list[tuple[NDArray[np.intp], Floats]]:
    """Vocal tracts: where each bin reads, as the bin below and the share of the one above.

    Bin k reads from the frequency f_k * factor, and somewhat beside it.
    """
    centres = mel_centres()
    knots = np.linspace(0.0, MEL_BINS - 1.0, 8)
    warps = []
    for factor in np.geomspace(*_FACTORS, _WARPS):
        place = np.interp(centres * factor, centres, np.arange(MEL_BINS))
        bend = np.interp(np.arange(MEL_BINS), knots, rng.normal(0.0, _BEND, len(knots)))
        place = np.clip(place + bend, 0.0, MEL_BINS - 1.0)
        below = np.minimum(place.astype(np.intp), MEL_BINS - 2)
        warps.append((below, (place - below).astype(np.float32)))
    return warps


class Augmenter:
    """Draws variations; holds the pool of noise that they mix in."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 77])
        # The energy of noise in a mel bin varies as chi-square, less in wide bins.
        freedom = np.linspace(1.0, 6.0, MEL_BINS)
        pool = rng.gamma(freedom, size=(_POOL_FRAMES, MEL_BINS)) / freedom
        self._noise_pool = np.log(np.maximum(pool, 1e-4)).astype(np.float32)
        self._warps = _warps(rng)
        self._bins = np.linspace(0.0, 1.0, MEL_BINS)

    def vary(self, rng: np.random.Generator, mel: Floats, others: Floats | None = None) -> Floats:
        """One variation of speech; `others` is speech to hear faintly behind it."""
        if rng.random() < 0.85:
            mel = _stretch(rng, mel, rng.uniform(0.78, 1.28))
        if rng.random() < 0.85:
            below, share = self._warps[int(rng.integers(len(self._warps)))]
            mel = mel[:, below] * (1.0 - share) + mel[:, below + 1] * share
        mel = self._pad(rng, mel)
        mel = _in_a_room(rng, mel)
        mel = mel + self._equaliser(rng, 2.2)
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

    def _pad(self, rng: np.random.Generator, mel: Floats) -> Floats:
        """Quiet before and after: digital silence, the clip's faintest frames, a room's hum."""
        if rng.random() < 0.25:
            return mel
        before, after = (int(rng.choice([0, 4, 15, 60]) * rng.random()) for _ in range(2))
        kind = rng.random()
        if kind < 0.25:
            quiet = np.full((before + after, MEL_BINS), FLOOR, dtype=np.float32)
        elif kind < 0.55:
            faintest = np.quantile(mel[::4], 0.05, axis=0).astype(np.float32)
            quiet = np.tile(faintest, (before + after, 1))
        else:
            level = float(mel.mean(axis=1).max()) - rng.uniform(3.0, 12.0)
            quiet = self.noise(rng, before + after, level)
        return np.concatenate([quiet[:before], mel, quiet[before:]])

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
        if rng.random() < 0.7:
            mel = mel.copy()
            mean = mel.mean()
            for _ in range(int(rng.integers(1, 4))):
                low, width = int(rng.integers(MEL_BINS)), int(rng.integers(1, _MASK_BINS))
                mel[:, low : low + width] = mean
            if len(mel) > 60:
                start, width = int(rng.integers(len(mel))), int(rng.integers(1, _MASK_FRAMES))
                mel[start : start + width] = mean
        return mel


def _stretch(rng: np.random.Generator, mel: Floats, factor: float) -> Floats:
    """Slower by `factor`, and at a pace that varies from sound to sound."""
    count = max(2, round(len(mel) * factor))
    knots = rng.uniform(0.7, 1.4, count // _PACE_FRAMES + 2)
    pace = np.interp(np.linspace(0.0, len(knots) - 1.0, count), np.arange(len(knots)), knots)
    run = np.cumsum(pace) - pace[0]
    places = run * ((len(mel) - 1.0) / run[-1])
    below = np.minimum(places.astype(int), max(0, len(mel) - 2))
    share = (places - below).astype(np.float32)[:, None]
    above = np.minimum(below + 1, len(mel) - 1)
    return np.asarray(mel[below] * (1.0 - share) + mel[above] * share, dtype=np.float32)


def _in_a_room(rng: np.random.Generator, mel: Floats) -> Floats:
    """Narrow resonances, as of a room, a microphone or a voice's pitch; stress; often a tail."""
    if rng.random() < 0.75:
        heights = rng.normal(0.0, rng.uniform(0.3, 1.8), _RESONANCES)
        places = np.linspace(rng.uniform(-3.0, 0.0), MEL_BINS + rng.uniform(0.0, 3.0), _RESONANCES)
        mel = mel + np.interp(np.arange(MEL_BINS), places, heights).astype(np.float32)
    if rng.random() < 0.75:
        mel = mel + _loudness(rng, len(mel))
    return _reverberate(rng, mel, 0.9) if rng.random() < 0.4 else mel


def _loudness(rng: np.random.Generator, count: int) -> Floats:
    """Stress: some sounds are louder than others, and a word may fade or start softly."""
    knots = int(rng.integers(2, count // _PACE_FRAMES + 4))
    heights = rng.normal(0.0, rng.uniform(0.3, 2.0), knots)
    contour = np.interp(np.linspace(0.0, knots - 1.0, count), np.arange(knots), heights)
    return contour.astype(np.float32)[:, None]


def _reverberate(rng: np.random.Generator, mel: Floats, strongest: float) -> Floats:
    """Each frame leaves a tail that decays within 0.1 to 0.6 s."""
    decay = np.float32(np.exp(-13.8 / rng.uniform(10.0, 60.0)))
    share = np.float32(rng.uniform(0.05, strongest))
    power = np.exp(np.minimum(mel, 40.0))
    # A first-order recursion by doubling: after six rounds each frame holds the 63 before it.
    tail = power.copy()
    for round_number in range(6):
        back = 1 << round_number
        tail[back:] = tail[back:] + decay**back * tail[:-back]
    wet = power + share * (tail - power)
    return np.log(np.maximum(wet, 1e-12)).astype(np.float32)


def _fit(mel: Floats, count: int) -> Floats:
    return np.resize(mel, (count, MEL_BINS))


def _mix(one: Floats, other: Floats) -> Floats:
    return np.logaddexp(one, other).astype(np.float32)
