"""A refusal names what was sent, and what to do about it."""

from __future__ import annotations

import base64
import io

import av
import numpy as np
import pytest
from sensestream_common.contract.errors import ErrorCode, RequestError

from .recordings import Track, clip, decoded, encoded, film, ogg_pages

CLIP = clip()
WEBM = film("webm", Track(CLIP, "libopus", 48_000))
CLUSTER = WEBM.index(b"\x1f\x43\xb6\x75")
MP4 = film("mp4", Track(CLIP, options={}))


def fragmented() -> bytes:
    file = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    with av.open(file, "w", format="mp4", options=options) as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        resampler = av.AudioResampler(stream.codec_context.format, "mono", 16_000)
        frame = av.AudioFrame.from_ndarray(CLIP[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        for converted in resampler.resample(frame):
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))
    return file.getvalue()


FRAGMENTED = fragmented()
JOIN = "send all pieces joined"
CONVERT = "ffmpeg -i INPUT -vn -c:a flac OUTPUT.flac"

CASES = [
    (b"<!DOCTYPE html><html><body>404</body>", "a web page (text/html)", "check the address"),
    (b"\xef\xbb\xbf  \n<html lang='en'>", "a web page (text/html)", "check the address"),
    (b"<!-- comment --><html>", "a web page (text/html)", "check the address"),
    (b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>", "XML", "read it"),
    (b'{"error": "not found"}', "JSON", "read it"),
    (b"[1, 2, 3]", "JSON", "read it"),
    (b"version https://git-lfs.github.com/spec/v1\noid ", "a Git LFS pointer", "git lfs pull"),
    (WEBM[CLUSTER:], "a piece from the middle of a WebM recording", JOIN),
    (WEBM[WEBM.index(b"\xa3", CLUSTER) :], "a piece from the middle of a WebM recording", JOIN),
    (FRAGMENTED[FRAGMENTED.index(b"moof") - 4 :], "a piece from the middle of an MP4", JOIN),
    (b"\0\0\0\x18stypmsdh\0\0\0\0msdhmsix", "a piece from the middle of an MP4", JOIN),
    (b"".join(ogg_pages(encoded(CLIP, form="OGG"))[3:]), "a piece from the middle of an Ogg", JOIN),
    (MP4[: len(MP4) // 2], "its index (the box `moov`) is missing", "not finished"),
    (b"PK\x03\x04" + bytes(50), "a ZIP archive", "unpack it"),
    (b"\x1f\x8b\x08\x00" + bytes(50), "a gzip archive", "unpack it"),
    (b"Rar!\x1a\x07\x01\x00", "a RAR archive", "unpack it"),
    (b"7z\xbc\xaf\x27\x1c\x00\x04", "a 7-Zip archive", "unpack it"),
    (b"%PDF-1.7\n%\xe2\xe3", "a PDF document", "send the recording"),
    (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG picture", "send the recording"),
    (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "a JPEG picture", "send the recording"),
    (b"RIFF\x24\0\0\0WEBPVP8 ", "a WebP picture", "send the recording"),
    (b"MThd\0\0\0\x06\0\x01\0\x02", "a MIDI file", "send the recording"),
    (b"wvpk" + bytes(40), "a WavPack file", CONVERT),
    (b"MAC \x96\x0f" + bytes(40), "a Monkey's Audio file", CONVERT),
    (b"DSD \x1c" + bytes(40), "a DSD recording", CONVERT),
    (b"TTA1\x01\0\x01\0" + bytes(20), "a True Audio file", CONVERT),
    (b".RMF\0\0\0\x12" + bytes(20), "a RealMedia file", CONVERT),
    (b"\x00\x00\x01\xba\x44" + bytes(200), "an MPEG program stream", CONVERT),
    (b"Creative Voice File\x1a" + bytes(20), "a Creative VOC file", CONVERT),
    (b"\x02#!SILK_V3\x17\x00", "a SILK recording", "SILK decoder"),
    (b"#EXTM3U\n#EXTINF:10,\na.ts\n", "a playlist (M3U)", "send the recordings"),
    (b"[playlist]\nFile1=a.mp3\n", "a playlist (PLS)", "send the recordings"),
    (b"WEBVTT\n\n00:00.000 --> 00:01.000\n", "subtitles", "send the recording"),
    (b"--boundary\r\nContent-Disposition: form-data; name=file\r\n", "a whole form", "file part"),
    (b"data:audio/wav;base64,UklGRg==", "a data: URL written as text", "decode its base64"),
    (base64.b64encode(encoded(CLIP)), "a recording written as base64 text", "decode it"),
    (encoded(CLIP[:200]).hex().encode(), "a recording written as hexadecimal text", "decode it"),
    ("это текст, а не звук".encode(), "text", "send the recording"),
    ("text of a table\r\n".encode("utf-16"), "text (UTF-16)", "send the recording"),
    (b"hello, world", "text", "send the recording"),
    (np.random.default_rng(5).bytes(4000), "in no format known here", "-f s16le"),
    (CLIP.tobytes(), "in no format known here", "-f s16le"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "name", "remedy"), CASES, ids=[case[1][:30] for case in CASES])
def test_a_refusal_names_what_it_is_and_what_helps(data: bytes, name: str, remedy: str) -> None:
    with pytest.raises(RequestError) as caught:
        decoded(data)
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE
    assert name in caught.value.message
    assert remedy in caught.value.message


def test_pieces_of_a_webm_recording_are_decoded_once_they_are_joined() -> None:
    pieces = [WEBM[:CLUSTER], WEBM[CLUSTER : CLUSTER + 3000], WEBM[CLUSTER + 3000 :]]
    np.testing.assert_array_equal(decoded(b"".join(pieces)).samples, decoded(WEBM).samples)


def test_a_fragmented_mp4_is_decoded() -> None:
    assert len(decoded(FRAGMENTED).samples) == pytest.approx(len(CLIP), abs=1400)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"\x01\x02\x03" + WEBM[CLUSTER:], "a piece from the middle of a WebM recording"),
        (b"\x01\x02\x03" + FRAGMENTED[FRAGMENTED.index(b"moof") - 4 :], "an MP4 recording"),
        (b"\x01\x02\x03" + b"".join(ogg_pages(encoded(CLIP, form="OGG"))[3:]), "an Ogg recording"),
    ],
    ids=["webm", "mp4", "ogg"],
)
def test_a_piece_that_begins_anywhere_is_known_by_what_follows(data: bytes, name: str) -> None:
    with pytest.raises(RequestError) as caught:
        decoded(data)
    assert name in caught.value.message
    assert JOIN in caught.value.message
