"""Decode the fetched bytes to samples for the engine: mono, 16 kHz, 16 bits."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sensestream_common.contract.alias import AudioWarning
from sensestream_common.contract.errors import ErrorCode, RequestError

from sensestream_consumer.audio.decoding.containers.links import find_links
from sensestream_consumer.audio.decoding.containers.sniff import FORMATS, Container, Foreign, sniff
from sensestream_consumer.audio.decoding.link import decode_link
from sensestream_consumer.audio.decoding.mixdown import Correction, Mixdown
from sensestream_consumer.audio.decoding.processor_time import ProcessorTime
from sensestream_consumer.audio.decoding.result import Decoded
from sensestream_consumer.audio.decoding.through_soundfile import DecoderFailed
from sensestream_consumer.audio.decoding.window import SeekableView
from sensestream_consumer.audio.policy import AudioPolicy

if TYPE_CHECKING:
    from sensestream_consumer.audio.spool import Fetched

__all__ = ["decode", "decode_with_warnings"]

_MAX_WARNINGS = 20  # of one file


def decode(fetched: Fetched, policy: AudioPolicy) -> NDArray[np.int16]:
    """Return the samples of `fetched`: int16[n], mono at 16 kHz, n at least 1.

    As `decode_with_warnings`, for callers that have no use for warnings.
    """
    return decode_with_warnings(fetched, policy).samples


def decode_with_warnings(fetched: Fetched, policy: AudioPolicy) -> Decoded:
    """Return the samples of `fetched`, and what its sender should know about them.

    Blocking: run it in a thread. A recording cut short or damaged in the middle gives the samples
    that can be decoded, and a warning. Memory: the result, at most 32 kB a second, and a few
    blocks; for a damaged recording that two libraries read, twice the result.

    Raises `RequestError`: `audio_unreadable` where nothing can be decoded, `audio_too_long` as
    soon as more than `policy.max_seconds` have been decoded, whatever the header says, and
    `audio_empty` without one sample.
    """
    if fetched.size == 0:
        message = "there is no audio in it: not one byte; check that the recording worked"
        raise RequestError(ErrorCode.AUDIO_EMPTY, message)
    container = sniff(fetched.file)
    if isinstance(container, Foreign):
        raise _unreadable(f"it is {container.name}: {container.remedy}")
    return _File(fetched, container, policy, ProcessorTime()).decode()


class _File:
    def __init__(
        self, fetched: Fetched, container: Container, policy: AudioPolicy, time: ProcessorTime
    ) -> None:
        self._file = fetched.file
        self._container = container
        self._time = time
        self._mixdown = Mixdown(policy, time)
        size = fetched.file.seek(0, os.SEEK_END)
        self._links = find_links(
            fetched.file, container.offset, size, container.demuxer, time.check
        )

    def decode(self) -> Decoded:
        """Decode every recording of the file."""
        warnings = [_skipped(self._container.junk)] if self._container.junk else []
        failures: list[RequestError] = []
        for start, end in self._links:
            try:
                warnings += self._decode_link(start, end)
            except RequestError as error:
                self._time.check()
                if error.code is not ErrorCode.AUDIO_UNREADABLE:
                    raise
                failures.append(error)
                self._mixdown.take_back()
                warnings.append(_lost(start, end, self._mixdown.taken.seconds, error))
        if len(failures) == len(self._links):
            raise failures[0]
        return Decoded(self._mixdown.finish(), _few(warnings))

    def _decode_link(self, start: int, end: int) -> list[AudioWarning]:
        """Decode one recording, and once more if only the whole of it tells how to mix it."""
        view = SeekableView(self._file, start, end, self._time.is_over)
        self._mixdown.begin()
        warnings = self._decode_view(view)
        correction = self._mixdown.correction()
        if correction:
            self._mixdown.take_back()
            self._mixdown.begin(correction)
            warnings = [*self._decode_view(view), *_corrections(correction)]
        return warnings

    def _decode_view(self, view: SeekableView) -> list[AudioWarning]:
        try:
            return decode_link(view, self._container, self._mixdown, self._time)
        except DecoderFailed as error:
            self._time.check()
            raise _unreadable(_WHY.get(self._container.demuxer, _DAMAGED)) from error


_DAMAGED = "its contents are damaged or not what its first bytes say"
_WHY = {
    "mov": (
        "it has the form of MP4 or M4A, but its index (the box `moov`) is missing or damaged: the "
        "recording was not finished, its upload was cut, or it is a piece from the middle"
    ),
    "ogg": "it is a piece from the middle of an Ogg recording, or damaged: send all pieces joined",
}


def _lost(start: int, end: int, seconds: float, failure: RequestError) -> AudioWarning:
    message = (
        f"one of the joined recordings (bytes {start} to {end}, to be heard from {seconds:.1f} s "
        f"on) is missing: {failure.message}"
    )
    return AudioWarning("joined_part_lost", message)


def _skipped(junk: int) -> AudioWarning:
    message = f"{junk} bytes before the beginning of the sound belong to no recording; skipped"
    return AudioWarning("leading_bytes_skipped", message)


def _corrections(correction: Correction) -> list[AudioWarning]:
    warnings = []
    if correction.scale != 1.0:
        message = (
            f"its samples are floats beyond ±1, taken for integers on the scale of "
            f"±{correction.scale:.0f} and divided by it; write floats between -1 and 1"
        )
        warnings.append(AudioWarning("sample_scale_guessed", message))
    if correction.channel is not None:
        message = (
            "its channels cancel each other when they are mixed (one has the opposite phase); "
            f"channel {correction.channel + 1}, the loudest, was taken alone"
        )
        warnings.append(AudioWarning("channels_out_of_phase", message))
    return warnings


def _few(warnings: list[AudioWarning]) -> tuple[AudioWarning, ...]:
    if len(warnings) <= _MAX_WARNINGS:
        return tuple(warnings)
    left = len(warnings) - _MAX_WARNINGS + 1
    more = AudioWarning("more_warnings", f"there are {left} more warnings like these")
    return (*warnings[: _MAX_WARNINGS - 1], more)


def _unreadable(why: str) -> RequestError:
    message = f"no decoder reads the audio: {why}; taken are {FORMATS}"
    return RequestError(ErrorCode.AUDIO_UNREADABLE, message)
