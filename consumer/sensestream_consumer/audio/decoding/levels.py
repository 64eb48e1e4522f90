"""What the samples of a whole recording tell about its scale and about its channels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sensestream_consumer.audio.decoding.result import Block

__all__ = ["Levels"]

_FAR = 8.0  # times full scale (18 dB): no limiter, no mixer and no codec goes that far beyond it
_FAR_SHARE = 0.5  # of the energy lies there in floats of another scale ...
_FAR_SAMPLES = 1e-3  # ... and of all samples that are no silence: a few clicks are not the scale
_SILENT = 1e-4  # times full scale
_SCALES = (2.0**15, 2.0**23, 2.0**31)  # full scale of integers that were stored as floats

_LAG = 16_000  # Hz: differences of samples 1/16000 s apart hold speech, but no hum and no offset
_LOOKS = 4_000  # differences a second that are looked at
_CANCELLED = 0.1  # of the energy that unlike channels leave in their mean


class Levels:
    """Measures every block of a recording, and judges the whole.

    Channels that cancel: the mean of N channels with nothing in common has 1/N of their mean
    energy, and that of like channels all of it. Far less is left only where one channel is nearly
    the other with its sign turned, as a wrongly soldered plug makes it.
    """

    def __init__(self) -> None:
        self._energy = 0.0
        self._far_energy = 0.0
        self._peak = 0.0
        self._far = 0
        self._audible = 0
        self._channels = np.zeros(0)
        self._mixed = 0.0
        self._unlike = 0.0

    def measure(self, block: Block, peak: float) -> None:
        """Take a block whose samples are finite and not beyond ±`peak`."""
        self._peak = max(self._peak, peak)
        if peak > _SCALES[-1]:  # nonsense, whose energy may be beyond what a float can hold
            return
        if block.unbounded:
            self._measure_scale(block.samples, peak)
        if block.samples.shape[1] > 1:
            self._measure_channels(block.samples, block.rate)

    def _measure_scale(self, block: NDArray[np.float64], peak: float) -> None:
        if peak <= _FAR:
            # As much as it can be: next to samples on another scale it is nothing all the same.
            self._energy += peak * peak * block.size
            self._audible += block.size if peak > _SILENT else 0
            return
        size = np.abs(block)
        far = size[size > _FAR]
        self._far += len(far)
        self._far_energy += float(np.vdot(far, far))
        self._energy += float(np.vdot(block, block))
        self._audible += np.count_nonzero(size > _SILENT)

    def _measure_channels(self, block: NDArray[np.float64], rate: int) -> None:
        lag, step = max(1, round(rate / _LAG)), max(1, rate // _LOOKS)
        difference = block[lag::step] - block[:-lag:step]
        each = np.square(difference).sum(axis=0)
        if len(each) > len(self._channels):
            self._channels = np.pad(self._channels, (0, len(each) - len(self._channels)))
        self._channels[: len(each)] += each
        self._mixed += float(np.square(difference.mean(axis=1)).sum())
        self._unlike += float(each.mean()) / len(each)

    def scale(self) -> float | None:
        """Return the full scale of floats that are not on the scale of ±1, else None."""
        if not self._far or self._far_energy < _FAR_SHARE * self._energy:
            return None
        if self._far < _FAR_SAMPLES * self._audible:
            return None
        return next((scale for scale in _SCALES if self._peak <= scale), None)

    def loudest_if_cancelled(self) -> int | None:
        """Return the index of the loudest channel if the channels cancel each other, else None."""
        if self._mixed >= _CANCELLED * self._unlike:
            return None
        return int(self._channels.argmax())
