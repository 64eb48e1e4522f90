"""Recordings that the tests make themselves, in every format that is taken."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from sensestream_consumer.audio import Fetched, Spool

__all__ = [
    "amr",
    "as_fetched",
    "encoded",
    "encoded_by_ffmpeg",
    "every_format",
    "lying_wav",
    "surround",
    "tone",
]


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


def surround(layout: str, codec: str, form: str = "matroska") -> bytes:
    """A tone on every channel of a layout."""
    channels = av.AudioLayout(layout).nb_channels
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        stream: Any = container.add_stream(codec, rate=48_000, layout=layout)
        resampler = av.AudioResampler(stream.codec_context.format, layout, 48_000)
        spread = np.repeat(tone(2, 48_000)[:, None], channels, axis=1).reshape(1, -1)
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
