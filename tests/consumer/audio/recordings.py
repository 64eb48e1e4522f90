"""Recordings that the tests make themselves, in every format that is taken."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.resources import files
from typing import Any

import av
import numpy as np
import soundfile
import soxr
from av.stream import Disposition
from numpy.typing import NDArray
from sensestream_consumer.audio import AudioPolicy, Decoded, Fetched, Spool, decode_with_warnings

__all__ = [
    "Track",
    "amr",
    "as_fetched",
    "at_rate",
    "clip",
    "codes",
    "decoded",
    "encoded",
    "encoded_by_ffmpeg",
    "every_format",
    "film",
    "is_spoken",
    "lying_wav",
    "ogg_pages",
    "surround",
    "tone",
]

CLIPS = files("sensestream_consumer") / "clips"


def tone(seconds: float = 1.0, rate: int = 16_000, hertz: float = 440.0) -> NDArray[np.int16]:
    """A sine with a little noise, so that no two seconds of it are alike."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(7).standard_normal(len(time))
    wave = 0.3 * np.sin(2 * np.pi * hertz * time) + 0.01 * noise
    return np.asarray(np.round(wave * 32767), dtype=np.int16)


def encoded(
    samples: NDArray[Any], rate: int = 16_000, form: str = "WAV", subtype: str | None = None
) -> bytes:
    """A file written by libsndfile."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


def encoded_by_ffmpeg(samples: NDArray[np.int16], rate: int, form: str, codec: str) -> bytes:
    """A file written by FFmpeg; mono."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate)
        for start in range(0, len(samples), 960):
            frame = av.AudioFrame.from_ndarray(
                samples[None, start : start + 960], format="s16", layout="mono"
            )
            frame.sample_rate = rate
            frame.pts = start
            for converted in resampler.resample(frame):
                container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return file.getvalue()


def amr(frames: int = 50) -> bytes:
    """AMR narrowband of `frames` × 20 ms: mode 7 (12.2 kbit/s), quality bit set, 31 bytes each."""
    body = (
        bytes([7 << 3 | 4]) + bytes((i * 37 + j * 11) % 256 for j in range(31))
        for i in range(frames)
    )
    return b"#!AMR\n" + b"".join(body)


def every_format() -> dict[str, bytes]:
    """One second of a tone in each format that the worker takes, by name."""
    wide, narrow = tone(rate=48_000), tone()
    return {
        "wav": encoded(narrow),
        "wav-float": encoded(narrow / 32768, subtype="FLOAT"),
        "flac": encoded(narrow, form="FLAC"),
        "ogg": encoded(wide, 48_000, "OGG", "VORBIS"),
        "opus": encoded(wide, 48_000, "OGG", "OPUS"),
        "mp3": encoded(wide, 48_000, "MP3"),
        "m4a": encoded_by_ffmpeg(wide, 48_000, "ipod", "aac"),
        "aac": encoded_by_ffmpeg(wide, 48_000, "adts", "aac"),
        "webm": encoded_by_ffmpeg(wide, 48_000, "webm", "libopus"),
        "amr": amr(),
    }


def lying_wav(
    *, rate: int | None = None, channels: int | None = None, size: int | None = None
) -> bytes:
    """A WAV of 16-bit samples whose header says otherwise."""
    data = bytearray(encoded(tone(0.1)))
    if channels is not None:
        data[22:24] = struct.pack("<H", channels)
        data[32:34] = struct.pack("<H", 2 * channels & 0xFFFF)
    if rate is not None:
        data[24:28] = struct.pack("<I", rate)
    if size is not None:
        data[4:8] = struct.pack("<I", size)
        at = data.index(b"data") + 4
        data[at : at + 4] = struct.pack("<I", size)
    return bytes(data)


def as_fetched(data: bytes) -> Fetched:
    """`data` as a fetcher would hand it over."""
    with Spool("a test's recording", len(data)) as spool:
        spool.write(data)
        return spool.finish()


def clip() -> NDArray[np.int16]:
    """The embedded recording of the digits 314159: 3.181 s at 16 kHz, mono."""
    samples, rate = soundfile.read(CLIPS / "en-wideband.wav", dtype="int16")
    assert rate == 16_000
    return np.asarray(samples, dtype=np.int16)


def at_rate(samples: NDArray[np.int16], rate: int) -> NDArray[np.int16]:
    """The same sound at another rate, from 16 kHz."""
    resampled = soxr.resample(samples, 16_000, rate)
    return np.asarray(resampled, dtype=np.int16)


@dataclass(frozen=True)
class Track:
    """One audio track of a film; `pauses` are holes in its time stamps, `lost` missing packets.

    Times in seconds of the track's own sound.
    """

    samples: NDArray[np.int16]
    codec: str = "aac"
    rate: int = 16_000
    delay: float = 0.0
    pauses: tuple[tuple[float, float], ...] = ()
    lost: tuple[tuple[float, float], ...] = ()
    disposition: str = ""
    title: str = ""
    options: dict[str, str] = field(default_factory=dict)


