"""The acoustic front-end: samples to the feature rows that SenseVoice reads.

Kaldi's log-mel filterbank (25 ms Hamming windows every 10 ms, DC removed, pre-emphasis 0.97,
edges snipped, no dither), then low frame rate stacking (7 frames every 6), then the model's
shift and scale. The reference is `funasr_onnx.utils.frontend.WavFrontend` with dither 0, which
makes one Python call a frame; here a block of frames is one strided view and one FFT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SAMPLE_RATE", "Cmvn", "Frontend", "FrontendOptions"]

SAMPLE_RATE = 16_000

_PREEMPHASIS = 0.97
_LOWEST_HZ = 20.0
# Frames a block: its float64 spectrum (numpy 1.26) stays near a core's cache, and memory does
# not grow with the length of the audio.
_BLOCK_FRAMES = 256
# OpenBLAS starts its threads above this many multiplications. They would spin beside the
# threads that recognise: twice the processor time for the same answer.
_SINGLE_THREAD_PRODUCTS = 1 << 18
_LOG_FLOOR = float(np.finfo(np.float32).eps)  # kaldi's floor before the logarithm


@dataclass(frozen=True, slots=True)
class FrontendOptions:
    """What a model's configuration may choose; the rest is SenseVoice's and fixed."""

    mels: int = 80
    frame_length_ms: int = 25
    frame_shift_ms: int = 10
    lfr_window: int = 7
    lfr_shift: int = 6

    @property
    def frame_length(self) -> int:
        """Samples a frame."""
        return self.frame_length_ms * SAMPLE_RATE // 1000

    @property
    def frame_shift(self) -> int:
        """Samples from one frame to the next."""
        return self.frame_shift_ms * SAMPLE_RATE // 1000

    @property
    def width(self) -> int:
        """Values a feature row."""
        return self.mels * self.lfr_window

    @property
    def row_shift(self) -> int:
        """Samples from one feature row to the next."""
        return self.frame_shift * self.lfr_shift


@dataclass(frozen=True, slots=True)
class Cmvn:
    """`(row + shift) * scale`, float32[width] each."""

    shift: NDArray[np.float32]
    scale: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Band:
    """Some neighbouring mel filters and the only spectrum bins they read."""

    mels: slice
    bins: slice
    weights: NDArray[np.float32]


class Frontend:
    """Computes feature rows; holds no state between calls, so threads may share it."""

    def __init__(self, options: FrontendOptions, cmvn: Cmvn) -> None:
        self.options = options
        self.cmvn = cmvn
        self._window = _hamming(options.frame_length)
        self._fft_size = 1 << (options.frame_length - 1).bit_length()
        self._bands = _bands(_mel_filters(options.mels, self._fft_size))

    def __call__(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Feature rows, float32[rows, width], of int16[n] samples at 16 kHz.

        Audio shorter than one frame (400 samples) is padded with zeros to one.
        """
        missing = self.options.frame_length - samples.shape[0]
        if missing > 0:
            samples = np.pad(samples, (0, missing))
        return self._stack(self.filterbank(samples))

    def filterbank(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        """Log-mel energies, float32[frames, mels], of at least one frame of samples."""
        options = self.options
        frames = np.lib.stride_tricks.sliding_window_view(samples, options.frame_length)
        frames = frames[:: options.frame_shift]
        energies = np.empty((frames.shape[0], options.mels), np.float32)
        for start in range(0, frames.shape[0], _BLOCK_FRAMES):
            block = slice(start, start + _BLOCK_FRAMES)
            power = self._power(frames[block])
            for band in self._bands:
                energies[block, band.mels] = power[:, band.bins] @ band.weights
        np.maximum(energies, np.float32(_LOG_FLOOR), out=energies)
        return np.log(energies, out=energies)

    def _power(self, frames: NDArray[np.int16]) -> NDArray[np.float32]:
        """Power spectrum, float32[frames, fft_size / 2], of int16[frames, frame_length]."""
        length = self.options.frame_length
        # A frame's sum of 16-bit integers is exact in float32, so the mean is kaldi's own.
        centred = frames.astype(np.float32)
        centred -= centred.mean(axis=1, dtype=np.float32, keepdims=True)
        padded = np.zeros((frames.shape[0], self._fft_size), np.float32)
        emphasised = padded[:, :length]
        np.multiply(centred[:, :-1], np.float32(-_PREEMPHASIS), out=emphasised[:, 1:])
        np.multiply(centred[:, 0], np.float32(-_PREEMPHASIS), out=emphasised[:, 0])
        emphasised += centred
        emphasised *= self._window
        # numpy 1.26 answers complex128 to float32, numpy 2 complex64: one cast makes them equal.
        spectrum = np.fft.rfft(padded)[:, :-1].astype(np.complex64, copy=False)
        power = np.square(spectrum.real)
        power += np.square(spectrum.imag)
        return power

    def _stack(self, frames: NDArray[np.float32]) -> NDArray[np.float32]:
        """Low frame rate rows with shift and scale, from float32[frames, mels].

        The first frame is repeated on the left so that the first row is centred on it, the
        last one on the right as often as the last row needs.
        """
        options = self.options
        rows = math.ceil(frames.shape[0] / options.lfr_shift)
        left = (options.lfr_window - 1) // 2
        needed = (rows - 1) * options.lfr_shift + options.lfr_window
        padded = np.pad(frames, ((left, max(0, needed - left - frames.shape[0])), (0, 0)), "edge")
        windows = np.lib.stride_tricks.sliding_window_view(padded.reshape(-1), options.width)
        stacked = windows[:: options.lfr_shift * options.mels][:rows] + self.cmvn.shift
        stacked *= self.cmvn.scale
        return stacked


def _hamming(length: int) -> NDArray[np.float32]:
    phase = 2.0 * np.pi * np.arange(length) / (length - 1)
    window: NDArray[np.float32] = (0.54 - 0.46 * np.cos(phase)).astype(np.float32)
    return window


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    mel: NDArray[np.float64] = 1127.0 * np.log(1.0 + hertz / 700.0)
    return mel


def _mel_filters(mels: int, fft_size: int) -> NDArray[np.float32]:
    """Kaldi's triangles, equally wide on the mel scale from 20 Hz to half the sample rate.

    float32[fft_size / 2, mels]: the bin at half the sample rate takes no part, as in kaldi.
    """
    low, high = _mel(np.array([_LOWEST_HZ, SAMPLE_RATE / 2]))
    edges = np.linspace(low, high, mels + 2)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    bins = _mel(np.arange(fft_size // 2) * (SAMPLE_RATE / fft_size))[:, np.newaxis]
    rising = (bins - left) / (centre - left)
    falling = (right - bins) / (right - centre)
    filters: NDArray[np.float32] = np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
    return filters


def _bands(filters: NDArray[np.float32]) -> list[_Band]:
    """The filters in groups, each small enough for one thread and free of most zeros."""
    used = filters > 0
    first = used.argmax(axis=0)
    last = filters.shape[0] - used[::-1].argmax(axis=0)
    bands = []
    start, mels = 0, filters.shape[1]
    while start < mels:
        stop = start + 1
        while stop < mels and _fits_one_thread(stop + 1 - start, last[stop] - first[start]):
            stop += 1
        bins = slice(int(first[start]), int(last[stop - 1]))
        weights = np.ascontiguousarray(filters[bins, start:stop])
        bands.append(_Band(slice(start, stop), bins, weights))
        start = stop
    return bands


def _fits_one_thread(mels: int, bins: int) -> bool:
    return _BLOCK_FRAMES * mels * bins <= _SINGLE_THREAD_PRODUCTS
