"""Read blocks of samples through FFmpeg (PyAV): MP3, M4A/AAC, WebM and AMR.

FFmpeg reads far more than is wanted here, playlists that name further files among it. So the
demuxer is named and not guessed, nothing further may be opened, and only audio codecs of the list
below are decoded. The demuxer's own probing, one thread, is all that runs besides.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import structlog
from numpy.typing import NDArray
from sensestream_common.contract.errors import ErrorCode, RequestError

from sensestream_consumer.audio.decoding.mixdown import check_layout
from sensestream_consumer.audio.decoding.through_soundfile import DecoderFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from av.audio.frame import AudioFrame
    from av.codec.context import CodecContext

    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["read_pyav"]

_CODECS = frozenset(
    {
        "aac", "aac_latm", "alac", "amrnb", "amrwb", "flac", "gsm", "gsm_ms", "libgsm",
        "libopencore_amrnb", "libopencore_amrwb", "libopus", "libspeex", "libvorbis", "mp1",
        "mp1float", "mp2", "mp2float", "mp3", "mp3float", "opus", "speex", "vorbis",
    }
)  # fmt: skip
# Besides FFmpeg's own errors: on headers that say there are no channels, or 2**31 of them.
_WHAT_PYAV_RAISES = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, ValueError)
_PLANES = 8  # that a frame has room for; the pointers to more of them stand elsewhere
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}
_CODEC_FAMILIES = ("pcm_", "adpcm_")

log = structlog.get_logger(__name__)


@cache
def _pyav() -> Any:
    # 30 MB of libraries that a worker fed with WAV never needs, hence not at the top.
    import av

    av.logging.set_level(None)  # FFmpeg would write to stderr what hostile files make it say
    return av


def read_pyav(
    file: SeekableView, demuxer: str, check_time: Callable[[], None]
) -> Generator[tuple[NDArray[np.float64], int], None, None]:
    """Yield blocks, float64[frames, channels] with full scale ±1, and their rate in Hz.

    A file that breaks in the middle gives what comes before the break; `DecoderFailed` if that is
    nothing. `check_time` is called for every packet, also for one without samples, and raises
    when decoding takes too long.
    """
    av = _pyav()
    done = 0
    try:
        options = {"protocol_whitelist": "none"}
        with av.open(file, "r", format=demuxer, options=options, io_open=_refuse) as container:
            if not container.streams.audio:
                message = "there is no audio track in it; send the recording and not its pictures"
                raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
            stream = container.streams.audio[0]
            _require_codec(stream.codec_context)
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                check_time()
                for frame in _decoded(packet, av):
                    done += frame.samples
                    yield _block(frame), frame.sample_rate
    except (av.FFmpegError, *_WHAT_PYAV_RAISES) as error:
        if not done:
            raise DecoderFailed(str(error)) from error
        log.warning("audio_cut_short", decoder="ffmpeg", frames=done, why=str(error))


def _decoded(packet: Any, av: Any) -> list[AudioFrame]:
    try:
        return list(packet.decode())
    except av.InvalidDataError:
        return []  # one damaged packet: a decoder of compressed speech goes on behind it


def _block(frame: AudioFrame) -> NDArray[np.float64]:
    """Return the samples of a frame, float64[frames, channels], full scale ±1.

    PyAV's own `to_ndarray` reads behind the last plane of a frame with eight channels or more, and
    the process dies of it: it looks for an empty pointer that FFmpeg does not promise.
    """
    channels = frame.layout.nb_channels
    check_layout(frame.sample_rate, channels)
    if frame.format.is_planar and channels > _PLANES:
        (frame,) = _packed(frame)
    dtype = np.dtype(_TYPES[frame.format.name.removesuffix("p")])
    if frame.format.is_planar:
        samples = np.empty((frame.samples, channels))
        for channel, plane in enumerate(frame.planes[:channels]):
            samples[:, channel] = np.frombuffer(memoryview(plane), dtype, frame.samples)
    else:
        raw = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * channels)
        samples = raw.reshape(-1, channels).astype(np.float64)
    if dtype.kind == "u":
        samples -= 128
    if dtype.kind in "iu":
        samples /= 2.0 ** (8 * dtype.itemsize - 1)
    return samples


def _packed(frame: AudioFrame) -> list[AudioFrame]:
    """Return a frame whose channels lie in one plane: of more planes PyAV does not know the end."""
    av = _pyav()
    packed = frame.format.name.removesuffix("p")
    resampler = av.AudioResampler(packed, frame.layout, frame.sample_rate)
    frames: list[AudioFrame] = resampler.resample(frame)
    return frames


def _require_codec(context: CodecContext | None) -> None:
    name = context.name if context else "unknown"  # None for a codec that FFmpeg lacks
    if name in _CODECS or name.startswith(_CODEC_FAMILIES):
        return
    message = f"its audio is coded as {name!r}, which is not decoded here; store it as FLAC or Opus"
    raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)


def _refuse(*_args: object, **_options: object) -> NoReturn:
    raise PermissionError("audio may not refer to further files")
