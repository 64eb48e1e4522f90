"""Utterances out of frames: the rules of FunASR's detector, without its frame-by-frame steps."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from sensestream_consumer.engine.segmentation.endpointing import utterances
from sensestream_consumer.engine.segmentation.vad_options import VadOptions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jieba's, while it is imported
    from funasr_onnx.utils.e2e_vad import E2EVadModel


def _flags(*runs: tuple[int, bool]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.concatenate([np.full(length, value) for length, value in runs])


def _reference(speech: Any, options: VadOptions, chunk: int) -> list[tuple[int, int]]:
    """What funasr-onnx's detector says, fed `chunk` frames at a time."""
    conf = {**asdict(options), "sil_pdf_ids": list(options.sil_pdf_ids)}
    detector: Any = E2EVadModel(conf)
    scores = np.where(speech, 0.01, 0.99).astype(np.float32)[np.newaxis, :, np.newaxis]
    found: list[tuple[int, int]] = []
    for first in range(0, speech.size, chunk):
        part = scores[:, first : first + chunk]
        final = first + chunk >= speech.size
        wave = np.full((1, (part.shape[1] - 1) * 160 + 400), 0.1, np.float32)
        said = detector(part, wave, final, options.max_end_silence_time, online=False)
        found += [(start // 10, end // 10) for start, end in (said[0] if said else [])]
    return found


def test_an_utterance_begins_before_its_first_sure_frame_and_ends_after_its_last() -> None:
    speech = _flags((100, False), (200, True), (200, False))
    ((start, stop),) = utterances(speech, VadOptions())
    assert 70 <= start <= 100
    assert 300 <= stop <= 330


def test_a_short_pause_ends_nothing_and_a_long_one_does() -> None:
    def found(pause: int) -> int:
        speech = _flags((50, False), (100, True), (pause, False), (100, True), (90, False))
        return len(utterances(speech, VadOptions()))

    assert found(50) == 1
    assert found(120) == 2


def test_silence_and_single_clicks_are_no_utterance() -> None:
    assert utterances(np.zeros(1000, np.bool_), VadOptions()) == []
    clicks = np.zeros(1000, np.bool_)
    clicks[::40] = True
    assert utterances(clicks, VadOptions()) == []
    assert utterances(np.zeros(0, np.bool_), VadOptions()) == []


def test_speech_to_the_last_frame_loses_none() -> None:
    speech = _flags((100, False), (300, True))
    assert utterances(speech, VadOptions())[-1][1] == 400


def test_an_utterance_without_a_pause_is_cut_at_the_limit() -> None:
    options = VadOptions(max_single_segment_time=10_000)
    found = utterances(np.ones(2500, np.bool_), options)
    assert [start for start, _ in found] == [0, *(stop for _, stop in found)][:-1]
    assert all(stop - start <= 1002 for start, stop in found)
    assert found[-1][1] == 2500


_RUNS = st.lists(
    st.tuples(st.integers(1, 130), st.sampled_from([0.0, 0.1, 0.5, 0.75, 0.8, 0.95, 1.0])),
    min_size=1,
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(
    runs=_RUNS,
    seed=st.integers(0, 2**20),
    limit=st.sampled_from([60_000, 30_000, 3_000, 900]),
    pause=st.sampled_from([800, 400, 1200]),
    extend=st.sampled_from([1, 0]),
    chunk=st.sampled_from([10_000, 97]),
)
def test_utterances_are_those_of_the_reference(
    runs: list[tuple[int, float]], seed: int, limit: int, pause: int, extend: int, chunk: int
) -> None:
    random = np.random.default_rng(seed)
    speech = np.concatenate([random.random(length) < share for length, share in runs])
    options = VadOptions(
        max_single_segment_time=limit, max_end_silence_time=pause, do_extend=extend
    )
    assert utterances(speech, options) == _reference(speech, options, chunk)


@pytest.mark.parametrize("seed", range(3))
def test_an_hour_of_utterances_neither_overlaps_nor_runs_backwards(seed: int) -> None:
    random = np.random.default_rng(seed)
    speech = np.repeat(random.random(3600) < 0.6, 100)
    found = utterances(speech, VadOptions())
    assert found
    assert all(start < stop for start, stop in found)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(found))
