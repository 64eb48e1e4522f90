"""Where long audio is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sensestream_consumer.engine.segmentation.cutters import EnergyCutter, Piece, SpeechCutter

SECOND = 16_000
LIMIT = 30 * SECOND


def _noise(seconds: float, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    rng = np.random.default_rng(seed)
    return rng.integers(-3000, 3000, round(seconds * SECOND)).astype(np.int16)


def test_audio_up_to_thirty_seconds_is_one_piece() -> None:
    assert EnergyCutter().cut(_noise(30)) == [Piece(0, LIMIT)]
    assert EnergyCutter().cut(_noise(0.01)) == [Piece(0, 160)]


def test_long_audio_is_cut_inside_a_pause() -> None:
    audio = _noise(50)
    audio[25 * SECOND : 25 * SECOND + 8000] = 3  # half a second
    first, second = EnergyCutter().cut(audio)
    assert 25 * SECOND < first.stop < 25 * SECOND + 8000
    assert second == Piece(first.stop, 50 * SECOND)


def test_a_pause_long_before_the_limit_is_not_cut() -> None:
    audio = _noise(50)
    audio[5 * SECOND : 6 * SECOND] = 0
    first, _ = EnergyCutter().cut(audio)
    assert first.stop > 19 * SECOND


def test_silence_is_cut_near_the_limit() -> None:
    pieces = EnergyCutter().cut(np.zeros(90 * SECOND, np.int16))
    assert len(pieces) == 4
    assert all(piece.stop - piece.start <= LIMIT for piece in pieces)
    assert pieces[0].stop > 29 * SECOND


def test_the_loudest_sample_counts_as_loud() -> None:
    audio = np.full(40 * SECOND, -32_768, np.int16)
    audio[24 * SECOND : 25 * SECOND] = 100
    first, _ = EnergyCutter().cut(audio)
    assert 24 * SECOND < first.stop < 25 * SECOND


@given(seconds=st.floats(0.001, 20), limit=st.floats(0.5, 3), seed=st.integers(0, 99))
def test_pieces_are_short_enough_and_lose_no_sample(
    seconds: float, limit: float, seed: int
) -> None:
    audio = _noise(seconds, seed)
    pieces = EnergyCutter(limit).cut(audio)
    assert [piece.start for piece in pieces] == [0, *(piece.stop for piece in pieces)][:-1]
    assert pieces[-1].stop == audio.size
    assert all(0 < piece.stop - piece.start <= round(limit * SECOND) for piece in pieces)


@pytest.mark.parametrize("extra", [1, 160, 4000, 16_000])
def test_a_little_more_than_the_limit_leaves_no_sliver(extra: int) -> None:
    audio = np.concatenate([_noise(30), _noise(1)[:extra]])
    _, tail = EnergyCutter().cut(audio)
    assert tail.stop - tail.start >= SECOND


class _Told:
    """A voice activity model that says what it was told."""

    identity = "told"

    def __init__(self, *utterances: tuple[float, float]) -> None:
        self._utterances = [(round(a * SECOND), round(b * SECOND)) for a, b in utterances]

    def speech(self, _samples: object) -> list[tuple[int, int]]:
        return self._utterances


def _seconds(pieces: list[Piece]) -> list[tuple[float, float]]:
    return [(piece.start / SECOND, piece.stop / SECOND) for piece in pieces]


def test_what_fits_into_one_piece_stays_whole_whatever_the_voice_activity() -> None:
    assert SpeechCutter(_Told()).cut(_noise(30)) == [Piece(0, LIMIT)]
    assert SpeechCutter(_Told()).cut(_noise(0)) == []


def test_long_silence_is_left_out() -> None:
    cutter = SpeechCutter(_Told((10, 14), (50, 53)))
    assert _seconds(cutter.cut(_noise(60))) == [(10, 14), (50, 53)]
    cutter = SpeechCutter(_Told((10, 12), (13.9, 15), (17.1, 18)))
    assert _seconds(cutter.cut(_noise(60))) == [(10, 15), (17.1, 18)]


def test_neighbouring_utterances_stay_together_up_to_fifteen_seconds() -> None:
    cutter = SpeechCutter(_Told((1, 5), (6, 10), (11, 15.5), (16, 20), (30, 40)))
    assert _seconds(cutter.cut(_noise(50))) == [(1, 15.5), (16, 20), (30, 40)]


def test_an_utterance_beyond_the_limit_is_cut_at_its_quietest_moment() -> None:
    audio = _noise(60)
    audio[25 * SECOND : 25 * SECOND + 8000] = 3
    pieces = SpeechCutter(_Told((2, 45))).cut(audio)
    assert (pieces[0].start, pieces[-1].stop) == (2 * SECOND, 45 * SECOND)
    assert 25 < pieces[0].stop / SECOND < 25.5
    assert all(piece.stop - piece.start <= LIMIT for piece in pieces)


def test_a_recording_without_speech_has_no_pieces() -> None:
    assert SpeechCutter(_Told()).cut(_noise(31)) == []


def test_another_voice_activity_model_is_another_rule() -> None:
    other = _Told()
    other.identity = "other"
    rules = {SpeechCutter(_Told()).rule, SpeechCutter(other).rule, SpeechCutter(other, 20).rule}
    assert len({*rules, EnergyCutter().rule}) == 4
