"""Mix any number of channels at any rate to mono, 16 kHz, 16 bits, block by block and in bounds."""

from __future__ import annotations

from time import thread_time
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from sensestream_common.contract.errors import ErrorCode, RequestError

from sensestream_consumer.audio.policy import AudioPolicy, too_long

__all__ = ["MAX_CHANNELS", "MAX_RATE", "MIN_RATE", "SAMPLE_RATE", "Mixdown", "check_layout"]

SAMPLE_RATE = 16_000  # Hz, that of the models

MIN_RATE = 1_000  # Hz; below it nothing of speech is left, and each sample becomes many
MAX_RATE = 768_000  # Hz, the highest that recorders have
MAX_CHANNELS = 64
_MAX_RATE_CHANGES = 100  # in one file: each builds a resampler anew
_HEADROOM = 1e4  # times full scale: louder floats are clipped before they overflow in float32

# Seconds of processor time for one file. Four hours of 48 kHz stereo take less than a minute;
# a file made of millions of one-sample packets would take days.
_MAX_PROCESSOR_SECONDS = 600.0


class Mixdown:
    """Takes decoded blocks and collects the samples for the engine.

    The channels are averaged and the result is resampled by soxr (HQ), clipped, and rounded half
    to even, with 32768 as full scale. So 16 kHz mono 16-bit audio passes bit for bit, and any
    lossless copy of a recording gives the same samples.
    """

    def __init__(self, policy: AudioPolicy) -> None:
        self._max_seconds = policy.max_seconds
        self._seconds = 0.0
        self._rate = 0
        self._rate_changes = 0
        self._resampler: Any = None
        self._samples = bytearray()
        self._deadline = thread_time() + _MAX_PROCESSOR_SECONDS

    def is_over(self) -> bool:
        """Tell whether decoding has taken more processor time than any audio needs."""
        return thread_time() > self._deadline

    def check_time(self) -> None:
        """`audio_unreadable` once it is over."""
        if self.is_over():
            message = (
                f"decoding the audio took more than {_MAX_PROCESSOR_SECONDS:g} seconds of "
                "processor time; store it in a usual format, such as FLAC"
            )
            raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)

    def add(self, block: NDArray[np.float64], rate: int) -> None:
        """Take float64[frames, channels], full scale ±1, at `rate` Hz; the block is overwritten.

        `audio_too_long` as soon as the limit is passed; `audio_unreadable` for a rate or channel
        count out of bounds and for samples that are NaN or infinite. Those are refused and not
        silenced: whatever wrote them lost the audio, and silence would hide it.
        """
        self.check_time()
        frames, channels = block.shape
        check_layout(rate, channels)
        if frames == 0:
            return
        self._seconds += frames / rate
        if self._seconds > self._max_seconds:
            raise too_long(self._max_seconds)
        if not np.isfinite(block).all():
            message = (
                "the audio holds samples that are NaN or infinite; whatever wrote it is at fault, "
                "store it anew with finite samples"
            )
            raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
        np.clip(block, -_HEADROOM, _HEADROOM, out=block)
        mono = block[:, 0] if channels == 1 else block.mean(axis=1)
        if rate != self._rate:
            self._change_rate(rate)
        if self._resampler is None:
            self._collect(mono)
        else:
            self._collect(self._resampler.resample_chunk(mono.astype(np.float32)))

    def finish(self) -> NDArray[np.int16]:
        """Return all samples, int16[n] at 16 kHz; `audio_empty` if n is 0."""
        self._flush()
        if not self._samples:
            message = "there is no audio in it: not one sample; check that the recording worked"
            raise RequestError(ErrorCode.AUDIO_EMPTY, message)
        return np.frombuffer(self._samples, dtype=np.int16)

    def _change_rate(self, rate: int) -> None:
        self._flush()
        self._rate_changes += 1
        if self._rate_changes > _MAX_RATE_CHANGES:
            message = f"the audio changes its sample rate more than {_MAX_RATE_CHANGES} times"
            raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
        self._rate = rate
        self._resampler = (
            None
            if rate == SAMPLE_RATE
            else soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
        )

    def _flush(self) -> None:
        if self._resampler is not None:
            self._collect(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
            self._resampler = None

    def _collect(self, mono: NDArray[np.floating[Any]]) -> None:
        # One growing buffer: a list of blocks would need twice the memory when it is joined.
        scaled = np.rint(mono * 32768)
        self._samples += np.clip(scaled, -32768, 32767).astype(np.int16).data


def check_layout(rate: int, channels: int) -> None:
    """Refuse a rate (in Hz) or a channel count that no recording has: `audio_unreadable`."""
    if not MIN_RATE <= rate <= MAX_RATE:
        message = (
            f"the audio has a sample rate of {rate} Hz; rates from {MIN_RATE} to {MAX_RATE} Hz "
            "are taken: resample it, or correct its header"
        )
        raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
    if not 1 <= channels <= MAX_CHANNELS:
        message = f"the audio has {channels} channels; 1 to {MAX_CHANNELS} are taken"
        raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
