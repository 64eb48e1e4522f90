"""The result of decoding: samples, and warnings about the bytes that they came from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sensestream_common.contract.alias import AudioWarning

__all__ = ["Attempt", "Block", "Decoded", "ReadReport"]

_ROUNDING = 1e-6  # seconds
_NEARLY = 0.9  # decoders of compressed speech lose some of it on both sides of a hole
_UNREAD = 64 * 1024  # bytes; as many may lie unread behind a recording: tags, padding


class Decoded(NamedTuple):
    """Samples, int16[n], mono at 16 kHz, n at least 1, and the warnings about their bytes."""

    samples: NDArray[np.int16]
    warnings: tuple[AudioWarning, ...]


class Block(NamedTuple):
    """Some decoded audio.

    Attributes:
        samples: float64[frames, channels], full scale ±1.
        rate: in Hz.
        at: where it begins, in seconds after the start of its recording, if time stamps tell.
        unbounded: whether they were stored as floats, which may be on any scale.
    """

    samples: NDArray[np.float64]
    rate: int
    at: float | None = None
    unbounded: bool = False


@dataclass(slots=True)
class ReadReport:
    """What a reader learns about a recording besides its samples; the reader fills it in.

    Attributes:
        failure: why reading stopped before the end, empty if it did not.
        promised: how many seconds the headers promise, if they tell.
        inexact: by how many seconds that may be wrong.
        damaged: how many packets in the middle could not be decoded.
        lost_bytes: the size of packets at the end that could not be decoded.
    """

    failure: str = ""
    promised: float | None = None
    inexact: float = 0.05
    damaged: int = 0
    lost_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """One library's reading of a recording.

    Attributes:
        report: what the library says of it.
        begin: where the recording begins, in seconds of all samples.
        decoded: seconds of decoded audio.
        silence: seconds of silence put in.
        holes: begin and length of each hole that the silence fills, in seconds.
        ignored: begin and length of each hole that was too long to be filled.
        unread: how many bytes before the recording's end the library has not seen.
        given_up: where another library gave up, in seconds of all samples.
    """

    report: ReadReport
    begin: float
    decoded: float
    silence: float
    holes: list[tuple[float, float]]
    ignored: list[tuple[float, float]]
    unread: int
    given_up: float | None = None

    @property
    def end(self) -> float:
        """Where the recording ends, in seconds of all samples."""
        return self.begin + self.decoded + self.silence

    @property
    def complete(self) -> bool:
        """Whether as much was decoded as the headers promise."""
        return self.report.promised is not None and not self.short

    @property
    def short(self) -> float:
        """Seconds that are missing of those promised, 0 if the difference means nothing."""
        ignored = sum(length for _, length in self.ignored)
        short = (self.report.promised or 0.0) - self.decoded - self.silence - ignored
        return short if short > self.report.inexact else 0.0

    @property
    def whole(self) -> bool:
        """Whether there is nothing left that another library could read."""
        fine = self.complete if self.report.promised is not None else not self.report.failure
        return fine and self.unread <= _UNREAD

    def is_better(self, other: Attempt) -> bool:
        """Tell whether this has more decoded audio, or as much of it in its right places."""
        if self.silence > other.silence:
            return self.decoded > _NEARLY * other.decoded
        return self.decoded > other.decoded + _ROUNDING

    def after(self, first: Attempt) -> Attempt:
        """Return this with what an attempt that was not whole tells of the recording."""
        promised, inexact = first.report.promised, first.report.inexact
        report = replace(self.report, promised=promised, inexact=inexact)
        gave_up = first.report.failure and first.end < self.end
        return replace(self, report=report, given_up=first.end if gave_up else None)
