"""How fast the engine and a whole worker are on this machine's GPU, in one command.

    python benchmarks/gpu.py --model /models/SenseVoiceSmall

Wants onnxruntime-gpu, a CUDA device and a model directory with a float graph (model.onnx). With
`--device cpu` it measures the same on the processor, which tells nothing about a GPU and is how
the script itself is tested. What it said of an H100 is in docs/gpu.md.

Clips are noise, all different, so that no result comes from the cache; timing does
not depend on the words spoken. Every case runs `--rounds` times in turns; the table has the
median round, with the slowest and fastest beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import soundfile
import structlog
from numpy.typing import NDArray
from sensestream_common.contract.errors import SensestreamError
from sensestream_consumer.engine import Engine, Recogniser, resolve_model
from sensestream_consumer.engine.batching.queue import BatchLimits
from sensestream_consumer.engine.model.directory import FLOAT_GRAPHS, INT8_GRAPHS
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

RATE = 16_000
ROW_SECONDS = 0.06
READY_TIMEOUT = 600.0  # seconds: loading and warming up on a cold GPU takes a while
MIXED = (2.0, 20.0)  # seconds
Samples = NDArray[np.int16]
T = TypeVar("T")


@dataclass
class Case:
    """One line of the table."""

    name: str
    clips: list[Samples]
    in_flight: int
    walls: list[float] = field(default_factory=list)  # seconds a round
    latencies: list[float] = field(default_factory=list)  # seconds a clip, of all rounds
    note: str = ""

    async def run(self, transcribe: Callable[[T], Awaitable[None]], clips: Sequence[T]) -> None:
        """One round: all clips, in whatever form, `in_flight` of them at a time."""
        limit = asyncio.Semaphore(self.in_flight)

        async def one(clip: T) -> None:
            async with limit:
                began = time.perf_counter()
                await transcribe(clip)
                self.latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for clip in clips:
                group.create_task(one(clip))
        self.walls.append(time.perf_counter() - began)

    def line(self) -> str:
        audio = sum(clip.size for clip in self.clips) / RATE
        speeds = sorted(audio / wall for wall in self.walls)
        half, most = np.quantile(self.latencies, [0.5, 0.95]) * 1000
        return (
            f"{self.name:<26}{self.in_flight:>10}"
            f"{len(self.clips) / statistics.median(self.walls):>10.1f}"
            f"{statistics.median(speeds):>12.0f}{speeds[0]:>8.0f}{speeds[-1]:>8.0f}"
            f"{half:>9.0f}{most:>9.0f}  {self.note}"
        )


HEADER = (
    f"{'case':<26}{'in flight':>10}{'clips/s':>10}{'x real time':>12}{'min':>8}{'max':>8}"
    f"{'p50 ms':>9}{'p95 ms':>9}  batches"
)


def main() -> int:
    options = _options()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="sensestream-gpu-") as scratch:
        directory = _float_model(options.model, Path(scratch))
        print(_machine(options, directory), flush=True)
        print(HEADER, flush=True)
        measure_engine(options, directory)
        if options.worker:
            measure_worker(options, directory, Path(scratch))
    print(_gpu("memory.used,memory.total,utilization.gpu"))
    return 0


def measure_engine(options: argparse.Namespace, directory: Path) -> None:
    """The engine alone: samples in, transcripts out, no Redis and no files."""
    limits = BatchLimits(
        round(options.batch_seconds / ROW_SECONDS), options.max_batch_delay_ms / 1000
    )
    began = time.perf_counter()
    recogniser = Recogniser.load(
        directory, device=options.device, batching=limits, gpu_mem_limit=options.gpu_mem_limit
    )
    loaded = time.perf_counter()
    recogniser.warm_up()
    print(
        f"engine: {recogniser.name} on {recogniser.device}, loaded in {loaded - began:.1f} s, "
        f"warmed up in {time.perf_counter() - loaded:.1f} s",
        flush=True,
    )
    cases = [Case("engine, 10 s, one by one", _noises(options.clips // 4, 10.0), 1)]
    cases += [
        Case(f"engine, {seconds:g} s", _noises(options.clips, seconds), 64)
        for seconds in (5.0, 10.0, 30.0)
    ]
    cases.append(Case("engine, 2 to 20 s", _noises(options.clips, MIXED), 64))
    asyncio.run(_engine_rounds(recogniser, cases, options.rounds))
    for case in cases:
        print(case.line(), flush=True)
    recogniser.close()


async def _engine_rounds(recogniser: Recogniser, cases: Sequence[Case], rounds: int) -> None:
    engine = Engine(recogniser, concurrency=os.cpu_count() or 1)
    batch_stats = recogniser.batch_stats
    assert batch_stats is not None  # it batches

    async def transcribe(clip: Samples) -> None:
        await engine.transcribe(clip, "auto", True)

    for _ in range(rounds):
        for case in cases:
            before = dataclasses.replace(batch_stats)
            await case.run(transcribe, case.clips)
            recent = batch_stats.since(before)
            case.note = f"of {recent.clips / recent.batches:.1f} clips, {recent.waste:.0%} padding"
    await engine.aclose()


def measure_worker(options: argparse.Namespace, directory: Path, scratch: Path) -> None:
    """Everything: files, a Redis of its own, `sensestream-worker`, a client that waits."""
    cases = [
        Case("worker, 10 s", _noises(options.clips, 10.0, seed=1000), 128),
        Case("worker, 2 to 20 s", _noises(options.clips, MIXED, seed=2000), 128),
    ]
    with EmbeddedRedis() as redis:
        worker, log = _start_worker(options, directory, scratch, redis.url)
        try:
            _await_ready(worker, log)
            asyncio.run(_worker_rounds(redis.url, cases, options.rounds, scratch))
        finally:
            worker.terminate()
            worker.wait()
    for case in cases:
        print(case.line(), flush=True)


async def _worker_rounds(url: str, cases: Sequence[Case], rounds: int, scratch: Path) -> None:
    async with Client(url) as client:

        async def transcribe(audio: str) -> None:
            outcome = await client.transcribe(audio, timeout=READY_TIMEOUT)
            if outcome.error:
                raise SystemExit(f"{audio} failed: {outcome.error}: {outcome.message}")

        for number in range(rounds):
            for place, case in enumerate(cases):
                files = []
                for index, clip in enumerate(case.clips):
                    # The round is part of the samples, or the second one came from the cache.
                    path = scratch / f"{place}-{index}.wav"
                    soundfile.write(path, np.append(clip, np.int16(number)), RATE, "PCM_16")
                    files.append(path.as_uri())
                await case.run(transcribe, files)


def _start_worker(
    options: argparse.Namespace, directory: Path, scratch: Path, url: str
) -> tuple[subprocess.Popen[bytes], Path]:
    settings = {
        "REDIS_URL": url,
        "MODEL": str(directory),
        "DEVICE": options.device,
        "AUDIO_ROOTS": str(scratch),
        "MAX_BATCH_DELAY_MS": str(options.max_batch_delay_ms),
        "BATCH_SECONDS": str(options.batch_seconds),
        "GPU_MEM_LIMIT": str(options.gpu_mem_limit),
        "READ_AHEAD": "512",
    }
    log = scratch / "worker.log"
    environment = os.environ | {f"SENSESTREAM_{name}": text for name, text in settings.items()}
    with log.open("wb") as sink:
        command = [str(Path(sys.executable).with_name("sensestream-worker"))]
        return subprocess.Popen(command, env=environment, stderr=sink), log


def _await_ready(worker: subprocess.Popen[bytes], log: Path) -> None:
    began = time.monotonic()
    while "worker_ready" not in (text := log.read_text("utf-8", "replace")):
        if worker.poll() is not None or time.monotonic() - began > READY_TIMEOUT:
            raise SystemExit(f"the worker did not start:\n{text}")
        time.sleep(0.1)
    ready = next(json.loads(line) for line in text.splitlines() if '"worker_ready"' in line)
    print(f"worker: {ready['model']} on {ready['device']}, {ready['concurrency']} at once")


def _noises(count: int, seconds: float | tuple[float, float], seed: int = 0) -> list[Samples]:
    """So many different clips of noise; two numbers: lengths drawn from between them."""
    random = np.random.default_rng(seed)
    low, high = seconds if isinstance(seconds, tuple) else (seconds, seconds)
    lengths = random.uniform(low, high, max(1, count)) * RATE
    return [random.integers(-4000, 4000, int(size)).astype(np.int16) for size in lengths]


def _float_model(name: str, scratch: Path) -> Path:
    """The model with its float graph alone: what a GPU runs, and what may be batched."""
    source = resolve_model(name, allow_download=False)
    if not (source / FLOAT_GRAPHS[0]).is_file():
        raise SystemExit(f"{source} has no {FLOAT_GRAPHS[0]}: a GPU runs the float graph")
    target = scratch / source.name
    target.mkdir()
    for path in source.iterdir():
        if path.name not in INT8_GRAPHS:
            (target / path.name).symlink_to(path.resolve())
    return target


def _machine(options: argparse.Namespace, directory: Path) -> str:
    import onnxruntime

    graph = (directory / FLOAT_GRAPHS[0]).stat().st_size / 1e6
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{options.device}; {_gpu('name,driver_version')}; ONNX Runtime {onnxruntime.__version__} "
        f"({', '.join(onnxruntime.get_available_providers())}); {os.cpu_count()} cores, load "
        f"{load}; graph of {graph:.0f} MB; batches of {options.batch_seconds:g} s, "
        f"{options.max_batch_delay_ms:g} ms to wait; {options.clips} clips, {options.rounds} rounds"
    )


def _gpu(fields: str) -> str:
    if shutil.which("nvidia-smi") is None:
        return "no nvidia-smi on this machine"
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="demo", help="model directory with model.onnx, or demo")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu to try the script")
    parser.add_argument("--clips", type=int, default=256, help="clips in each case")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-seconds", type=float, default=240.0)
    parser.add_argument("--max-batch-delay-ms", type=float, default=10.0)
    parser.add_argument("--gpu-mem-limit", type=int, default=0, help="bytes, 0: all")
    parser.add_argument("--no-worker", dest="worker", action="store_false")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SensestreamError as error:
        sys.exit(str(error))
