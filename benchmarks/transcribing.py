"""One recording transcribed in a process of its own: what that took, as one line of JSON.

    python transcribing.py MODEL VAD SECONDS THREADS    (VAD empty: cut by loudness)

The recording is the bundled clips again and again, with pauses between them. What is measured is
the most memory held while it was transcribed, beyond what the process held just before, when the
model had been used, the samples were there and freed memory had been given back.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine import ROOT
from numpy.typing import NDArray
from sensestream_consumer.audio import AudioPolicy, decode
from sensestream_consumer.audio.spool import Fetched
from sensestream_consumer.engine import Engine, Recogniser

RATE = 16_000
CLIPS = ROOT / "consumer" / "sensestream_consumer" / "clips"
PAUSES = (0.3, 3.0)  # seconds
MEGABYTE = 1e6


def recording(seconds: int) -> NDArray[np.int16]:
    """Speech with pauses, of exactly this length; nothing else of it stays in memory."""
    listed = json.loads((CLIPS / "clips.json").read_text(encoding="utf-8"))
    clips = [_decoded(CLIPS / clip["file"]) for clip in listed]
    random = np.random.default_rng(seconds)
    samples = np.empty(seconds * RATE, np.int16)
    filled = 0
    while filled < samples.size:
        pause = round(random.uniform(*PAUSES) * RATE)
        for part in (clips[random.integers(len(clips))], random.integers(-3, 4, pause)):
            count = min(part.size, samples.size - filled)
            samples[filled : filled + count] = part[:count]
            filled += count
    return samples


class Peak:
    """What a stretch of work takes: the most memory beyond that before it, and processor time."""

    def __init__(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before, self._cpu = _status("VmRSS"), time.process_time()

    def told(self) -> dict[str, float]:
        return {
            "mb": round((_status("VmHWM") - self._before) / MEGABYTE, 1),
            "cpu": round(time.process_time() - self._cpu, 3),
        }


def measure(model: Path, vad: Path | None, seconds: int, threads: int) -> dict[str, Any]:
    recogniser = Recogniser.load(model, device="cpu", vad=vad)
    recogniser.warm_up()
    loaded = _status("VmRSS")
    samples = recording(seconds)
    peak = Peak()
    pieces = len(recogniser._cutter.cut(samples))
    cutting = peak.told()
    peak = Peak()
    text = asyncio.run(_transcribe(recogniser, samples, threads))
    return {
        "model": recogniser.name,
        "cut": "by a voice activity model" if vad else "by loudness",
        "seconds": seconds,
        "threads": threads,
        "pieces": pieces,
        "loaded_mb": round(loaded / MEGABYTE, 1),
        "samples_mb": round(samples.nbytes / MEGABYTE, 1),
        "cutting": cutting,
        "transcribing": peak.told(),
        "characters": len(text),
    }


async def _transcribe(recogniser: Recogniser, samples: NDArray[np.int16], threads: int) -> str:
    engine = Engine(recogniser, concurrency=threads)
    try:
        return (await engine.transcribe(samples, "auto", True)).text
    finally:
        await engine.aclose()


def _decoded(path: Path) -> NDArray[np.int16]:
    with path.open("rb") as file:
        return decode(Fetched("", os.fstat(file.fileno()).st_size, "", file), AudioPolicy(roots=()))


def _status(name: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


def main() -> None:
    model, vad, seconds, threads = sys.argv[1:]
    answer = measure(Path(model), Path(vad) if vad else None, int(seconds), int(threads))
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
