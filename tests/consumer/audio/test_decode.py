"""The samples that come out of a recording."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
import soundfile
from numpy.typing import NDArray
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.audio import (
    DECODE_REVISION,
    SAMPLE_RATE,
    AudioPolicy,
    audio_identity,
    decode,
    decode_revision,
)
from sensestream_consumer.audio.decoding import processor_time
from sensestream_consumer.audio.decoding.containers.sniff import FORMATS as FORMATS_TAKEN

from .recordings import (
    amr,
    as_fetched,
    clip,
    encoded,
    encoded_by_ffmpeg,
    every_format,
    is_spoken,
    lying_wav,
    surround,
    tone,
)

POLICY = AudioPolicy(roots=())
FORMATS = every_format()
DATA = Path(os.environ.get("SENSESTREAM_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


def decoded(data: bytes, policy: AudioPolicy = POLICY) -> NDArray[np.int16]:
    with as_fetched(data) as fetched:
        return decode(fetched, policy)


def refusal(data: bytes, policy: AudioPolicy = POLICY) -> RequestError:
    with pytest.raises(RequestError) as caught:
        decoded(data, policy)
    return caught.value


def pitch(samples: NDArray[np.int16]) -> float:
    """The strongest frequency, in Hz."""
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64)))
    return float(spectrum.argmax() * SAMPLE_RATE / len(samples))


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "amr"])
def test_a_recording_is_heard_in_every_format(name: str) -> None:
    samples = decoded(FORMATS[name])
    assert samples.dtype == np.int16
    assert samples.shape == pytest.approx((SAMPLE_RATE,), abs=SAMPLE_RATE // 20)
    assert pitch(samples) == pytest.approx(440, abs=2)
    assert 0.2 < np.abs(samples).max() / 32768 < 0.45


def test_amr_is_heard() -> None:
    samples = decoded(amr(frames=50))
    assert len(samples) == SAMPLE_RATE
    assert samples.any()


def test_sixteen_bit_audio_at_16_khz_passes_bit_for_bit() -> None:
    every_value = np.arange(-32768, 32768).astype(np.int16)
    np.testing.assert_array_equal(decoded(encoded(every_value)), every_value)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_the_same_recording_as_wav_and_as_flac_is_the_same_audio(rate: int, channels: int) -> None:
    samples = np.column_stack([tone(3, rate, 200.0 + 50 * n) for n in range(channels)])
    wav, flac = encoded(samples, rate), encoded(samples, rate, "FLAC")
    assert audio_identity(decoded(wav)) == audio_identity(decoded(flac))


def test_tags_before_a_recording_do_not_change_the_audio() -> None:
    tag = b"ID3\x04\x00\x00\x00\x00\x01\x05" + b"\xff" * 133
    for name in ("wav", "flac", "ogg", "mp3"):
        np.testing.assert_array_equal(decoded(tag + FORMATS[name]), decoded(FORMATS[name]))


def test_different_recordings_have_different_identities() -> None:
    silent_start = np.zeros(8000, np.int16)
    one, other = (np.concatenate([silent_start, tone(hertz=hertz)]) for hertz in (440, 441))
    assert audio_identity(one) != audio_identity(other)


def test_identity_is_that_of_little_endian_samples_and_nothing_else() -> None:
    # What `printf '\\x01\\x00\\xfe\\xff' | sha256sum` prints.
    expected = "dd8b10d263a3a65c4bfc3680c3378c52be146db147b84f14629585cf287d424a"
    samples = np.array([1, -2], np.int16)
    assert audio_identity(samples) == audio_identity(samples.astype(">i2"))
    assert audio_identity(np.array([1, 5, -2, 5], np.int16)[::2]) == audio_identity(samples)
    assert audio_identity(samples) == expected


@pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 22_050, 44_100, 96_000, 192_000, 768_000])
def test_any_rate_keeps_its_length_and_pitch(rate: int) -> None:
    samples = decoded(encoded(tone(1, rate, 300.0), rate))
    assert len(samples) == pytest.approx(SAMPLE_RATE, abs=1)
    assert pitch(samples) == pytest.approx(300, abs=1)


@pytest.mark.parametrize("channels", [2, 3, 64])
def test_channels_are_averaged(channels: int) -> None:
    mono = tone()
    silent = np.zeros((len(mono), channels), np.int16)
    silent[:, -1] = mono
    expected = np.rint(mono / channels)
    assert np.abs(decoded(encoded(silent)) - expected).max() <= 1
    np.testing.assert_array_equal(decoded(encoded(np.column_stack([mono] * channels))), mono)


@pytest.mark.parametrize(
    ("layout", "codec"),
    [
        ("5.1", "aac"),
        ("7.1", "aac"),
        ("octagonal", "aac"),
        ("7.1", "libopus"),
        ("hexadecagonal", "pcm_s16le"),
        ("hexadecagonal", "wavpack"),
    ],
)
def test_surround_sound_of_many_channels_does_not_kill_the_worker(layout: str, codec: str) -> None:
    samples = decoded(surround(layout, codec))
    assert len(samples) == pytest.approx(len(clip()), abs=2000)
    assert is_spoken(samples, 0, clip())


def test_halves_are_rounded_to_even_and_full_scale_is_clipped() -> None:
    halves = np.array([[1, 0], [3, 0], [-1, 0], [-3, 0]], np.int16)
    np.testing.assert_array_equal(decoded(encoded(halves)), [0, 2, 0, -2])
    loud = encoded(np.array([1.0, 2.0, -1.0, -2.0, 1e300]), subtype="DOUBLE")
    np.testing.assert_array_equal(decoded(loud), [32767, 32767, -32768, -32768, 32767])


def test_float_audio_beyond_float32_is_clipped_and_resampled_without_a_warning() -> None:
    samples = decoded(encoded(np.full(4410, 1e300), 44_100, subtype="DOUBLE"))
    assert samples.max() == 32767


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_refused_in_a_sentence(value: float) -> None:
    samples = np.zeros(1000)
    samples[500] = value
    error = refusal(encoded(samples, subtype="FLOAT"))
    assert error.code is ErrorCode.AUDIO_UNREADABLE
    assert "NaN or infinite" in error.message


@pytest.mark.parametrize("rate", [1, 999, 768_001])
def test_a_rate_that_no_recording_has_is_named_in_the_refusal(rate: int) -> None:
    error = refusal(lying_wav(rate=rate))
    assert error.code is ErrorCode.AUDIO_UNREADABLE
    assert f"{rate} Hz" in error.message


@pytest.mark.parametrize("channels", [0, 65, 1000, 65535])
def test_a_channel_count_that_no_recording_has_is_refused(channels: int) -> None:
    assert refusal(lying_wav(channels=channels)).code is ErrorCode.AUDIO_UNREADABLE


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_that_claims_four_gigabytes_gives_the_samples_it_has(size: int) -> None:
    np.testing.assert_array_equal(decoded(lying_wav(size=size)), tone(0.1))


@pytest.mark.parametrize("claim", [0, 2**36 - 1])
def test_a_flac_that_does_not_know_its_length_is_heard_whole(claim: int) -> None:
    # The last 36 bits before the MD5 in STREAMINFO are the number of samples; 0: unknown.
    flac = bytearray(encoded(tone(20), form="FLAC"))
    flac[21] = flac[21] & 0xF0 | claim >> 32
    flac[22:26] = (claim & 0xFFFFFFFF).to_bytes(4, "big")
    np.testing.assert_array_equal(decoded(bytes(flac)), tone(20))


def test_a_flac_that_expands_without_end_is_stopped_early_and_in_little_memory() -> None:
    hours = encoded(np.zeros(3600 * SAMPLE_RATE, np.int16), form="FLAC")
    assert len(hours) < 500_000
    tracemalloc.start()
    error = refusal(hours, AudioPolicy(roots=(), max_seconds=60))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code is ErrorCode.AUDIO_TOO_LONG
    assert "60 seconds" in error.message
    assert "SENSESTREAM_MAX_AUDIO_SECONDS" in error.message
    assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize("name", FORMATS)
def test_too_long_is_noticed_in_every_format(name: str) -> None:
    error = refusal(FORMATS[name], AudioPolicy(roots=(), max_seconds=0.5))
    assert error.code is ErrorCode.AUDIO_TOO_LONG


@pytest.mark.parametrize(
    "data",
    [
        b"",
        encoded(np.zeros(0, np.int16)),
        encoded(np.zeros(1, np.int16), 48_000),
        encoded(np.zeros(0), 48_000, "OGG"),
        b"#!AMR\n",
    ],
    ids=["no bytes", "wav without samples", "a third of a sample", "ogg", "amr"],
)
def test_a_recording_with_nothing_in_it_is_empty(data: bytes) -> None:
    assert refusal(data).code is ErrorCode.AUDIO_EMPTY


@pytest.mark.parametrize(
    "data",
    [
        b"hello, world",
        b"<!DOCTYPE html><html></html>",
        b"#EXTM3U\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"ID3\x04\x00\x00\x00\x00\x00\x00",
        b"RIFF\x00\x00\x00\x00WAVE",
        b"fLaC" + bytes(100),
        b"OggS" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(100),
        b"\x00\x00\x00\x18ftypM4A " + bytes(100),
    ],
)
def test_what_is_no_audio_is_unreadable_and_the_formats_are_named(data: bytes) -> None:
    error = refusal(data)
    assert error.code is ErrorCode.AUDIO_UNREADABLE
    assert f"taken are {FORMATS_TAKEN}" in error.message


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "aac", "webm", "amr"])
def test_a_recording_cut_short_is_heard_up_to_the_cut(name: str) -> None:
    whole = decoded(FORMATS[name])
    part = decoded(FORMATS[name][: len(FORMATS[name]) * 2 // 3])
    assert 0.4 * len(whole) < len(part) < 0.8 * len(whole)
    # Not the last 50 ms: a decoder of compressed audio fades into what it did not get.
    same = len(part) - 800
    difference = np.abs(part[:same].astype(int) - whole[:same])
    assert difference.max() <= 1


def test_a_flac_with_a_tag_at_its_end_loses_nothing() -> None:
    np.testing.assert_array_equal(
        decoded(FORMATS["flac"] + b"TAG" + b"x" * 125), decoded(FORMATS["flac"])
    )


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_joined_recordings_are_heard_to_the_end(name: str) -> None:
    once, twice = decoded(FORMATS[name]), decoded(FORMATS[name] * 2)
    assert len(twice) == pytest.approx(2 * len(once), rel=0.1)
    assert pitch(twice[-SAMPLE_RATE // 2 :]) == pytest.approx(440, abs=3)


def test_a_film_without_sound_is_unreadable_and_says_why() -> None:
    error = refusal(_silent_film())
    assert error.code is ErrorCode.AUDIO_UNREADABLE
    assert "no audio track" in error.message


def _silent_film() -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="mov") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        container.mux(stream.encode(frame.reformat(format="yuvj420p")))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_a_codec_outside_the_list_is_named() -> None:
    file = encoded_by_ffmpeg(tone(rate=8_000), 8_000, "matroska", "real_144")
    error = refusal(file)
    assert error.code is ErrorCode.AUDIO_UNREADABLE
    assert "'real_144'" in error.message


@pytest.mark.parametrize("name", FORMATS)
def test_decoding_that_takes_too_much_of_the_processor_is_given_up(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor_time, "_MAX_PROCESSOR_SECONDS", 0.0)
    error = refusal(FORMATS[name])
    assert error.code is ErrorCode.AUDIO_UNREADABLE
    assert "processor time" in error.message


def test_a_header_of_a_million_chunks_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor_time, "_MAX_PROCESSOR_SECONDS", 0.2)
    wav = FORMATS["wav"]
    chunks = b"junk\x04\x00\x00\x00\x00\x00\x00\x00" * 1_000_000
    begun = time.thread_time()
    error = refusal(wav[:12] + chunks + wav[12:])
    assert "processor time" in error.message
    assert time.thread_time() - begun < 5


def test_decoding_leaves_no_thread_and_no_open_file_behind() -> None:
    for data in FORMATS.values():
        decoded(data)
    before = _threads_and_files()
    for data in FORMATS.values():
        decoded(data)
        refusal(data, AudioPolicy(roots=(), max_seconds=0.1))
    assert _threads_and_files() == before


def _threads_and_files() -> tuple[int, int]:
    process = psutil.Process()
    return process.num_threads(), process.num_fds()


def test_decoders_write_nothing_to_the_workers_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("mp3", "m4a", "aac", "webm", "amr", "ogg", "flac"):
        data = bytearray(FORMATS[name] * 2)
        data[len(data) // 3 : len(data) // 3 + 2000] = b"\xa5" * 2000
        with suppress(RequestError):
            decoded(bytes(data))
    assert capfd.readouterr().err == ""


def test_importing_the_package_loads_no_decoder_of_ffmpeg_and_no_heavy_library() -> None:
    code = (
        "import sys, sensestream_consumer.audio;"
        "heavy = {'av', 'librosa', 'scipy', 'numba', 'torch', 'onnxruntime'} & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "seconds"), [("jfk.flac", 11.0), ("jfk.mp3", 11.0), ("asr_example_zh.wav", 5.55)]
)
def test_a_real_recording_keeps_its_length(name: str, seconds: float) -> None:
    path = DATA / "speech" / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine; SENSESTREAM_TEST_DATA names its folder")
    samples = decoded(path.read_bytes())
    assert len(samples) / SAMPLE_RATE == pytest.approx(seconds, abs=0.05)
    assert np.abs(samples.astype(int)).max() > 1000


def test_the_revision_is_a_short_part_of_a_key_and_names_the_libraries() -> None:
    ours, pyav, libsndfile = decode_revision().split("-")
    assert ours == str(DECODE_REVISION)
    assert pyav == av.__version__
    assert libsndfile == soundfile.__libsndfile_version__
    assert re.fullmatch(r"[A-Za-z0-9.-]{5,40}", decode_revision())
