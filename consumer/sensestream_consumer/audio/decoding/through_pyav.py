"""Read blocks of samples through FFmpeg (PyAV), which reads every format that is taken.

FFmpeg reads far more than is wanted here, playlists that name further files among it. So the
demuxer is named and not guessed, nothing further may be opened, and only the audio codecs of
`codecs` are decoded, in one thread.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import structlog
from sensestream_common.contract.errors import ErrorCode, RequestError

from sensestream_consumer.audio.decoding.codecs import is_taken, whitelist
from sensestream_consumer.audio.decoding.mixdown import check_layout
from sensestream_consumer.audio.decoding.result import Block, ReadReport
from sensestream_consumer.audio.decoding.through_soundfile import DecoderFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from av.audio.frame import AudioFrame
    from numpy.typing import NDArray

    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["pyav", "read_pyav", "samples_of"]

# Besides FFmpeg's own errors: on headers that say there are no channels, or 2**31 of them.
_WHAT_PYAV_RAISES = (ArithmeticError, LookupError, MemoryError, OSError, RuntimeError, ValueError)

# Demuxers whose time stamps come from the file; the others count what they have read.
_TIMED = frozenset({"asf", "flv", "matroska", "mov", "mpegts", "ogg"})

_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICS")  # which FFmpeg takes for a packet in a stream

_PLANES = 8  # that a frame has room for; the pointers to more of them stand elsewhere
_TYPES = {"u8": "u1", "s16": "i2", "s32": "i4", "s64": "i8", "flt": "f4", "dbl": "f8"}

# Demuxers that know how long the only track of a file is.
_LENGTH_KNOWN = frozenset({"avi", "matroska"})
_INEXACT = 0.5  # seconds by which what a container says may be wrong

log = structlog.get_logger(__name__)


@cache
def pyav() -> tuple[Any, str]:
    """Import PyAV, and return it with the codecs that FFmpeg may probe a file with."""
    # 30 MB of libraries that a worker fed with WAV never needs, hence not at the top.
    import av

    av.logging.set_level(None)  # FFmpeg would write to stderr what hostile files make it say
    return av, whitelist(av.codecs_available)


def read_pyav(
    file: SeekableView,
    demuxer: str,
    check_time: Callable[[], None],
    report: ReadReport,
) -> Generator[Block, None, None]:
    """Yield blocks of the track that a player would choose.

    A file that breaks in the middle gives what comes before the break, and packets that cannot be
    decoded are passed over; `report` tells of both. `DecoderFailed` if not one sample comes out.

    Args:
        file: the recording.
        demuxer: FFmpeg's name for its container.
        check_time: called for every packet, also for one without samples; raises when decoding
            takes too long.
        report: told what goes wrong.
    """
    av, codecs = pyav()
    options = {"protocol_whitelist": "none", "codec_whitelist": codecs}
    done = 0
    try:
        with av.open(file, "r", format=demuxer, options=options, io_open=_refuse) as container:
            stream = _track(container)
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            start = (container.start_time or 0) / av.time_base
            timed = demuxer in _TIMED
            report.promised, report.inexact = _length(container, stream, demuxer, start), _INEXACT
            unbounded = stream.codec_context.name.startswith("pcm_f")
            failed = 0
            for packet in container.demux(stream):
                check_time()
                try:
                    frames = list(packet.decode())
                except av.InvalidDataError:
                    # One damaged packet: a decoder of compressed speech goes on behind it.
                    if not bytes(packet)[:8].startswith(_TAGS):
                        failed += 1
                        report.lost_bytes += packet.size
                    continue
                for frame in frames:
                    if done:
                        report.damaged += failed
                    failed = report.lost_bytes = 0
                    done += frame.samples
                    time = frame.time if timed else None  # None where there is no time stamp
                    at = None if time is None else time - start
                    yield Block(samples_of(frame), frame.sample_rate, at, unbounded)
    except (av.FFmpegError, *_WHAT_PYAV_RAISES) as error:
        if not done:
            raise DecoderFailed(str(error)) from error
        report.failure = str(error)
        log.warning("audio_cut_short", decoder="ffmpeg", frames=done, why=report.failure)


def _track(container: Any) -> Any:
    """Return the audio track that a player would choose, of those whose codec is taken.

    The default one before others, and a commentary only where there is nothing else.
    """
    tracks = container.streams.audio
    if not tracks:
        message = "there is no audio track in it; send the recording and not its pictures"
        raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
    codecs = [track.codec_context.name if track.codec_context else "unknown" for track in tracks]
    taken = [track for track, codec in zip(tracks, codecs, strict=True) if is_taken(codec)]
    if not taken:
        names = ", ".join(repr(codec) for codec in dict.fromkeys(codecs))
        message = (
            f"its audio is coded as {names}, which is not decoded here; store it as FLAC or Opus"
        )
        raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
    return min(taken, key=lambda track: (_is_commentary(track), not _is_default(track)))


def _is_default(track: Any) -> bool:
    return "default" in _disposition(track)


def _is_commentary(track: Any) -> bool:
    described = {"comment", "visual_impaired", "descriptions"} & _disposition(track)
    return bool(described) or "commentary" in track.metadata.get("title", "").lower()


def _disposition(track: Any) -> set[str]:
    return {flag.name for flag in getattr(track, "disposition", ())}  # PyAV 12 has none


def _length(container: Any, track: Any, demuxer: str, start: float) -> float | None:
    """Return how long the recording is by its container, in seconds, if that can be told."""
    if demuxer == "mov" and track.duration and track.time_base:
        return float(((track.start_time or 0) + track.duration) * track.time_base) - start
    if demuxer in _LENGTH_KNOWN and len(container.streams) == 1 and container.duration:
        return float(container.duration) / 1_000_000
    return None


def samples_of(frame: AudioFrame) -> NDArray[np.float64]:
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
    av, _ = pyav()
    packed = frame.format.name.removesuffix("p")
    resampler = av.AudioResampler(packed, frame.layout, frame.sample_rate)
    frames: list[AudioFrame] = resampler.resample(frame)
    return frames


def _refuse(*_args: object, **_options: object) -> NoReturn:
    raise PermissionError("audio may not refer to further files")
