"""What a working worker has not loaded, and how soon it works."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import soundfile

from tests.pipeline.conftest import Pipeline, StartWorker
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess
from training.full_size import build, speech_like
from training.sanm_graph import Sizes

# funasr-onnx describes models and computes nothing here; onnx converts one, once.
HEAVY = {
    "numba", "scipy", "torch", "librosa", "jieba", "funasr_onnx", "onnx", "modelscope",
    "kaldi_native_fbank",
}  # fmt: skip
TINY = Sizes(width=64, heads=2, feed_forward=96, first_blocks=2, last_blocks=1, pieces=600)

# Runs in the worker when Python starts: on a signal it writes down what has been imported.
LISTENER = """
import json, os, pathlib, signal, sys

def write(number, frame):
    path = pathlib.Path(os.environ["MODULES_FILE"])
    names = sorted({name.partition(".")[0] for name in sys.modules})
    path.with_suffix(".new").write_text(json.dumps(names))
    path.with_suffix(".new").replace(path)

signal.signal(signal.SIGUSR2, write)
"""


@pytest.fixture
def modules_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(LISTENER)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("MODULES_FILE", str(tmp_path / "modules.json"))
    return tmp_path / "modules.json"


def _modules(worker: WorkerProcess, file: Path) -> set[str]:
    worker.signal(signal.SIGUSR2)
    wait_until_sync(file.exists, what="the list of modules")
    return set(json.loads(file.read_text()))


def test_a_worker_that_has_answered_has_loaded_no_heavy_library(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, modules_file: Path
) -> None:
    worker = start_worker()
    for seed, form in enumerate(("wav", "flac", "mp3")):
        path = clips / f"clip.{form}"
        soundfile.write(path, speech_like(1.0, seed=seed), 16_000)
        pipeline.submit(path.as_uri())
    assert {o["status"] for o in pipeline.wait_for(3)} == {"completed"}
    modules = _modules(worker, modules_file)
    assert {"onnxruntime", "numpy", "sensestream_consumer"} <= modules
    assert modules & HEAVY == set()


def test_a_worker_finds_a_converted_model_without_loading_onnx(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path, modules_file: Path
) -> None:
    model = build(tmp_path / "tiny", TINY)
    settings = {"model": model, "model_cache_dir": tmp_path / "cache"}
    start_worker(**settings).terminate()  # converts it, where the processor gains by that
    worker = start_worker(**settings)
    pipeline.submit(write_clip(clips, 1))
    assert pipeline.wait_for(1)[0]["model"] == "tiny-int8"
    assert _modules(worker, modules_file) & HEAVY == set()
    assert not worker.logged("converting_model")


def test_a_worker_is_ready_within_three_seconds_on_the_embedded_model(
    start_worker: StartWorker,
) -> None:
    took = []
    for _ in range(3):
        began = time.monotonic()
        start_worker()
        took.append(time.monotonic() - began)
    assert min(took) < 3.0  # of three: this machine may be doing something else
