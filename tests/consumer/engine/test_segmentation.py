"""Where long audio is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sensestream_consumer.engine.segmentation import EnergyCutter, Piece

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
