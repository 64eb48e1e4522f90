"""Mix any number of channels at any rate to mono, 16 kHz, 16 bits, block by block and in bounds."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray
from sensestream_common.contract.errors import ErrorCode, RequestError

from sensestream_consumer.audio.decoding.levels import Levels
from sensestream_consumer.audio.decoding.processor_time import ProcessorTime
from sensestream_consumer.audio.decoding.result import Block
from sensestream_consumer.audio.policy import AudioPolicy, too_long

__all__ = [
    "MAX_CHANNELS",
    "MAX_RATE",
    "MIN_RATE",
    "SAMPLE_RATE",
    "Correction",
    "Mixdown",
    "Taken",
    "check_layout",
]

SAMPLE_RATE = 16_000  # Hz, that of the models

MIN_RATE = 1_000  # Hz; below it nothing of speech is left, and each sample becomes many
MAX_RATE = 768_000  # Hz, the highest that recorders have
MAX_CHANNELS = 64
_MAX_RATE_CHANGES = 100  # in one file: each builds a resampler anew
_HEADROOM = 1e4  # times full scale: louder floats are clipped before they overflow in float32

# Seconds that the samples may lag behind the time stamps before silence is put in. Containers
# round to milliseconds and recorders deliver unevenly: below this a hole is none.
_HOLE = 0.1
# Seconds that time stamps may step back before they are counted anew, as after a reset clock.
_RESET = 1.0


@dataclass(frozen=True, slots=True)
class Correction:
    """What only the whole of a recording tells about how it must be mixed.

    Attributes:
        scale: the value of full scale in its floats.
        channel: the only channel to take, if the channels cancel each other.
    """

    scale: float = 1.0
    channel: int | None = None

    def applied(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return float64[frames, channels] corrected; the samples may be overwritten."""
        if self.channel is not None:
            # The channels may have become fewer in the middle of a stream.
            channel = min(self.channel, samples.shape[1] - 1)
            samples = samples[:, channel : channel + 1]
        samples /= self.scale
        return samples


@dataclass(slots=True)
class Taken:
    """What a mixdown has taken so far, in seconds; holes and levels since the last `begin`.

    Attributes:
        decoded: of decoded audio.
        silence: of silence put in where time stamps leave holes.
        holes: begin and length of each hole between decoded audio.
        ignored: begin and length of holes that would have passed the policy's limit.
        levels: of the decoded audio.
    """

    decoded: float = 0.0
    silence: float = 0.0
    holes: list[tuple[float, float]] = field(default_factory=list)
    ignored: list[tuple[float, float]] = field(default_factory=list)
    levels: Levels = field(default_factory=Levels)

    @property
    def seconds(self) -> float:
        """Audio and silence together."""
        return self.decoded + self.silence


