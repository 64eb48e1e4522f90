"""The embedded model against funasr-onnx's front-end and a plain session of the same graph."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from sensestream_consumer.engine import Recogniser

from tests.consumer.engine.speech import Samples, bundled_clips, read_speech

Reference = Callable[[Path, Samples], NDArray[np.float32]]
LANGUAGE_IDS = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12}


@pytest.fixture(scope="module", params=["model.onnx", "model_quant.onnx"])
def model(
    request: pytest.FixtureRequest, demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The embedded model with one graph only."""
    directory = tmp_path_factory.mktemp(request.param) / "demo"
    graphs = {"model.onnx", "model_quant.onnx"} - {request.param}
    shutil.copytree(demo, directory, ignore=lambda _, names: graphs & set(names))
    return directory


@pytest.fixture(scope="module")
def recogniser(model: Path) -> Recogniser:
    return Recogniser.load(model, device="cpu")


class Plain:
    """A session as anybody would make it, fed by one front-end or another."""

    def __init__(self, model: Path, reference: Reference) -> None:
        runtime: Any = onnxruntime  # half of it has types
        (graph,) = model.glob("*.onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = runtime.InferenceSession(str(graph), options)
        self._reference, self._cmvn = reference, model / "am.mvn"
        self.integer = graph.name == "model_quant.onnx"

    def logits(self, samples: Samples, language: str, *, itn: bool) -> NDArray[np.float32]:
        features = self._reference(self._cmvn, samples)
        feed = {
            "speech": features[np.newaxis],
            "speech_lengths": np.array([features.shape[0]], np.int32),
            "language": np.array([LANGUAGE_IDS[language]], np.int32),
            "textnorm": np.array([14 if itn else 15], np.int32),
        }
        logits, lengths = self._session.run(["ctc_logits", "encoder_out_lens"], feed)
        rows: NDArray[np.float32] = logits[0, : int(lengths[0])]
        return rows


@pytest.fixture(scope="module")
def plain(model: Path, reference_features: Reference) -> Plain:
    return Plain(model, reference_features)


def _collapsed(ids: NDArray[np.int64]) -> tuple[int, ...]:
    changed = ids[np.concatenate(([True], ids[1:] != ids[:-1]))]
    return tuple(int(number) for number in changed if number != 0)


def _modes() -> Iterator[tuple[str, bool]]:
    return itertools.product(LANGUAGE_IDS, (True, False))


def _assert_same_tokens(recogniser: Recogniser, plain: Plain, samples: Samples) -> None:
    for language, itn in _modes():
        (result,) = recogniser.recognise_pieces(samples, language, itn=itn)
        ids = plain.logits(samples, language, itn=itn).argmax(axis=-1)
        assert result.tags == tuple(ids[:4])
        assert tuple(token.id for token in result.tokens) == _collapsed(ids[4:])


def _assert_same_rows(recogniser: Recogniser, plain: Plain, samples: Samples) -> None:
    """Row by row, except where two pieces are as good as equal.

    An integer graph rounds its activations: features that differ in the fifth decimal can move
    a logit by a few hundredths of the logits' spread, and with it a tie.
    """
    for language, itn in _modes():
        logits = plain.logits(samples, language, itn=itn)
        second, first = np.sort(logits, axis=1)[:, -2:].T
        clear = first - second > 0.1 * logits.std()
        ours = recogniser._rows(samples, language, itn=itn).ids
        assert clear.any()
        assert np.array_equal(ours[clear], logits.argmax(axis=1)[clear])


def _recordings(data: Path) -> list[Path]:
    digits = ("3_george_10", "7_jackson_12", "0_theo_7", "9_nicolas_30")
    speech = ("asr_example_zh.wav", "jfk.flac")
    paths = [data / "fsdd" / f"{name}.wav" for name in digits]
    paths += [data / "speech" / name for name in speech]
    return [path for path in paths if path.exists()]


def test_real_recordings_give_the_tokens_of_the_reference(
    recogniser: Recogniser, plain: Plain, data: Path
) -> None:
    same = _assert_same_rows if plain.integer else _assert_same_tokens
    recordings = _recordings(data)
    assert recordings
    for path in recordings:
        same(recogniser, plain, read_speech(path))


def test_on_the_same_features_every_logit_is_that_of_a_plain_session(
    recogniser: Recogniser, model: Path
) -> None:
    frontend, graph = recogniser._frontend, recogniser._graph
    noise = np.random.default_rng(5).integers(-4000, 4000, 48_000).astype(np.int16)
    theirs = Plain(model, lambda _, samples: frontend(samples)).logits(noise, "zh", itn=False)
    features = frontend(noise)
    ours = graph.run(features[np.newaxis], [features.shape[0]], [3], [15])
    assert np.array_equal(ours[0], theirs)


def test_bundled_clips_give_the_tokens_of_the_reference(
    recogniser: Recogniser, plain: Plain
) -> None:
    for clip in bundled_clips():
        _assert_same_tokens(recogniser, plain, read_speech(clip.path))
