"""Read blocks of samples through libsndfile: WAV, AIFF, AU, CAF, W64, FLAC, OGG and OPUS."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import soundfile
import structlog
from numpy.typing import NDArray

from sensestream_consumer.audio.decoding.mixdown import check_layout
from sensestream_consumer.audio.decoding.result import Block, ReadReport

if TYPE_CHECKING:
    from collections.abc import Generator

    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["DecoderFailed", "read_soundfile"]

_BLOCK = 65536  # samples of all channels together
_UNKNOWN = 2**36 - 1  # frames: a FLAC cannot claim more, and libsndfile says more for no claim

log = structlog.get_logger(__name__)


class DecoderFailed(Exception):
    """A decoder got not one sample out of the file."""


class _Forward(soundfile.SoundFile):  # type: ignore[misc] # the library ships no types
    """Reads from front to end.

    A seekable SoundFile seeks to where it is after each block, and libsndfile cannot do so in a
    FLAC that does not say how long it is, as encoders write it into a pipe.
    """

    def seekable(self) -> bool:
        return False


def read_soundfile(file: SeekableView, report: ReadReport) -> Generator[Block, None, None]:
    """Yield blocks.

    A file that breaks in the middle gives what comes before the break, which `report` tells of;
    `DecoderFailed` if that is nothing.
    """
    try:
        sound = _Forward(file)
    except soundfile.LibsndfileError as error:
        raise DecoderFailed(str(error)) from error
    with sound:
        check_layout(sound.samplerate, sound.channels)
        if 0 < sound.frames < _UNKNOWN:
            report.promised = sound.frames / sound.samplerate
        unbounded = sound.subtype in {"FLOAT", "DOUBLE"}
        frames = _BLOCK // sound.channels
        done = 0
        while True:
            block, failure = _next_block(sound, frames)
            done += len(block)
            if failure and not done:
                raise DecoderFailed(str(failure)) from failure
            if len(block):
                yield Block(block, sound.samplerate, unbounded=unbounded)
            if failure:
                report.failure = str(failure)
                log.warning("audio_cut_short", decoder="libsndfile", frames=done, why=str(failure))
                return
            if not len(block):
                return


def _next_block(
    sound: soundfile.SoundFile, frames: int
) -> tuple[NDArray[np.float64], soundfile.LibsndfileError | None]:
    """Return the next frames, and the failure that ended them.

    libsndfile fills a part of the block before it fails and soundfile does not say how much, so
    the block starts as NaN, and what is NaN still was not filled.
    """
    block = np.full((frames, sound.channels), np.nan)
    try:
        return sound.read(out=block), None
    except soundfile.LibsndfileError as error:
        missing = np.isnan(block[:, 0])
        filled = int(missing.argmax()) if missing.any() else frames
        return block[:filled], error
