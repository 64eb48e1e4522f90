"""The embedded model through sherpa-onnx: another front-end, another runtime, another decoder.

Where sherpa-onnx is not installed these tests skip; `tools/try_sherpa.py` installs it into a
throw-away folder, which it names in SENSESTREAM_SHERPA, and runs them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sensestream_consumer.engine import Recogniser

from tests.consumer.engine.speech import ROOT, BundledClip, bundled_clips, read_speech
from tests.support.sherpa import for_sherpa

PROGRAM = ROOT / "tests" / "support" / "sherpa_process.py"
ROW_SECONDS = 0.06
LANGUAGES = ["auto", "zh", "en", "yue", "ja", "ko"]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """What a process needs to import sherpa-onnx."""
    folder = os.environ.get("SENSESTREAM_SHERPA")
    if folder is None:
        if importlib.util.find_spec("sherpa_onnx") is None:
            pytest.skip("sherpa-onnx is not installed: tools/try_sherpa.py runs this with it")
        return dict(os.environ)
    if not (Path(folder) / "sherpa_onnx").is_dir():
        pytest.fail(f"SENSESTREAM_SHERPA is {folder}, where there is no sherpa_onnx")
    return {**os.environ, "PYTHONPATH": folder}


@pytest.fixture(scope="module", params=["model.onnx", "model_quant.onnx"])
def models(
    request: pytest.FixtureRequest, demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """One graph of the embedded model: as it is, and as sherpa-onnx reads it."""
    folder = tmp_path_factory.mktemp("oracle")
    others = {"model.onnx", "model_quant.onnx"} - {request.param}
    shutil.copytree(demo, folder / "demo", ignore=lambda _, names: others & set(names))
    return folder / "demo", for_sherpa(demo, request.param, folder / "sherpa")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[BundledClip, Path]]:
    """The bundled clips as arrays, so that both get the same samples."""
    folder = tmp_path_factory.mktemp("samples")
    made = []
    for clip in bundled_clips():
        path = folder / f"{clip.path.name}.npy"
        np.save(path, read_speech(clip.path))
        made.append((clip, path))
    return made


def _sherpa_results(
    model: Path, language: str, itn: bool, samples: list[Path], environment: dict[str, str]
) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(model), language, str(int(itn))],
        input=json.dumps([str(path) for path in samples]),
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("itn", [True, False], ids=["with itn", "without itn"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_bundled_clip_has_the_tokens_times_and_tags_of_sherpa(
    language: str,
    itn: bool,
    models: tuple[Path, Path],
    recordings: list[tuple[BundledClip, Path]],
    environment: dict[str, str],
) -> None:
    ours, theirs = models
    recogniser = Recogniser.load(ours, device="cpu")
    vocabulary = json.loads((ours / "tokens.json").read_text(encoding="utf-8"))
    arrays = [path for _, path in recordings]
    results = _sherpa_results(theirs, language, itn, arrays, environment)
    for (clip, path), said in zip(recordings, results, strict=True):
        (mine,) = recogniser.recognise_pieces(np.load(path), language, itn=itn)
        assert [vocabulary[number] for number in mine.tags[:3]] == said["tags"], clip.path.name
        # Theirs writes the mark of a new word as a space.
        tokens = [vocabulary[token.id].replace("▁", " ") for token in mine.tokens]
        assert tokens == [token.replace("▁", " ") for token in said["tokens"]], clip.path.name
        times = [token.first * ROW_SECONDS for token in mine.tokens]
        assert np.allclose(times, said["times"], atol=1e-4), clip.path.name
        transcript = recogniser.recognise(np.load(path), language, itn)
        # What the model calls no speech has no text of ours, whatever its other rows say.
        text = "" if mine.language == "nospeech" else said["text"].strip()
        assert transcript.text == text, clip.path.name
