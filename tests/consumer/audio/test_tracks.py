"""Which of several tracks is transcribed."""

from __future__ import annotations

import io

import av
import numpy as np
import psutil
import pytest
from sensestream_common.contract.errors import ErrorCode, RequestError

from .recordings import Track, at_rate, clip, decoded, film, is_spoken, tone

CLIP = clip()
SPEECH = at_rate(CLIP, 48_000)
OTHER = tone(3, 48_000)


def speech(codec: str = "aac", **kind: str) -> Track:
    return Track(SPEECH, codec, 48_000, **kind)  # type: ignore[arg-type]


def other(codec: str = "aac", **kind: str) -> Track:
    return Track(OTHER, codec, 48_000, **kind)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["mp4", "matroska"])
@pytest.mark.parametrize(
    "tracks",
    [
        (speech(), other()),
        (other(), speech(disposition="default")),
        (speech(disposition="default"), other()),
        (other(), speech(disposition="default"), other()),
    ],
)
def test_the_default_track_is_taken_else_the_first(form: str, tracks: tuple[Track, ...]) -> None:
    assert is_spoken(decoded(film(form, *tracks, seconds=4)).samples, 0, CLIP)


@pytest.mark.parametrize(
    "tracks",
    [
        (other(disposition="comment"), speech()),
        (other(disposition="visual_impaired"), speech()),
        (other(title="Director's Commentary"), speech()),
        (speech(disposition="comment"),),
    ],
)
def test_a_commentary_is_taken_only_where_there_is_nothing_else(tracks: tuple[Track, ...]) -> None:
    assert is_spoken(decoded(film("matroska", *tracks)).samples, 0, CLIP)


@pytest.mark.parametrize("codec", ["ac3", "eac3"])
@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
def test_the_sound_of_most_films_is_decoded(form: str, codec: str) -> None:
    assert is_spoken(decoded(film(form, speech(codec))).samples, 0, CLIP)


def test_the_first_track_whose_codec_is_taken_is_taken() -> None:
    foreign = Track(tone(3, 8_000), "real_144", 8_000, disposition="default")
    assert is_spoken(decoded(film("matroska", foreign, speech())).samples, 0, CLIP)


def test_all_codecs_are_named_if_none_is_taken() -> None:
    foreign = Track(tone(3, 8_000), "real_144", 8_000)
    with pytest.raises(RequestError, match="'real_144'") as caught:
        decoded(film("matroska", foreign, foreign))
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE


def _with_cover(form: str) -> bytes:
    """A song whose cover picture of some kilobytes is 12,000 points wide and high."""
    file = io.BytesIO()
    with av.open(file, "w", format=form) as container:
        cover = container.add_stream("png", rate=1)
        cover.width = cover.height = 12_000
        cover.pix_fmt = "gray"
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        picture = av.VideoFrame(12_000, 12_000, "gray")
        picture.pts = 0
        container.mux(cover.encode(picture))
        frame = av.AudioFrame.from_ndarray(CLIP[None, :1024], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        resampler = av.AudioResampler(sound.codec_context.format, "mono", 16_000)
        for converted in resampler.resample(frame):
            container.mux(sound.encode(converted))
        container.mux(sound.encode(None))
    return file.getvalue()


def test_a_cover_picture_is_not_decoded() -> None:
    data = _with_cover("mov")
    decoded(film("mov", speech()))  # the libraries are loaded
    before = psutil.Process().memory_info().rss
    samples = decoded(data).samples
    grown = psutil.Process().memory_info().rss - before
    assert len(samples) == pytest.approx(1024, abs=1024)
    assert np.abs(samples).max() >= 0
    assert grown < 60 * 1024 * 1024
