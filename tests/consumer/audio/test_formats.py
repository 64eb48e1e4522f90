"""Every row of the table in docs/audio-sources.md, made and decoded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sensestream_consumer.audio import decoding

from .recordings import Track, at_rate, clip, decoded, encoded, film, is_spoken

CLIP = clip()
DOCUMENT = Path(__file__).parents[3] / "docs" / "audio-sources.md"


def by_libsndfile(form: str, subtype: str, rate: int = 16_000) -> Callable[[], bytes]:
    samples = at_rate(CLIP, rate)
    # libsndfile writes integers into floats as they are.
    floats = samples / 32768 if subtype in {"FLOAT", "DOUBLE"} else samples
    return lambda: encoded(floats, rate, form, subtype)


def by_ffmpeg(form: str, codec: str, rate: int = 16_000, **options: str) -> Callable[[], bytes]:
    return lambda: film(form, Track(at_rate(CLIP, rate), codec, rate, options=options))


def bw64() -> bytes:
    return b"BW64" + encoded(CLIP, form="RF64")[4:]


MADE: dict[tuple[str, str], Callable[[], bytes]] = {
    ("WAV", "PCM, 8 bits"): by_libsndfile("WAV", "PCM_U8"),
    ("WAV", "PCM, 16 bits"): by_libsndfile("WAV", "PCM_16"),
    ("WAV", "PCM, 24 bits"): by_libsndfile("WAV", "PCM_24"),
    ("WAV", "PCM, 32 bits"): by_libsndfile("WAV", "PCM_32"),
    ("WAV", "PCM, extensible header"): by_libsndfile("WAVEX", "PCM_16"),
    ("WAV", "float, 32 bits"): by_libsndfile("WAV", "FLOAT"),
    ("WAV", "float, 64 bits"): by_libsndfile("WAV", "DOUBLE"),
    ("WAV", "µ-law"): by_libsndfile("WAV", "ULAW", 8_000),
    ("WAV", "A-law"): by_libsndfile("WAV", "ALAW", 8_000),
    ("WAV", "IMA ADPCM"): by_libsndfile("WAV", "IMA_ADPCM"),
    ("WAV", "Microsoft ADPCM"): by_libsndfile("WAV", "MS_ADPCM"),
    ("WAV", "Yamaha ADPCM"): by_ffmpeg("wav", "adpcm_yamaha"),
    ("WAV", "GSM 06.10"): by_libsndfile("WAV", "GSM610", 8_000),
    ("WAV", "G.721"): by_libsndfile("WAV", "G721_32", 8_000),
    ("WAV", "G.722"): by_ffmpeg("wav", "g722"),
    ("WAV", "G.726"): by_ffmpeg("wav", "g726", 8_000),
    ("WAV", "MP3"): by_ffmpeg("wav", "libmp3lame"),
    ("RF64", "PCM, 16 bits"): by_libsndfile("RF64", "PCM_16"),
    ("BW64", "PCM, 16 bits"): bw64,
    ("W64", "PCM, 16 bits"): by_libsndfile("W64", "PCM_16"),
    ("W64", "float, 32 bits"): by_libsndfile("W64", "FLOAT"),
    ("AIFF", "PCM, 16 bits"): by_libsndfile("AIFF", "PCM_16"),
    ("AIFF", "PCM, 24 bits"): by_libsndfile("AIFF", "PCM_24"),
    ("AIFF", "float, 32 bits"): by_libsndfile("AIFF", "FLOAT"),
    ("AIFF", "µ-law"): by_libsndfile("AIFF", "ULAW", 8_000),
    ("AIFF", "IMA ADPCM"): by_ffmpeg("aiff", "adpcm_ima_qt"),
    ("AU", "PCM, 16 bits"): by_libsndfile("AU", "PCM_16"),
    ("AU", "µ-law"): by_libsndfile("AU", "ULAW", 8_000),
    ("AU", "A-law"): by_libsndfile("AU", "ALAW", 8_000),
    ("AU", "G.722"): by_ffmpeg("au", "g722"),
    ("CAF", "PCM, 16 bits"): by_libsndfile("CAF", "PCM_16"),
    ("CAF", "float, 32 bits"): by_libsndfile("CAF", "FLOAT"),
    ("CAF", "ALAC"): by_ffmpeg("caf", "alac"),
    ("CAF", "µ-law"): by_ffmpeg("caf", "pcm_mulaw", 8_000),
    ("SPHERE", "PCM, 16 bits"): by_libsndfile("NIST", "PCM_16"),
    ("SPHERE", "µ-law"): by_libsndfile("NIST", "ULAW", 8_000),
    ("FLAC", "FLAC, 16 bits"): by_libsndfile("FLAC", "PCM_16"),
    ("FLAC", "FLAC, 24 bits"): by_libsndfile("FLAC", "PCM_24"),
    ("Ogg", "Vorbis"): by_libsndfile("OGG", "VORBIS"),
    ("Ogg", "Opus"): by_libsndfile("OGG", "OPUS"),
    ("Ogg", "FLAC"): by_ffmpeg("ogg", "flac"),
    ("MP3", "MP3"): by_ffmpeg("mp3", "libmp3lame"),
    ("MP3", "MP2"): by_ffmpeg("mp2", "mp2", 48_000),
    ("AAC (ADTS)", "AAC"): by_ffmpeg("adts", "aac"),
    ("M4A, MP4", "AAC"): by_ffmpeg("ipod", "aac"),
    ("M4A, MP4", "ALAC"): by_ffmpeg("ipod", "alac"),
    ("M4A, MP4", "MP3"): by_ffmpeg("mp4", "libmp3lame"),
    ("M4A, MP4", "FLAC"): by_ffmpeg("mp4", "flac"),
    ("M4A, MP4", "Opus"): by_ffmpeg("mp4", "libopus", 48_000),
    ("M4A, MP4", "AC-3"): by_ffmpeg("mp4", "ac3", 48_000),
    ("M4A, MP4", "E-AC-3"): by_ffmpeg("mp4", "eac3", 48_000),
    ("MOV", "PCM, 16 bits"): by_ffmpeg("mov", "pcm_s16le"),
    ("MOV", "µ-law"): by_ffmpeg("mov", "pcm_mulaw", 8_000),
    ("MOV", "IMA ADPCM"): by_ffmpeg("mov", "adpcm_ima_qt"),
    ("3GP", "AMR narrowband"): by_ffmpeg("3gp", "libopencore_amrnb", 8_000),
    ("3GP", "AAC"): by_ffmpeg("3gp", "aac"),
    ("AMR", "AMR narrowband"): by_ffmpeg("amr", "libopencore_amrnb", 8_000),
    ("WebM, MKV", "Opus"): by_ffmpeg("webm", "libopus", 48_000),
    ("WebM, MKV", "AAC"): by_ffmpeg("matroska", "aac"),
    ("WebM, MKV", "MP3"): by_ffmpeg("matroska", "libmp3lame"),
    ("WebM, MKV", "FLAC"): by_ffmpeg("matroska", "flac"),
    ("WebM, MKV", "ALAC"): by_ffmpeg("matroska", "alac"),
    ("WebM, MKV", "WavPack"): by_ffmpeg("matroska", "wavpack"),
    ("WebM, MKV", "PCM, 16 bits"): by_ffmpeg("matroska", "pcm_s16le"),
    ("WebM, MKV", "AC-3"): by_ffmpeg("matroska", "ac3", 48_000),
    ("WebM, MKV", "E-AC-3"): by_ffmpeg("matroska", "eac3", 48_000),
    ("WebM, MKV", "MP2"): by_ffmpeg("matroska", "mp2", 48_000),
    ("WMA (ASF)", "WMA 1"): by_ffmpeg("asf", "wmav1", 44_100, b="64000"),
    ("WMA (ASF)", "WMA 2"): by_ffmpeg("asf", "wmav2", 44_100, b="64000"),
    ("WMA (ASF)", "MP3"): by_ffmpeg("asf", "libmp3lame"),
    ("AVI", "PCM, 16 bits"): by_ffmpeg("avi", "pcm_s16le"),
    ("AVI", "MP3"): by_ffmpeg("avi", "libmp3lame"),
    ("AVI", "AC-3"): by_ffmpeg("avi", "ac3", 48_000),
    ("AVI", "Microsoft ADPCM"): by_ffmpeg("avi", "adpcm_ms"),
    ("MPEG-TS", "AAC"): by_ffmpeg("mpegts", "aac"),
    ("MPEG-TS", "MP2"): by_ffmpeg("mpegts", "mp2", 48_000),
    ("MPEG-TS", "MP3"): by_ffmpeg("mpegts", "libmp3lame", 48_000),
    ("MPEG-TS", "AC-3"): by_ffmpeg("mpegts", "ac3", 48_000),
    ("MPEG-TS", "E-AC-3"): by_ffmpeg("mpegts", "eac3", 48_000),
    ("MPEG-TS", "Opus"): by_ffmpeg("mpegts", "libopus", 48_000),
    ("FLV", "AAC"): by_ffmpeg("flv", "aac", 44_100),
    ("FLV", "MP3"): by_ffmpeg("flv", "libmp3lame", 44_100),
    ("FLV", "Nellymoser"): by_ffmpeg("flv", "nellymoser", 22_050),
    ("FLV", "Flash ADPCM"): by_ffmpeg("flv", "adpcm_swf", 22_050),
    ("FLV", "PCM, 16 bits"): by_ffmpeg("flv", "pcm_s16le", 44_100),
    ("AC-3", "AC-3"): by_ffmpeg("ac3", "ac3", 48_000),
    ("AC-3", "E-AC-3"): by_ffmpeg("eac3", "eac3", 48_000),
}
# AMR makes speech anew out of a description of it: the words are there, the waves are not.
DESCRIBED = {"AMR narrowband"}


@pytest.mark.parametrize(("container", "codec"), MADE, ids=[" ".join(key) for key in MADE])
def test_a_format_that_is_taken_gives_its_sound_and_no_warning(container: str, codec: str) -> None:
    result = decoded(MADE[container, codec]())
    assert len(result.samples) / 16_000 == pytest.approx(len(CLIP) / 16_000, abs=0.2)
    assert not result.warnings
    if codec in DESCRIBED:
        assert _envelope(result.samples, CLIP) > 0.8
    else:
        assert is_spoken(result.samples, 0, CLIP, within=0.15)


def _envelope(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    """How alike two recordings are in their loudness over time."""
    size = min(len(one), len(other)) // 800 * 800
    loud = [np.abs(x[:size].astype(float)).reshape(-1, 800).mean(axis=1) for x in (one, other)]
    return float(np.corrcoef(*loud)[0, 1])


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading of the document."""
    section = DOCUMENT.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in cells] for cells in lines[2:]]


def test_the_document_lists_the_formats_that_are_tested_and_no_others() -> None:
    listed = {
        (container, codec.strip())
        for container, codecs in rows("Formats")
        for codec in codecs.split("; ")
    }
    assert listed == set(MADE)


def test_each_oddity_of_the_document_is_held_by_a_test() -> None:
    sources = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")
    )
    listed = rows("Oddities")
    assert len(listed) > 15
    for _, _, test in listed:
        assert f"def {test.strip('`')}(" in sources, test


def test_each_warning_of_the_document_is_one_that_the_decoder_gives() -> None:
    folder = Path(decoding.__file__).parent
    given = set()
    for path in folder.rglob("*.py"):
        given |= set(re.findall(r'AudioWarning\(\s*"(\w+)"', path.read_text(encoding="utf-8")))
    assert {code.strip("`") for code, _ in rows("Warnings")} == given
