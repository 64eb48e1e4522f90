"""Which device a model runs on, and what is said when it cannot."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
from sensestream_common.errors import ModelError
from sensestream_consumer.engine import Recogniser, recogniser as module
from sensestream_consumer.engine.session import _providers

from tests.consumer.engine.models import TinyModel

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


def test_no_threads_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="threads is 0"):
        Recogniser.load(TinyModel().write(tmp_path), threads=0)


def test_a_gpu_is_not_told_to_tune_every_shape_nor_to_double_its_memory() -> None:
    (cuda, options), cpu = _providers("cuda:1", 2**30)
    assert (cuda, cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {
        "device_id": "1",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "gpu_mem_limit": str(2**30),
    }
    (_, without), _ = _providers("cuda:0", 0)
    assert "gpu_mem_limit" not in without
