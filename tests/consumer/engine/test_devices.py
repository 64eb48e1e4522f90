"""Which device a model runs on, and what is said when it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import structlog
from sensestream_common.contract.errors import ModelError
from sensestream_consumer.engine import Recogniser, recogniser as module
from sensestream_consumer.engine.batching.queue import BUCKETS
from sensestream_consumer.engine.graph import graph as graph_module
from sensestream_consumer.engine.session import _providers, open_session

from tests.consumer.engine.models import TinyModel
from tests.consumer.engine.speech import bundled_clips, read_speech

without_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="the installed ONNX Runtime has CUDA",
)


@without_cuda
def test_auto_is_the_cpu_where_the_runtime_has_no_cuda(tmp_path: Path) -> None:
    assert Recogniser.load(TinyModel().write(tmp_path), device="auto").device == "cpu"


@without_cuda
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused_with_what_to_install(
    device: str, tmp_path: Path
) -> None:
    directory = TinyModel().write(tmp_path)
    with pytest.raises(ModelError) as refused:
        Recogniser.load(directory, device=device)
    assert f"device {device} was asked for" in str(refused.value)
    assert "sensestream-consumer[gpu]" in str(refused.value)


@without_cuda
def test_a_session_that_did_not_get_its_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a machine with the GPU runtime and no driver: ONNX Runtime falls back to the CPU.
    monkeypatch.setattr(module, "choose_device", lambda _: "cuda:0")
    directory = TinyModel().write(tmp_path)
    with pytest.warns(UserWarning, match="CUDAExecutionProvider"), pytest.raises(ModelError) as no:
        Recogniser.load(directory)
    assert "ONNX Runtime gave CPUExecutionProvider" in str(no.value)


def test_an_integer_graph_is_refused_on_a_gpu_with_the_reason(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "choose_device", lambda _: "cuda:0")
    for path in demo.iterdir():
        if path.name != "model.onnx" and path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(ModelError, match="8-bit integers, for which CUDA has no kernels"):
        Recogniser.load(tmp_path)


def test_the_way_to_a_gpu_gives_the_same_transcripts(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the device itself: float graph, best pieces inside it, batches, warm-up."""
    for path in demo.iterdir():
        if path.is_file() and path.name != "model_quant.onnx":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    alone = Recogniser.load(tmp_path, device="cpu")

    def on_the_processor(graph: Path, _device: str, threads: int, **options: Any) -> Any:
        return open_session(graph, "cpu", threads, **options)

    monkeypatch.setattr(module, "choose_device", lambda _: "cuda:0")
    monkeypatch.setattr(graph_module, "open_session", on_the_processor)
    batching = Recogniser.load(tmp_path, gpu_mem_limit=2**30)
    with structlog.testing.capture_logs() as lines:
        batching.warm_up()
    steps = [(line["step"], line["of"]) for line in lines if line["event"] == "warming_up"]
    assert steps == [(number, len(steps)) for number in range(1, len(steps) + 1)]
    assert len(steps) >= len(BUCKETS)
    for clip in bundled_clips():
        samples = read_speech(clip.path)
        expected = alone.recognise(samples, clip.language, clip.itn)
        assert batching.recognise(samples, clip.language, clip.itn) == expected
    assert batching.fingerprint == alone.fingerprint
    assert batching.batch_stats is not None
    assert batching.batch_stats.clips == len(bundled_clips())
    batching.close()


def test_no_threads_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="threads is 0"):
        Recogniser.load(TinyModel().write(tmp_path), threads=0)


def test_a_gpu_tunes_no_shape_doubles_no_memory_and_rounds_no_factor() -> None:
    (cuda, options), cpu = _providers("cuda:1", 2**30)
    assert (cuda, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "gpu_mem_limit": str(2**30),
    }
    (_, without), _ = _providers("cuda:0", 0)
    assert "gpu_mem_limit" not in without
