"""The front-end against funasr-onnx's, which is the reference."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sensestream_consumer.engine.frontend import Frontend, FrontendOptions
from sensestream_consumer.engine.model.cmvn import read_cmvn

from tests.consumer.engine.models import WIDTH, write_cmvn

Reference = Callable[[Path, NDArray[np.int16]], NDArray[np.float32]]

_SECOND = 16_000


def _synthetic() -> dict[str, NDArray[np.int16]]:
    rng = np.random.default_rng(7)
    time = np.arange(2 * _SECOND)
    return {
        "noise": (rng.normal(size=2 * _SECOND) * 3000).astype(np.int16),
        "quiet noise": rng.integers(-1, 2, 2 * _SECOND).astype(np.int16),
        "silence": np.zeros(_SECOND, np.int16),
        "a constant": np.full(_SECOND, 12_345, np.int16),
        "a tone": (np.sin(time * 2 * np.pi * 440 / _SECOND) * 20_000).astype(np.int16),
        "a clipped wave": np.where(time % 100 < 50, 32_767, -32_768).astype(np.int16),
    }


@pytest.fixture(scope="module")
def cmvn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cmvn")
    write_cmvn(directory)
    return directory / "am.mvn"


def _frontend(cmvn: Path) -> Frontend:
    return Frontend(FrontendOptions(), read_cmvn(cmvn, WIDTH))


@pytest.mark.parametrize("name", _synthetic())
def test_synthetic_audio_gives_the_features_of_the_reference(
    name: str, cmvn: Path, reference_features: Reference
) -> None:
    samples = _synthetic()[name]
    ours = _frontend(cmvn)(samples)
    theirs = reference_features(cmvn, samples)
    assert ours.dtype == np.float32
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize(
    "length", [400, 401, 559, 560, 561, 1359, 1360, 1361, 41_199, 41_200, 41_360, 41_361, 480_000]
)
def test_every_length_gives_the_rows_of_the_reference(
    length: int, cmvn: Path, reference_features: Reference
) -> None:
    samples = (np.random.default_rng(length).normal(size=length) * 2000).astype(np.int16)
    ours = _frontend(cmvn)(samples)
    theirs = reference_features(cmvn, samples)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


def test_real_speech_with_the_published_statistics_gives_the_features_of_the_reference(
    data: Path, mandarin: NDArray[np.int16], reference_features: Reference
) -> None:
    published = data / "sensevoice" / "am.mvn"
    ours = _frontend(published)(mandarin)
    theirs = reference_features(published, mandarin)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-3


@pytest.mark.parametrize("length", [1, 160, 399])
def test_audio_shorter_than_a_frame_gives_one_row(length: int, cmvn: Path) -> None:
    short = np.full(length, 1000, np.int16)
    short[::2] = -1000
    padded = np.pad(short, (0, 400 - length))
    frontend = _frontend(cmvn)
    assert frontend(short).shape == (1, WIDTH)
    assert np.array_equal(frontend(short), frontend(padded))


def test_the_same_audio_always_gives_the_same_features(cmvn: Path) -> None:
    samples = _synthetic()["quiet noise"]
    assert np.array_equal(_frontend(cmvn)(samples), _frontend(cmvn)(samples))


def test_samples_that_are_a_strided_view_give_the_features_of_their_copy(cmvn: Path) -> None:
    stereo = np.stack([_synthetic()["noise"], _synthetic()["a tone"]], axis=1)
    frontend = _frontend(cmvn)
    assert np.array_equal(frontend(stereo[:, 0]), frontend(stereo[:, 0].copy()))


def test_memory_beyond_the_answer_does_not_grow_with_the_audio(cmvn: Path) -> None:
    frontend = _frontend(cmvn)

    def beyond(seconds: int) -> int:
        samples = np.zeros(seconds * _SECOND, np.int16)
        tracemalloc.start()
        try:
            energies = frontend.filterbank(samples)
            return tracemalloc.get_traced_memory()[1] - energies.nbytes
        finally:
            tracemalloc.stop()

    assert beyond(60) < 1.2 * beyond(10)
