"""Times are those of the recording: late tracks, pauses and lost packets shift nothing."""

from __future__ import annotations

import pytest

from .recordings import Track, at_rate, clip, codes, decoded, film, is_spoken

CLIP = clip()
SECONDS = len(CLIP) / 16_000
FORMS = [
    ("mp4", "aac", 16_000, "mpeg4"),
    ("mov", "pcm_s16le", 16_000, "mjpeg"),
    ("matroska", "aac", 16_000, "mpeg4"),
    ("matroska", "flac", 16_000, "mpeg4"),
    ("matroska", "libmp3lame", 16_000, "mpeg4"),
    ("webm", "libopus", 48_000, "libvpx"),
    ("mpegts", "aac", 16_000, "mpeg2video"),
    ("mpegts", "mp2", 48_000, "mpeg2video"),
    ("flv", "aac", 44_100, "flv"),
]
HOLED = [form for form in FORMS if form[1] != "pcm_s16le"]  # its times are counted in samples
holed_forms = pytest.mark.parametrize(("form", "codec", "rate", "picture"), HOLED)
every_form = pytest.mark.parametrize(("form", "codec", "rate", "picture"), FORMS)


@every_form
@pytest.mark.parametrize("delay", [0.5, 5.0])
def test_a_track_that_begins_after_its_film_is_heard_where_it_is(
    form: str, codec: str, rate: int, picture: str, delay: float
) -> None:
    track = Track(at_rate(CLIP, rate), codec, rate, delay=delay)
    result = decoded(film(form, track, seconds=9, codec=picture))
    assert len(result.samples) / 16_000 == pytest.approx(delay + SECONDS, abs=0.1)
    assert not result.samples[: round((delay - 0.07) * 16_000)].any()
    assert is_spoken(result.samples, delay, CLIP)
    assert not result.warnings


@holed_forms
def test_a_pause_in_the_time_stamps_is_silence_and_the_sender_told(
    form: str, codec: str, rate: int, picture: str
) -> None:
    track = Track(at_rate(CLIP, rate), codec, rate, pauses=((1.0, 2.0),))
    result = decoded(film(form, track))
    assert len(result.samples) / 16_000 == pytest.approx(SECONDS + 2, abs=0.1)
    assert is_spoken(result.samples, 3.2, CLIP[round(1.2 * 16_000) :])
    (warning,) = result.warnings
    assert warning.code == "audio_gap"
    assert "2.0 s at 1." in warning.message


@holed_forms
def test_lost_packets_do_not_shift_what_follows(
    form: str, codec: str, rate: int, picture: str
) -> None:
    lost = tuple((0.5 + number / 2, 0.58 + number / 2) for number in range(4))
    track = Track(at_rate(CLIP, rate), codec, rate, lost=lost)
    result = decoded(film(form, track))
    assert len(result.samples) / 16_000 == pytest.approx(SECONDS, abs=0.15)
    assert is_spoken(result.samples, 2.2, CLIP[round(2.2 * 16_000) :], within=0.11)


def test_silence_counts_for_the_limit_and_what_does_not_fit_is_left_out_with_a_word() -> None:
    track = Track(CLIP, delay=5.0)
    data = film("mp4", track, seconds=9)
    whole = decoded(data, max_seconds=8.3)
    assert len(whole.samples) / 16_000 == pytest.approx(5 + SECONDS, abs=0.1)
    result = decoded(data, max_seconds=4)
    assert len(result.samples) / 16_000 == pytest.approx(SECONDS, abs=0.1)
    (warning,) = result.warnings
    assert warning.code == "timestamps_ignored"
    assert "4.9 s at 0.0 s" in warning.message  # and 64 ms before the first sound of AAC


def test_a_clock_that_jumps_by_days_costs_neither_memory_nor_the_transcript() -> None:
    track = Track(CLIP, "aac", pauses=((1.0, 40_000.0), (2.0, 40_000.0)))
    result = decoded(film("matroska", track))
    assert len(result.samples) / 16_000 == pytest.approx(SECONDS, abs=0.1)
    assert codes(result) == {"timestamps_ignored"}


def test_a_clock_that_is_set_back_does_not_lose_sound() -> None:
    first, second = film("mpegts", Track(CLIP)), film("mpegts", Track(CLIP, delay=-0.0))
    result = decoded(first + second)
    assert is_spoken(result.samples, len(result.samples) / 32_000, CLIP)


@every_form
def test_unsteady_time_stamps_put_in_no_silence(
    form: str, codec: str, rate: int, picture: str
) -> None:
    jitter = tuple((number / 10, 0.03 if number % 2 else -0.03) for number in range(1, 30))
    steady = decoded(film(form, Track(at_rate(CLIP, rate), codec, rate)))
    result = decoded(film(form, Track(at_rate(CLIP, rate), codec, rate, pauses=jitter)))
    assert len(result.samples) == pytest.approx(len(steady.samples), abs=100)
    assert not result.warnings


def test_joined_films_have_their_times_one_behind_the_other() -> None:
    one = film("mp4", Track(CLIP, delay=2.0), seconds=6)
    result = decoded(one * 2)
    assert is_spoken(result.samples, 2.0, CLIP)
    assert is_spoken(result.samples, len(result.samples) / 32_000 + 2.0, CLIP)
