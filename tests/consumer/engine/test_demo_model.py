"""The embedded model: what it answers, how it is chosen, and what it loads."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sensestream_consumer.engine import Recogniser

from tests.consumer.engine.speech import bundled_clips, read_speech


@pytest.fixture(scope="module", params=["model.onnx", "model_quant.onnx"])
def recogniser(
    request: pytest.FixtureRequest, demo: Path, tmp_path_factory: pytest.TempPathFactory
) -> Recogniser:
    """The embedded model with one graph only."""
    directory = tmp_path_factory.mktemp(request.param) / "demo"
    graphs = {"model.onnx", "model_quant.onnx"} - {request.param}
    shutil.copytree(demo, directory, ignore=lambda _, names: graphs & set(names))
    return Recogniser.load(directory, device="cpu")


def test_every_bundled_clip_is_transcribed_as_it_was_spoken(recogniser: Recogniser) -> None:
    for clip in bundled_clips():
        transcript = recogniser.recognise(read_speech(clip.path), clip.language, clip.itn)
        assert (transcript.text, transcript.language) == (clip.text, clip.language), clip.path.name


def test_the_same_clip_always_gives_the_same_transcript(recogniser: Recogniser) -> None:
    noise = np.random.default_rng(3).integers(-4000, 4000, 48_000).astype(np.int16)
    transcripts = {recogniser.recognise(noise, "auto", itn=True).dumps() for _ in range(5)}
    assert len(transcripts) == 1


def test_a_cpu_prefers_the_int8_graph(demo: Path) -> None:
    assert Recogniser.load(demo).name == "demo-int8"


def test_precision_is_told_by_the_graph_and_not_by_its_name(demo: Path, tmp_path: Path) -> None:
    directory = tmp_path / "renamed"
    shutil.copytree(demo, directory)
    (directory / "model_quant.onnx").replace(directory / "model.onnx")
    assert Recogniser.load(directory, device="cpu").name == "renamed-int8"


def test_text_and_json_vocabularies_give_one_transcript(
    demo: Path, tmp_path: Path, data: Path
) -> None:
    directory = tmp_path / "demo"
    shutil.copytree(demo, directory)
    (directory / "chn_jpn_yue_eng_ko_spectok.bpe.model").unlink()
    samples = read_speech(data / "speech" / "jfk.flac")
    by_model = Recogniser.load(demo, device="cpu").recognise(samples, "en", itn=True)
    by_list = Recogniser.load(directory, device="cpu").recognise(samples, "en", itn=True)
    assert by_list == by_model


def test_a_working_recogniser_has_loaded_nothing_heavy(demo: Path) -> None:
    script = """
import json, sys
from pathlib import Path
import sensestream_consumer.engine as engine
after_import = sorted({name.partition(".")[0] for name in sys.modules})
import numpy
recogniser = engine.Recogniser.load(Path(sys.argv[1]), device="cpu")
recogniser.warm_up()
recogniser.recognise(numpy.zeros(16000, numpy.int16), "auto", True)
print(json.dumps([after_import, sorted({name.partition(".")[0] for name in sys.modules})]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(demo)], check=True, capture_output=True, text=True
    )
    after_import, after_work = map(set, json.loads(done.stdout))
    heavy = {"numba", "scipy", "torch", "librosa", "jieba", "funasr_onnx", "onnx", "modelscope"}
    assert not heavy & after_work
    assert "onnxruntime" in after_work - after_import
    assert done.stderr == ""  # the runtime's complaints about the probe stay out of the log
