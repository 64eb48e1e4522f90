"""Recordings that were never closed, joined, cut or damaged: all their sound, and what is lost."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from sensestream_common.contract.errors import ErrorCode, RequestError

from .recordings import (
    Track,
    amr,
    at_rate,
    clip,
    codes,
    decoded,
    encoded,
    encoded_by_ffmpeg,
    film,
    is_spoken,
    ogg_pages,
)

CLIP = clip()
SECONDS = len(CLIP) / 16_000
LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"a recorder 1.0"


def patched(data: bytes, *patches: tuple[int, bytes]) -> bytes:
    changed = bytearray(data)
    for at, new in patches:
        changed[at : at + len(new)] = new
    return bytes(changed)


def unclosed(form: str, size: bytes = b"") -> bytes:
    """The clip as a recorder leaves it that crashes: with sizes of 0."""
    data = encoded(CLIP, form=form, subtype="PCM_16")
    at = data.index(b"SSND" if form == "AIFF" else b"data")
    if form == "AIFF":
        frames = data.index(b"COMM") + 10
        return patched(data, (4, bytes(4)), (frames, bytes(4)), (at + 4, bytes(4)))
    if form == "CAF":
        return patched(data, (at + 4, bytes(8)))
    if form == "W64":
        return patched(data, (16, bytes(8)), (at + 16, bytes(8)))
    if form == "RF64":
        return patched(data, (data.index(b"ds64") + 8, bytes(24)))
    return patched(data, (4, bytes(4)), (at + 4, bytes(4)))


@pytest.mark.parametrize("form", ["WAV", "WAVEX", "RF64", "AIFF", "CAF", "W64"])
def test_a_recording_that_was_never_closed_is_decoded_to_its_end(form: str) -> None:
    np.testing.assert_array_equal(decoded(unclosed(form)).samples, CLIP)


def test_an_au_file_that_was_never_closed_is_decoded_to_its_end() -> None:
    au = encoded(CLIP, form="AU", subtype="PCM_16")
    np.testing.assert_array_equal(decoded(patched(au, (8, bytes(4)))).samples, CLIP)


def test_an_unclosed_wav_in_a_codec_that_libsndfile_lacks_is_decoded_to_its_end() -> None:
    wav = encoded_by_ffmpeg(CLIP, 16_000, "wav", "g722")
    at = wav.index(b"data") + 4
    whole = decoded(wav).samples
    result = decoded(patched(wav, (4, bytes(4)), (at, bytes(4)))).samples
    np.testing.assert_array_equal(result[: len(whole)], whole)
    assert len(result) - len(whole) <= 2  # a byte of padding


@pytest.mark.parametrize("announced", [0, 2, 20_000])
def test_chunks_behind_an_unclosed_wav_are_not_read_as_sound(announced: int) -> None:
    wav = encoded(CLIP)
    broken = patched(wav, (4, bytes(4)), (40, struct.pack("<I", announced))) + LIST
    result = decoded(broken)
    np.testing.assert_array_equal(result.samples, CLIP)
    assert codes(result) == ({"length_corrected"} if announced else set())


@pytest.mark.parametrize("behind", [b"", LIST, LIST * 3, b"id3 \x04\0\0\0abcd", b"\0" * 6])
def test_chunks_and_padding_behind_a_whole_wav_are_no_sound(behind: bytes) -> None:
    result = decoded(encoded(CLIP) + behind)
    np.testing.assert_array_equal(result.samples, CLIP)
    assert not result.warnings


@pytest.mark.parametrize("behind", [b"", LIST, LIST * 300])
@pytest.mark.parametrize("form", ["WAV", "AIFF"])
def test_a_recording_that_is_truly_empty_stays_so(form: str, behind: bytes) -> None:
    if form == "AIFF":
        behind = b"".join(b"ANNO" + struct.pack(">I", 4) + b"text" for _ in range(len(behind) // 9))
    with pytest.raises(RequestError) as caught:
        decoded(encoded(CLIP[:0], form=form) + behind)
    assert caught.value.code is ErrorCode.AUDIO_EMPTY


def test_an_unclosed_wav_is_held_to_the_limit() -> None:
    with pytest.raises(RequestError) as caught:
        decoded(unclosed("WAV"), max_seconds=2)
    assert caught.value.code is ErrorCode.AUDIO_TOO_LONG


@pytest.mark.parametrize(
    "parts",
    [
        [("WAV", "PCM_16", 16_000)] * 3,
        [("WAV", "PCM_16", 16_000), ("WAV", "PCM_16", 8_000), ("WAV", "PCM_24", 48_000)],
        [("FLAC", "PCM_16", 16_000)] * 3,
        [("FLAC", "PCM_16", 16_000), ("FLAC", "PCM_16", 44_100), ("FLAC", "PCM_24", 8_000)],
        [("AIFF", "PCM_16", 16_000), ("AIFF", "PCM_16", 8_000)],
        [("AU", "PCM_16", 16_000), ("AU", "PCM_16", 8_000)],
        [("CAF", "PCM_16", 16_000), ("CAF", "PCM_16", 8_000)],
        [("W64", "PCM_16", 16_000), ("W64", "PCM_16", 8_000)],
        [("RF64", "PCM_16", 16_000), ("WAV", "PCM_16", 16_000)],
        [("OGG", "VORBIS", 16_000)] * 2,
        [("OGG", "VORBIS", 16_000), ("OGG", "VORBIS", 44_100), ("OGG", "VORBIS", 16_000)],
        [("OGG", "OPUS", 48_000), ("OGG", "OPUS", 16_000)],
        [("OGG", "VORBIS", 16_000), ("OGG", "OPUS", 48_000)],
    ],
)
def test_each_of_the_joined_recordings_is_decoded(parts: list[tuple[str, str, int]]) -> None:
    result = decoded(b"".join(encoded(at_rate(CLIP, rate), rate, *form) for *form, rate in parts))
    assert len(result.samples) / 16_000 == pytest.approx(len(parts) * SECONDS, abs=0.01)
    assert all(is_spoken(result.samples, part * SECONDS, CLIP) for part in range(len(parts)))
    assert not result.warnings


@pytest.mark.parametrize(
    ("form", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")]
)
def test_a_joined_recording_with_other_channels_is_decoded(form: str, subtype: str) -> None:
    stereo = np.column_stack([CLIP, CLIP])
    parts = [encoded(samples, 16_000, form, subtype) for samples in (CLIP, stereo, CLIP)]
    result = decoded(b"".join(parts))
    assert all(is_spoken(result.samples, part * SECONDS, CLIP) for part in range(3))


def test_ogg_from_encoders_with_other_settings_is_decoded_and_not_turned_into_noise() -> None:
    parts = []
    for level in (0.1, 0.9):
        file = io.BytesIO()
        soundfile.write(file, CLIP, 16_000, format="OGG", subtype="VORBIS", compression_level=level)
        parts.append(file.getvalue())
    result = decoded(b"".join(parts))
    assert is_spoken(result.samples, SECONDS, CLIP)


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [
        ("mp3", "libmp3lame", 16_000),
        ("adts", "aac", 16_000),
        ("ipod", "aac", 16_000),
        ("mov", "pcm_s16le", 16_000),
        ("webm", "libopus", 48_000),
        ("matroska", "pcm_s16le", 8_000),
        ("flv", "aac", 44_100),
        ("mpegts", "aac", 16_000),
    ],
)
def test_joined_files_that_only_ffmpeg_reads_are_decoded_each(
    form: str, codec: str, rate: int
) -> None:
    part = film(form, Track(at_rate(CLIP, rate), codec, rate))
    one = len(decoded(part).samples)
    result = decoded(part * 2)
    assert len(result.samples) == pytest.approx(2 * one, abs=3200)
    assert is_spoken(result.samples, len(result.samples) / 32_000, CLIP)


def test_joined_amr_is_decoded_and_its_second_header_is_not() -> None:
    assert len(decoded(amr(50) * 3).samples) == 3 * 16_000


def test_a_joined_recording_that_cannot_be_decoded_is_told_of() -> None:
    whole = encoded(CLIP, form="FLAC")
    broken = whole[:60] + bytes(500)
    result = decoded(whole + broken + whole)
    assert len(result.samples) == 2 * len(CLIP)
    (warning,) = result.warnings
    assert warning.code == "joined_part_lost"
    assert f"bytes {len(whole)} to {len(whole) + len(broken)}" in warning.message
    assert "3.2 s" in warning.message


@pytest.mark.parametrize(
    "damage",
    [bytes(3000), b"\x55" * 100, b"\xff" * 2000, bytes(range(256))],
    ids=["zeros", "a pattern", "ones", "bytes"],
)
@pytest.mark.parametrize("where", [0.2, 0.5, 0.8])
def test_a_flac_damaged_in_the_middle_goes_on_behind_it_in_time(
    damage: bytes, where: float
) -> None:
    flac = encoded(CLIP, form="FLAC")
    at = round(where * len(flac))
    result = decoded(flac[:at] + damage + flac[at + len(damage) :])
    assert len(result.samples) == len(CLIP)
    different = np.flatnonzero(result.samples != CLIP) / 16_000
    assert different.max() - different.min() < 1.1
    assert not result.samples[result.samples != CLIP].any()  # silence, and no noise
    (warning,) = result.warnings
    assert warning.code == "audio_damaged"
    assert "silence stands for what could not be decoded" in warning.message


def test_a_flac_with_one_wrong_bit_loses_a_frame_and_not_the_rest() -> None:
    flac = bytearray(encoded(CLIP, form="FLAC"))
    flac[len(flac) // 2] ^= 0x10
    result = decoded(bytes(flac))
    assert len(result.samples) == len(CLIP)
    assert np.mean(result.samples == CLIP) > 0.8
    assert codes(result) == {"audio_damaged"}


@pytest.mark.parametrize("claim", [1, 10_000])
def test_a_flac_that_claims_fewer_samples_than_it_has_is_decoded_whole(claim: int) -> None:
    samples = np.tile(CLIP, 5)
    flac = bytearray(encoded(samples, form="FLAC"))
    flac[21] &= 0xF0
    flac[22:26] = claim.to_bytes(4, "big")
    np.testing.assert_array_equal(decoded(bytes(flac)).samples, samples)


def _cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: round(share * len(data))]


@pytest.mark.parametrize(
    "data",
    [
        _cut(encoded(CLIP)),
        _cut(encoded(CLIP, form="AIFF")),
        _cut(encoded(CLIP, form="FLAC")),
        _cut(encoded(CLIP, form="W64")),
        _cut(encoded(CLIP, form="CAF")),
        _cut(encoded(CLIP, form="AU", subtype="PCM_16")),
        _cut(film("matroska", Track(CLIP))),
        _cut(film("avi", Track(CLIP, "pcm_s16le"))),
    ],
    ids=["wav", "aiff", "flac", "w64", "caf", "au", "mkv", "avi"],
)
def test_a_recording_cut_short_says_how_much_is_missing(data: bytes) -> None:
    result = decoded(data)
    assert 1.2 < len(result.samples) / 16_000 < 2
    assert "audio_truncated" in codes(result)
    message = next(w.message for w in result.warnings if w.code == "audio_truncated")
    assert f"ends at {len(result.samples) / 16_000:.1f} s" in message
    assert any(f"about {lost / 10} s before" in message for lost in range(12, 20))


@pytest.mark.parametrize("size", [0x7FFF_FFFF, 0xFFFF_FFFF, 0x7FFF_F000, 0x8000_0000])
def test_a_wav_written_into_a_pipe_is_not_called_cut_short(size: int) -> None:
    result = decoded(patched(encoded(CLIP), (40, struct.pack("<I", size))))
    np.testing.assert_array_equal(result.samples, CLIP)
    assert not result.warnings


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_with_missing_pages_keeps_its_times(subtype: str) -> None:
    pages = ogg_pages(encoded(CLIP, form="OGG", subtype=subtype))
    whole = decoded(b"".join(pages)).samples
    result = decoded(b"".join([*pages[:3], *pages[4:]]))
    assert len(result.samples) == pytest.approx(len(whole), abs=800)
    end = slice(-8000, -800)
    assert np.corrcoef(result.samples[: len(whole)][end], whole[end])[0, 1] > 0.95
    assert codes(result) & {"audio_gap", "audio_damaged"}


def test_the_middle_of_an_ogg_before_a_whole_one_is_told_of() -> None:
    data = encoded(CLIP, form="OGG", subtype="VORBIS")
    result = decoded(b"".join(ogg_pages(data)[3:]) + data)
    np.testing.assert_array_equal(result.samples, decoded(data).samples)
    assert codes(result) == {"joined_part_lost"}


def test_an_mp3_with_a_hole_of_damage_says_so() -> None:
    mp3 = bytearray(encoded_by_ffmpeg(CLIP, 16_000, "mp3", "libmp3lame"))
    mp3[4000:5000] = b"\xa5" * 1000
    result = decoded(bytes(mp3))
    assert len(result.samples) > 0.75 * len(CLIP)
    assert codes(result) == {"audio_damaged"}


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "m4a", "mkv", "ogg", "ts"])
def test_a_whole_recording_has_no_warnings(name: str) -> None:
    whole: dict[str, bytes] = {
        "wav": encoded(CLIP),
        "flac": encoded(CLIP, form="FLAC") + b"TAG" + b"x" * 125,
        "mp3": encoded_by_ffmpeg(CLIP, 16_000, "mp3", "libmp3lame") + b"TAG" + b"x" * 125,
        "m4a": film("ipod", Track(CLIP)),
        "mkv": film("matroska", Track(CLIP)),
        "ogg": encoded(CLIP, form="OGG", subtype="VORBIS"),
        "ts": film("mpegts", Track(CLIP)),
    }
    assert not decoded(whole[name]).warnings


def test_many_warnings_are_cut_to_a_few() -> None:
    cut = _cut(encoded(CLIP))
    result = decoded(cut * 40)
    assert len(result.warnings) == 20
    assert result.warnings[-1].code == "more_warnings"
    assert "21 more" in result.warnings[-1].message


def test_thousands_of_joined_recordings_are_decoded_in_bounded_time() -> None:
    part = encoded(CLIP[:160])
    assert len(decoded(part * 3000).samples) == 160 * 3000
    with pytest.raises(RequestError, match="more than 10000 joined"):
        decoded(encoded(CLIP[:1]) * 10_001)


def test_each_joined_recording_keeps_its_own_scale_and_phase() -> None:
    fine = CLIP.astype(np.float32) / 32768
    parts = [fine, CLIP.astype(np.float32), np.column_stack([fine, -fine]), fine]
    result = decoded(b"".join(encoded(part, subtype="FLOAT") for part in parts))
    np.testing.assert_array_equal(result.samples, np.tile(CLIP, 4))
    assert codes(result) == {"sample_scale_guessed", "channels_out_of_phase"}


def test_a_recording_that_promises_sound_and_gives_none_is_unreadable_and_not_empty() -> None:
    with pytest.raises(RequestError) as caught:
        decoded(encoded(CLIP, form="FLAC")[:60] + bytes(20_000))
    assert caught.value.code is ErrorCode.AUDIO_UNREADABLE


def test_another_format_joined_to_a_recording_is_no_sound_and_told_of() -> None:
    result = decoded(encoded(CLIP) + encoded(CLIP, form="FLAC"))
    np.testing.assert_array_equal(result.samples, CLIP)
    assert codes(result) == {"joined_part_lost"}


@pytest.mark.parametrize("second", [("libmp3lame", 44_100), ("libmp3lame", 16_000)])
def test_mp3_joined_with_its_tags_and_other_rates_has_no_warning(second: tuple[str, int]) -> None:
    codec, rate = second
    first = encoded_by_ffmpeg(CLIP, 16_000, "mp3", "libmp3lame")
    result = decoded(first + encoded_by_ffmpeg(at_rate(CLIP, rate), rate, "mp3", codec))
    assert is_spoken(result.samples, SECONDS, CLIP, within=0.2)
    assert not result.warnings


@pytest.mark.parametrize(
    ("form", "codec", "rate"),
    [
        ("ipod", "aac", 16_000),
        ("mov", "alac", 16_000),
        ("adts", "aac", 16_000),
        ("mpegts", "aac", 16_000),
        ("flv", "aac", 44_100),
        ("asf", "libmp3lame", 16_000),
        ("webm", "libopus", 48_000),
        ("avi", "libmp3lame", 16_000),
    ],
)
def test_damage_in_a_compressed_recording_is_told_of_and_its_rest_decoded(
    form: str, codec: str, rate: int
) -> None:
    whole = film(form, Track(at_rate(np.tile(CLIP, 5), rate), codec, rate))
    middle = len(whole) // 2
    size = len(whole) // 20
    result = decoded(whole[:middle] + bytes(size) + whole[middle + size :])
    # A cluster of WebM lasts for some seconds and is lost with its beginning.
    assert len(result.samples) > 0.6 * 5 * len(CLIP)
    assert is_spoken(result.samples, len(result.samples) / 16_000 - SECONDS, CLIP, within=0.2)
    assert codes(result) & {"audio_damaged", "audio_gap", "audio_truncated"}


def test_noise_that_a_damaged_opus_packet_decodes_to_is_not_taken_for_another_scale() -> None:
    whole = film("mp4", Track(at_rate(CLIP, 48_000), "libopus", 48_000))
    middle = len(whole) // 2
    result = decoded(whole[:middle] + b"\xa5" * 600 + whole[middle + 600 :])
    assert "sample_scale_guessed" not in codes(result)
    assert is_spoken(result.samples, 0, CLIP[:16_000])
