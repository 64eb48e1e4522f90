"""MP3 and AAC that do not begin at the first byte, and what only looks like them."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from sensestream_common.contract.errors import ErrorCode, RequestError

from .recordings import clip, codes, decoded, encoded, encoded_by_ffmpeg, is_spoken

CLIP = clip()
MP3 = encoded_by_ffmpeg(CLIP, 16_000, "mp3", "libmp3lame")
MP3 = MP3[MP3.index(b"\xff\xf3") :]  # without its tag
AAC = encoded_by_ffmpeg(CLIP, 16_000, "adts", "aac")
FRAMES = {"mp3": MP3, "aac": AAC}
PICTURE = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(range(256)) * 80 + b"\xff\xd9"


def id3(body: bytes, size: int | None = None) -> bytes:
    size = len(body) if size is None else size
    digits = bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00\x00" + digits + body


def ape(body: bytes, flags: int = 0xA000_0000) -> bytes:
    return b"APETAGEX" + struct.pack("<IIII", 2000, len(body), 1, flags) + bytes(8) + body


LEADING = {
    "zeros": bytes(5000),
    "many zeros": bytes(60_000),
    "line ends": b"\r\n\r\n",
    "half a frame of mp3": MP3[-100:],
    "half a frame of aac": AAC[-150:],
    "an id3 tag that is longer than it says": id3(PICTURE, 100),
    "an id3 tag that is shorter than it says": id3(b"TIT2" + bytes(500), 4000),
    "an id3 tag that claims to be longer than the file": id3(bytes(500), 200_000_000),
    "a byte order mark": b"\xef\xbb\xbf",
    "noise": np.random.default_rng(3).bytes(3000),
}


@pytest.mark.parametrize("kind", LEADING)
@pytest.mark.parametrize("form", FRAMES)
def test_the_first_frame_is_found_behind_other_bytes(form: str, kind: str) -> None:
    whole = decoded(FRAMES[form]).samples
    result = decoded(LEADING[kind] + FRAMES[form])
    assert abs(len(result.samples) - len(whole)) <= 2 * 1152
    assert is_spoken(result.samples, 0, whole, within=0.15)
    assert codes(result) == {"leading_bytes_skipped"}
    assert f"{len(LEADING[kind])} bytes" in result.warnings[0].message or "id3" in kind


@pytest.mark.parametrize(
    "tag", [id3(PICTURE), ape(bytes(200)), ape(PICTURE * 10), id3(b"") + ape(PICTURE), b""]
)
@pytest.mark.parametrize("form", FRAMES)
def test_tags_are_passed_over_without_a_word(form: str, tag: bytes) -> None:
    result = decoded(tag + FRAMES[form])
    np.testing.assert_array_equal(result.samples, decoded(FRAMES[form]).samples)
    assert not result.warnings


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG"])
def test_other_recordings_are_found_behind_a_few_bytes_as_well(form: str) -> None:
    data = encoded(CLIP, form=form)
    result = decoded(b"\r\n\0\0" + data)
    np.testing.assert_array_equal(result.samples, decoded(data).samples)
    assert codes(result) == {"leading_bytes_skipped"}


LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGE = b"<!DOCTYPE html><html><head><title>page.mp3</title></head><body>Sign in</body></html>"
ARCHIVE = b"PK\x03\x04\x0a\x00\x00\x00\x00\x00" + bytes(16) + b"\x05\x00\x00\x00a.mp3"


@pytest.mark.parametrize(
    "data", [PAGE, LFS, ARCHIVE + MP3, PAGE + MP3, b"\x1f\x8b\x08" + MP3, b"%PDF-1.7\n" + AAC]
)
def test_a_page_a_pointer_and_an_archive_stay_refused(data: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        decoded(data)
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE


def test_bytes_without_two_frames_in_a_row_are_no_mp3() -> None:
    lonely = b"".join(MP3[:144] + bytes(100) for _ in range(50))
    with pytest.raises(RequestError) as caught:
        decoded(bytes(10) + lonely)
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE


def test_frames_behind_more_than_64_kilobytes_are_not_looked_for() -> None:
    with pytest.raises(RequestError):
        decoded(bytes(66_000) + MP3)


def test_a_single_frame_is_a_recording() -> None:
    length = (AAC[3] & 3) << 11 | AAC[4] << 3 | AAC[5] >> 5
    assert len(decoded(AAC[:length]).samples) == 1024