def film(form: str, *tracks: Track, seconds: float = 0.0, codec: str = "mpeg4") -> bytes:
    """A file of `form` with the tracks and, if it lasts some seconds, a picture from 0 on."""
    file = io.BytesIO()
    packets = []
    with av.open(file, "w", format=form) as container:
        picture = _add_picture(container, codec) if seconds else None
        streams = [_add_track(container, track) for track in tracks]
        if picture:
            packets += _pictures(picture, seconds)
        for stream, track in zip(streams, tracks, strict=True):
            packets += _sound(stream, track)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            container.mux(packet)
    return file.getvalue()


def _add_picture(container: Any, codec: str) -> Any:
    stream = container.add_stream(codec, rate=25)
    stream.width = stream.height = 64
    stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    return stream


def _add_track(container: Any, track: Track) -> Any:
    stream = container.add_stream(
        track.codec, rate=track.rate, layout="mono", options=track.options
    )
    if track.disposition:
        stream.disposition = Disposition[track.disposition]
    if track.title:
        stream.metadata["title"] = track.title
    return stream


def _pictures(stream: Any, seconds: float) -> list[Any]:
    packets = []
    for number in range(round(seconds * 25)):
        frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        frame = frame.reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, 25)
        packets += stream.encode(frame)
    return [*packets, *stream.encode(None)]


def _sound(stream: Any, track: Track) -> list[Any]:
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(stream.codec_context.format, "mono", track.rate, size)
    packets = []
    for start in range(0, len(track.samples), 1024):
        frame = av.AudioFrame.from_ndarray(
            track.samples[None, start : start + 1024], format="s16", layout="mono"
        )
        frame.sample_rate, frame.pts, frame.time_base = track.rate, start, Fraction(1, track.rate)
        for converted in resampler.resample(frame):
            packets += stream.encode(converted)
    for converted in resampler.resample(None):
        packets += stream.encode(converted)
    packets += stream.encode(None)
    return [_shifted(packet, track) for packet in packets if not _is_lost(packet, track)]


def _is_lost(packet: Any, track: Track) -> bool:
    at = float(packet.pts * packet.time_base)
    return any(begin <= at < end for begin, end in track.lost)


def _shifted(packet: Any, track: Track) -> Any:
    at = float(packet.pts * packet.time_base)
    shift = track.delay + sum(length for begin, length in track.pauses if at >= begin)
    ticks = round(shift / packet.time_base)
    packet.pts += ticks
    packet.dts += ticks
    return packet


def surround(layout: str, codec: str, form: str = "matroska") -> bytes:
    """The clip on every channel of a layout."""
    channels = av.AudioLayout(layout).nb_channels
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=48_000, layout=layout)
        resampler = av.AudioResampler(stream.codec_context.format, layout, 48_000)
        spread = np.repeat(at_rate(clip(), 48_000)[:, None], channels, axis=1).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(spread, format="s16", layout=layout)
        frame.sample_rate, frame.pts = 48_000, 0
        size = stream.codec_context.frame_size or 1024
        fifo = av.AudioFifo()
        for converted in resampler.resample(frame):
            fifo.write(converted)
        while part := fifo.read(size, partial=True):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def ogg_pages(data: bytes) -> list[bytes]:
    """The pages of an Ogg file."""
    return [b"OggS" + page for page in data.split(b"OggS")[1:]]


def decoded(data: bytes, **limits: Any) -> Decoded:
    """Samples and warnings of `data`; `limits` are those of the policy."""
    with as_fetched(bytes(data)) as fetched:
        return decode_with_warnings(fetched, AudioPolicy(roots=(), **limits))


def codes(result: Decoded) -> set[str]:
    """The codes of the warnings."""
    return {warning.code for warning in result.warnings}


def is_spoken(
    samples: NDArray[np.int16], at: float, whole: NDArray[np.int16], within: float = 0.07
) -> bool:
    """Whether `whole` sounds at `at` seconds, give or take some, as a codec may leave of it."""
    first = round(at * 16_000)
    slack = round(within * 16_000)
    begin = max(0, first - slack)
    part = samples[begin : first + len(whole) + slack].astype(np.float64)
    if len(part) < 0.9 * len(whole):
        return False
    size = len(part) + len(whole)
    spectrum = np.fft.rfft(part, size) * np.conj(np.fft.rfft(whole.astype(np.float64), size))
    likeness = np.roll(np.abs(np.fft.irfft(spectrum, size)), slack)
    best = likeness[first - begin : first - begin + 2 * slack + 1].max()
    energies = np.square(part).sum() * np.square(whole.astype(np.float64)).sum()
    return bool(best > 0.8 * np.sqrt(energies))
