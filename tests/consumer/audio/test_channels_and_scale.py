"""Channels that cancel, and floats on another scale: judged over a whole recording."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from .recordings import clip, codes, decoded, encoded, is_spoken, tone

CLIP = clip()
WHOLE = CLIP.astype(np.float64)


def stereo(*channels: NDArray[np.float64]) -> NDArray[np.int16]:
    columns = np.column_stack([np.clip(np.rint(c), -32768, 32767) for c in channels])
    return columns.astype(np.int16)


@pytest.mark.parametrize(
    "channels",
    [
        stereo(WHOLE, -WHOLE),
        stereo(-WHOLE / 2, WHOLE),
        stereo(WHOLE, -0.9 * WHOLE),
        stereo(WHOLE, -WHOLE, WHOLE, -WHOLE),
        stereo(WHOLE + 8000, -WHOLE - 8000),
    ],
    ids=["opposite", "half as loud", "nearly", "four", "with an offset"],
)
def test_channels_in_opposite_phase_do_not_cancel(channels: NDArray[np.int16]) -> None:
    result = decoded(encoded(channels))
    spoken = result.samples - np.int16(result.samples.astype(int).mean())
    if is_loud(channels):
        assert is_spoken(spoken, 0, CLIP)


def is_loud(channels: NDArray[np.int16]) -> bool:
    return bool(np.abs(channels).max() > 1000)


def test_the_loudest_of_channels_that_cancel_is_taken_bit_for_bit_and_the_sender_told() -> None:
    result = decoded(encoded(stereo(-0.9 * WHOLE, WHOLE)))
    np.testing.assert_array_equal(result.samples, CLIP)
    (warning,) = result.warnings
    assert warning.code == "channels_out_of_phase"
    assert "channel 2" in warning.message


@pytest.mark.parametrize("form", [("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")])
def test_it_is_so_in_other_formats(form: tuple[str, str]) -> None:
    result = decoded(encoded(stereo(WHOLE, -WHOLE), 16_000, *form))
    assert is_spoken(result.samples, 0, CLIP)
    assert codes(result) == {"channels_out_of_phase"}


def test_noise_of_their_own_does_not_hide_that_channels_cancel() -> None:
    noise = np.random.default_rng(1).normal(0, 30, (2, len(CLIP)))
    result = decoded(encoded(stereo(WHOLE + noise[0], -WHOLE + noise[1])))
    assert is_spoken(result.samples, 0, CLIP)


def test_a_single_stretch_in_phase_does_not_turn_the_decision() -> None:
    phase = np.where(np.arange(len(CLIP)) < 400, 1, -1)
    assert codes(decoded(encoded(stereo(WHOLE, phase * WHOLE)))) == {"channels_out_of_phase"}


other = np.roll(WHOLE, 8000)
hum = 8000 * np.sin(2 * np.pi * 50 * np.arange(len(CLIP)) / 16_000)


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ((WHOLE, WHOLE), WHOLE),
        ((WHOLE, 0 * WHOLE), WHOLE / 2),
        ((0 * WHOLE, WHOLE), WHOLE / 2),
        ((WHOLE, other), (WHOLE + other) / 2),
        ((WHOLE + hum, WHOLE - hum), WHOLE),
        ((WHOLE / 2 + 9000, WHOLE / 2 - 9000), WHOLE / 2),
        ((WHOLE, -WHOLE / 2), WHOLE / 4),
        ((0 * WHOLE, 0 * WHOLE), 0 * WHOLE),
        ((WHOLE, 0 * WHOLE, 0 * WHOLE, 0 * WHOLE, 0 * WHOLE, 0 * WHOLE), WHOLE / 6),
    ],
    ids=["alike", "right silent", "left silent", "two speakers", "hum", "offset", "half",
         "silence", "surround"],
)  # fmt: skip
def test_channels_that_do_not_cancel_are_averaged_as_ever(
    channels: tuple[NDArray[np.float64], ...], expected: NDArray[np.float64]
) -> None:
    result = decoded(encoded(stereo(*channels)))
    assert np.abs(result.samples - expected).max() <= 1
    assert not result.warnings


@pytest.mark.parametrize("form", ["WAV", "AIFF", "CAF", "W64", "AU"])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_floats_on_the_scale_of_integers_are_scaled(form: str, subtype: str) -> None:
    result = decoded(encoded(CLIP.astype(np.float64), form=form, subtype=subtype))
    np.testing.assert_array_equal(result.samples, CLIP)
    (warning,) = result.warnings
    assert warning.code == "sample_scale_guessed"
    assert "32768" in warning.message


@pytest.mark.parametrize("bits", [24, 32])
def test_floats_on_the_scale_of_longer_integers_are_scaled(bits: int) -> None:
    samples = CLIP.astype(np.float64) * 2.0 ** (bits - 16)
    result = decoded(encoded(samples, subtype="DOUBLE"))
    np.testing.assert_array_equal(result.samples, CLIP)
    assert codes(result) == {"sample_scale_guessed"}


def test_a_short_word_in_a_long_silence_is_scaled_as_well() -> None:
    samples = np.concatenate([np.zeros(60 * 16_000), CLIP, np.zeros(60 * 16_000)])
    result = decoded(encoded(samples.astype(np.float32), subtype="FLOAT"))
    np.testing.assert_array_equal(result.samples, samples)


def test_a_quiet_recording_on_the_scale_of_integers_is_scaled() -> None:
    quiet = np.round(CLIP * 0.02)
    result = decoded(encoded(quiet.astype(np.float32), subtype="FLOAT"))
    np.testing.assert_array_equal(result.samples, quiet)


def test_channels_that_cancel_on_a_wrong_scale_are_corrected_twice() -> None:
    result = decoded(encoded(stereo(WHOLE, -WHOLE).astype(np.float32), subtype="FLOAT"))
    np.testing.assert_array_equal(result.samples, CLIP)
    assert codes(result) == {"sample_scale_guessed", "channels_out_of_phase"}


def test_another_rate_is_scaled_before_it_is_resampled() -> None:
    samples = tone(1, 48_000).astype(np.float32)
    scaled = decoded(encoded(samples / 32768, 48_000, subtype="FLOAT"))
    np.testing.assert_array_equal(
        decoded(encoded(samples, 48_000, subtype="FLOAT")).samples, scaled.samples
    )


def _with_clicks(count: int) -> NDArray[np.float64]:
    samples = WHOLE / 32768
    samples[:: len(samples) // count][:count] = 20_000
    return samples


@pytest.mark.parametrize(
    "samples",
    [WHOLE / 32768, 6 * WHOLE / 32768, 16 * WHOLE / 32768, _with_clicks(5), np.full(4410, 1e300)],
    ids=["fine", "hot", "very hot", "clicks", "nonsense"],
)
def test_other_floats_are_clipped_as_ever(samples: NDArray[np.float64]) -> None:
    result = decoded(encoded(samples, subtype="DOUBLE"))
    expected = np.clip(np.rint(samples * 32768), -32768, 32767)
    np.testing.assert_array_equal(result.samples, expected)
    assert not result.warnings
