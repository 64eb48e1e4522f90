"""Peers, a model and clips for a benchmark, and the facts about the machine it runs on."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
import venv
import wave
from pathlib import Path
from typing import Any

import onnxruntime
from sensestream_consumer.engine.graph.cpu_features import (
    multiplies_signed_exactly,
    processor_features,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the training package

from training.full_size import speech_like  # noqa: E402

BENCH = ROOT / ".venv-bench"
RESULTS = ROOT / "benchmarks" / "results"
PEERS = ("sherpa-onnx==2.0.1", "numpy", "espeakng-loader==0.2.4")


def peers_python() -> Path:
    """The interpreter of the peers' environment, made if it is not there."""
    python = BENCH / "bin" / "python"
    if not (BENCH / "ready").exists():
        print(f"making {BENCH.name} for {', '.join(PEERS)}", flush=True)
        venv.create(BENCH, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, *PEERS], check=True)
        (BENCH / "ready").touch()
    return python


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def full_size_model(folder: Path) -> Path:
    if not (folder / "sherpa" / "tokens.txt").exists():
        command = [sys.executable, "-m", "training.full_size", str(folder), "--sherpa"]
        subprocess.run(command, check=True, cwd=ROOT)
    return folder


def make_clips(folder: Path, count: int, seconds: float, python: Path) -> str:
    """Distinct clips; what they are."""
    script = Path(__file__).with_name("speech.py")
    command = [str(python), str(script), str(folder), str(count), str(seconds)]
    if subprocess.run(command, capture_output=True).returncode == 0:
        return "English by espeak-ng"
    for number in range(count):
        with wave.open(str(folder / f"clip-{number:02}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(16_000)
            file.writeframes(speech_like(seconds, seed=number).tobytes())
    return "noise shaped like speech"


def busy_seconds() -> float:
    """Processor seconds that all processes of this machine have used."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, *_ = (int(value) for value in fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def environment(cores: list[int]) -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if "model name" in line), "?")
    features = processor_features()
    return {
        "processor": name,
        "vnni": multiplies_signed_exactly(features),
        "features": sorted(features & {"avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8"}),
        "cores": len(cores),
        "onnxruntime": onnxruntime.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def keep(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write a result as JSON under its date and as the latest; return the dated path."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8")
    shutil.copyfile(path, folder / f"{name}-latest.json")
    return path
