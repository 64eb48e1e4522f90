"""What the engine's tests share: real speech where there is some, and the reference front-end."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sensestream_consumer.engine import resolve_model

from tests.consumer.engine.speech import ROOT, Samples, read_speech
from training.full_size import build
from training.sanm_graph import Sizes

TINY = Sizes(width=64, heads=2, feed_forward=96, first_blocks=2, last_blocks=1, pieces=600)


@pytest.fixture(scope="session")
def data() -> Path:
    """Public development data, which the project does not ship."""
    folder = Path(os.environ.get("SENSESTREAM_TEST_DATA", ROOT / ".." / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no development data: set SENSESTREAM_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def mandarin(data: Path) -> Samples:
    """5.5 s of a real person."""
    return read_speech(data / "speech" / "asr_example_zh.wav")


@pytest.fixture(scope="session")
def demo() -> Path:
    """The embedded model."""
    return resolve_model("demo", allow_download=False)


@pytest.fixture(scope="session")
def reference_features() -> Callable[[Path, Samples], NDArray[np.float32]]:
    """funasr-onnx's front-end, dither 0, with the statistics of a file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's, while it is imported
        from funasr_onnx.utils.frontend import WavFrontend

    def features(cmvn: Path, samples: Samples) -> NDArray[np.float32]:
        frontend: Any = WavFrontend(str(cmvn), lfr_m=7, lfr_n=6, dither=0.0)
        frames, _ = frontend.fbank(samples.astype(np.float32) / 32768)
        rows, _ = frontend.lfr_cmvn(frames)
        return np.asarray(rows, dtype=np.float32)

    return features


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SenseVoice's architecture in tiny, quantised as FunASR does it; `sherpa`, `half` inside."""
    return build(tmp_path_factory.mktemp("tiny") / "tiny", TINY, sherpa=True, half=True)


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a mask as wide as the longest clip."""
    sizes = Sizes(**{**{name: getattr(TINY, name) for name in TINY.__slots__}, "wide_mask": False})
    return build(tmp_path_factory.mktemp("older") / "tiny", sizes)
