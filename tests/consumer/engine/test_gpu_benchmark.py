"""The GPU's benchmark on a processor: that it runs, not what it measures."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.consumer.engine.speech import ROOT

GPU = ROOT / "benchmarks" / "gpu.py"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(GPU), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_one_command_measures_the_engine_and_a_whole_worker(redis_executable: str) -> None:
    done = _run("--device", "cpu", "--clips", "4", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    for case in ("engine, 10 s, one by one", "engine, 2 to 20 s", "worker, 10 s"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(case + "  ")]
        in_flight, clips, speed = re.findall(r"[\d.]+", line[len(case) :])[:3]
        assert int(in_flight) >= 1
        assert float(clips) > 0
        assert float(speed) > 0
    assert "demo-fp32 on cpu" in done.stdout


def test_without_a_gpu_it_says_what_is_missing() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("the installed ONNX Runtime has CUDA")
    done = _run("--no-worker")
    assert done.returncode == 1
    assert "sensestream-consumer[gpu]" in done.stderr
    assert "Traceback" not in done.stderr