class Mixdown:
    """Takes decoded blocks and collects the samples for the engine.

    The channels are averaged and the result is resampled by soxr (HQ), clipped, and rounded half
    to even, with 32768 as full scale. So 16 kHz mono 16-bit audio passes bit for bit, and any
    lossless copy of a recording gives the same samples.

    Where time stamps say that a block begins later than the samples so far end, silence is put in.
    """

    def __init__(self, policy: AudioPolicy, time: ProcessorTime) -> None:
        self._max_seconds = policy.max_seconds
        self._time = time
        self._correction: Correction | None = None
        self._rate = 0
        self._rate_changes = 0
        self._resampler: Any = None
        self._samples = bytearray()
        self._base = 0.0  # where the recording's own time begins, in seconds of all samples
        self._begin = 0  # where the samples of the recording begin, in bytes
        self._before = Taken()
        self.taken = Taken()

    def begin(self, correction: Correction | None = None) -> None:
        """Begin a recording; its time stamps start at 0 here, behind what was joined before it."""
        self._flush()
        self._correction = correction
        self.taken.levels = Levels()
        self.taken.holes, self.taken.ignored = [], []
        self._base = self.taken.seconds
        self._begin = len(self._samples)
        self._before = copy.deepcopy(self.taken)

    def take_back(self) -> tuple[bytes, Taken]:
        """Forget the recording that was begun last, and return it for `put_back`."""
        self._flush()
        rest = bytes(memoryview(self._samples)[self._begin :]), self.taken
        del self._samples[self._begin :]
        self.taken = copy.deepcopy(self._before)
        self._base = self.taken.seconds
        return rest

    def put_back(self, rest: tuple[bytes, Taken]) -> None:
        """Put what was taken back in the place of what has been taken since."""
        self._flush()
        del self._samples[self._begin :]
        self._samples += rest[0]
        self.taken = rest[1]

    @property
    def decoded(self) -> float:
        """Seconds of audio decoded since the last `begin`, without silence that was put in."""
        return self.taken.decoded - self._before.decoded

    def add(self, block: Block) -> None:
        """Take a block; its samples are overwritten.

        `audio_too_long` as soon as the limit is passed; `audio_unreadable` for a rate or channel
        count out of bounds and for samples that are NaN or infinite. Those are refused and not
        silenced: whatever wrote them lost the audio, and silence would hide it.
        """
        self._time.check()
        samples, rate = block.samples, block.rate
        frames, channels = samples.shape
        check_layout(rate, channels)
        if frames == 0:
            return
        if block.at is not None:
            self._catch_up(block.at)
        self.taken.decoded += frames / rate
        if self.taken.seconds > self._max_seconds:
            raise too_long(self._max_seconds)
        peak = max(float(samples.max()), -float(samples.min()))
        if not np.isfinite(peak):
            message = (
                "the audio holds samples that are NaN or infinite; whatever wrote it is at fault, "
                "store it anew with finite samples"
            )
            raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
        mono = self._mixed(block, peak)
        if rate != self._rate:
            self._change_rate(rate)
        if rate == SAMPLE_RATE:
            self._collect(mono)
        else:
            self._collect(self._resample(mono.astype(np.float32)))

    def finish(self) -> NDArray[np.int16]:
        """Return all samples, int16[n] at 16 kHz; `audio_empty` if n is 0."""
        self._flush()
        if not self._samples:
            message = "there is no audio in it: not one sample; check that the recording worked"
            raise RequestError(ErrorCode.AUDIO_EMPTY, message)
        return np.frombuffer(self._samples, dtype=np.int16)

    def correction(self) -> Correction | None:
        """Return how the recording must be mixed instead, if its samples as a whole tell so."""
        if self._correction:
            return None
        scale = self.taken.levels.scale()
        channel = self.taken.levels.loudest_if_cancelled()
        return None if scale is None and channel is None else Correction(scale or 1.0, channel)

    def _mixed(self, block: Block, peak: float) -> NDArray[np.float64]:
        samples = block.samples
        if self._correction:
            samples = self._correction.applied(samples)
        else:
            self.taken.levels.measure(block, peak)
        if peak > _HEADROOM:
            np.clip(samples, -_HEADROOM, _HEADROOM, out=samples)
        return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)

    def _catch_up(self, at: float) -> None:
        """Put silence in up to `at`, in seconds of the recording's own time."""
        now = self.taken.seconds
        hole = self._base + at - now
        if hole < -_RESET:
            self._base -= hole
        if hole <= _HOLE:
            return
        if now + hole > self._max_seconds:
            self.taken.ignored.append((now, hole))
            self._base -= hole
            return
        if self.decoded:
            self.taken.holes.append((now, hole))
        self._flush()
        self.taken.silence += hole
        # Counted from the recording's start, so that no rounding adds up.
        end = 2 * round((self.taken.seconds) * SAMPLE_RATE)
        self._samples += bytes(max(0, end - len(self._samples)))

    def _change_rate(self, rate: int) -> None:
        self._flush()
        self._rate_changes += 1
        if self._rate_changes > _MAX_RATE_CHANGES:
            message = f"the audio changes its sample rate more than {_MAX_RATE_CHANGES} times"
            raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
        self._rate = rate

    def _resample(self, mono: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._resampler is None:
            self._resampler = soxr.ResampleStream(
                self._rate, SAMPLE_RATE, 1, dtype="float32", quality="HQ"
            )
        resampled: NDArray[np.float32] = self._resampler.resample_chunk(mono)
        return resampled

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
