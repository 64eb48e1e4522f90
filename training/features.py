"""SenseVoice's front-end as vectorised numpy: Kaldi log-mel filter banks, LFR and CMVN.

Source of the numbers: Kaldi's `compute-fbank-feats` with 80 mel bins, 25 ms frames every 10 ms,
Hamming window, pre-emphasis 0.97, edges snipped, no dither, samples scaled to 16 bits; then
low frame rate stacking of 7 frames every 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEATURES",
    "FRAME_SHIFT",
    "MEL_BINS",
    "SAMPLE_RATE",
    "STACK",
    "Normalisation",
    "log_mel",
    "mel_centres",
    "stack_frames",
]

Floats = NDArray[np.float32]

SAMPLE_RATE: Final = 16000
FRAME_LENGTH: Final = 400
FRAME_SHIFT: Final = 160
MEL_BINS: Final = 80
STACK: Final = 7
STRIDE: Final = 6
FEATURES: Final = MEL_BINS * STACK

_FFT: Final = 512
_PREEMPHASIS: Final = 0.97
_LOWEST_HZ: Final = 20.0
_INT16: Final = 32768.0
_FLOOR: Final = float(np.finfo(np.float32).eps)


def _mel(hertz: NDArray[np.floating[Any]] | float) -> NDArray[np.float64]:
    return np.asarray(1127.0 * np.log(1.0 + np.asarray(hertz) / 700.0))


@lru_cache(maxsize=1)
def _mel_filters() -> Floats:
    low, high = float(_mel(_LOWEST_HZ)), float(_mel(SAMPLE_RATE / 2))
    edges = low + (high - low) / (MEL_BINS + 1) * np.arange(MEL_BINS + 2)
    bins = _mel(np.arange(_FFT // 2) * (SAMPLE_RATE / _FFT))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (bins - left) / (centre - left), (right - bins) / (right - centre)
    filters = np.maximum(0.0, np.minimum(rising, falling))
    return np.asarray(np.pad(filters, ((0, 0), (0, 1))).T, dtype=np.float32)


@lru_cache(maxsize=1)
def mel_centres() -> NDArray[np.float64]:
    """Centre of each mel bin in hertz, shape (80,)."""
    low, high = float(_mel(_LOWEST_HZ)), float(_mel(SAMPLE_RATE / 2))
    centres = low + (high - low) / (MEL_BINS + 1) * np.arange(1, MEL_BINS + 1)
    return np.asarray(700.0 * (np.exp(centres / 1127.0) - 1.0))


@lru_cache(maxsize=1)
def _window() -> Floats:
    phase = 2.0 * np.pi * np.arange(FRAME_LENGTH) / (FRAME_LENGTH - 1)
    return np.asarray(0.54 - 0.46 * np.cos(phase), dtype=np.float32)


def log_mel(samples: Floats) -> Floats:
    """Log-mel energies, shape (frames, 80), of mono samples in ±1 at 16 kHz.

    Fewer than 400 samples are padded with zeros to one frame.
    """
    if len(samples) < FRAME_LENGTH:
        samples = np.pad(samples, (0, FRAME_LENGTH - len(samples)))
    scaled = (samples * np.float32(_INT16)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(scaled, FRAME_LENGTH)[::FRAME_SHIFT]
    frames = frames - frames.mean(axis=1, keepdims=True)
    previous = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    windowed = (frames - np.float32(_PREEMPHASIS) * previous) * _window()
    spectrum = np.fft.rfft(windowed, _FFT)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
    energies = np.maximum(power @ _mel_filters(), np.float32(_FLOOR))
    return np.asarray(np.log(energies), dtype=np.float32)


def stack_frames(mel: Floats) -> Floats:
    """Low frame rate: (frames, 80) to (ceil(frames / 6), 560), one row for 60 ms."""
    rows = -(-len(mel) // STRIDE)
    left = (STACK - 1) // 2
    needed = (rows - 1) * STRIDE + STACK
    indices = np.clip(np.arange(needed) - left, 0, len(mel) - 1)
    starts = np.arange(rows)[:, None] * STRIDE + np.arange(STACK)
    return np.asarray(mel[indices][starts].reshape(rows, FEATURES))


@dataclass(frozen=True)
class Normalisation:
    """CMVN: (features + shift) * scale, both of shape (560,)."""

    shift: Floats
    scale: Floats

    @classmethod
    def of(cls, mel: Floats) -> Normalisation:
        """Statistics of many frames, shape (frames, 80), repeated for the stacked ones."""
        shift, scale = -mel.mean(axis=0), 1.0 / mel.std(axis=0)
        shifts, scales = (np.tile(row, STACK).astype(np.float32) for row in (shift, scale))
        return cls(shifts, scales)

    def __call__(self, features: Floats) -> Floats:
        """Normalised features, of the shape given."""
        return (features + self.shift) * self.scale

    def write(self, path: Path) -> None:
        """Write `am.mvn` in Kaldi's text form, as SenseVoice's front-end reads it."""
        width = len(self.shift)
        rows = (self.shift, self.scale)
        shift, scale = (" ".join(f"{value:.7g}" for value in row) for row in rows)
        path.write_text(
            f"<Nnet> \n<Splice> {width} {width}\n[ 0 ]\n"
            f"<AddShift> {width} {width} \n<LearnRateCoef> 0 [ {shift} ]\n"
            f"<Rescale> {width} {width}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet> \n",
            encoding="utf-8",
        )
