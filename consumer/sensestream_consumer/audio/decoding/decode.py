"""Decode the fetched bytes to samples for the engine: mono, 16 kHz, 16 bits."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from sensestream_common.contract.errors import ErrorCode, RequestError

from sensestream_consumer.audio.decoding.mixdown import Mixdown
from sensestream_consumer.audio.decoding.result import Decoded
from sensestream_consumer.audio.decoding.sniff import FORMATS, Container, sniff
from sensestream_consumer.audio.decoding.through_pyav import read_pyav
from sensestream_consumer.audio.decoding.through_soundfile import DecoderFailed, read_soundfile
from sensestream_consumer.audio.decoding.window import SeekableView
from sensestream_consumer.audio.policy import AudioPolicy

if TYPE_CHECKING:
    from collections.abc import Generator

    from sensestream_consumer.audio.spool import Fetched

__all__ = ["decode", "decode_with_warnings"]


def decode(fetched: Fetched, policy: AudioPolicy) -> NDArray[np.int16]:
    """Return the samples of `fetched`: int16[n], mono at 16 kHz, n at least 1.

    Blocking: run it in a thread. A recording cut short or damaged in the middle gives the samples
    that can be decoded, and a line in the log. Memory: the result, at most 32 kB a second, and a
    few blocks.

    Raises `RequestError`: `audio_unreadable` where nothing can be decoded, `audio_too_long` as
    soon as more than `policy.max_seconds` have been decoded, whatever the header says, and
    `audio_empty` without one sample.
    """
    if fetched.size == 0:
        message = "there is no audio in it: not one byte; check that the recording worked"
        raise RequestError(ErrorCode.AUDIO_EMPTY, message)
    container = sniff(fetched.file)
    if container is None:
        raise _unreadable("its first bytes are those of no audio format")
    mixdown = Mixdown(policy)
    try:
        _read(fetched, container, mixdown)
    except DecoderFailed as error:
        mixdown.check_time()
        raise _unreadable("its contents are damaged or not what its first bytes say") from error
    mixdown.check_time()  # a file that was stopped early looks as if it had ended
    return mixdown.finish()


def decode_with_warnings(fetched: Fetched, policy: AudioPolicy) -> Decoded:
    """Return the samples of `fetched`, and what its sender should know about them.

    As `decode`, which has no warnings yet.
    """
    return Decoded(decode(fetched, policy), ())


def _read(fetched: Fetched, container: Container, mixdown: Mixdown) -> None:
    """Read through libsndfile where it takes the format; else, or when it fails, through FFmpeg."""
    view = SeekableView(fetched.file, container.offset, mixdown.is_over)
    if container.libsndfile:
        try:
            _mix(read_soundfile(view), mixdown)
        except DecoderFailed:
            mixdown.check_time()
            view.seek(0)
        else:
            return
    _mix(read_pyav(view, container.demuxer, mixdown.check_time), mixdown)


def _mix(blocks: Generator[tuple[NDArray[np.float64], int], None, None], mixdown: Mixdown) -> None:
    with closing(blocks):  # a refusal in the middle closes the decoder now and not some day
        for block, rate in blocks:
            mixdown.add(block, rate)


def _unreadable(why: str) -> RequestError:
    message = f"no decoder reads the audio: {why}; taken are {FORMATS}"
    return RequestError(ErrorCode.AUDIO_UNREADABLE, message)
