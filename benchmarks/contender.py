"""One way of recognising speech, in a process of its own: file in, text out, as told on stdin.

    python contender.py KIND MODEL CORES

KIND is a class below. Each line read is a job as JSON, `{"clips": [path, …], "threads": n}`; each
line written tells what it took. The process runs alone on its cores while it works, so processor
seconds and peak memory are its own. Imports only what its KIND needs: sherpa-onnx lives in an
environment of its own, without the project.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
import wave
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


class Stages:
    """Processor seconds by stage. Only right while one thread works at a time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] += time.process_time() - began

    def within(self, owner: Any, method: str, name: str) -> None:
        """Let a method of somebody else's object count as a stage."""
        inner: Callable[..., Any] = getattr(owner, method)

        def counted(*args: Any, **options: Any) -> Any:
            with self.stage(name):
                return inner(*args, **options)

        setattr(owner, method, counted)


class FunasrReadme:
    """funasr-onnx as its README uses it: four threads, dither as configured (that is, on)."""

    threads = 4
    dither: float | None = None

    def __init__(self, model: Path, stages: Stages) -> None:
        import warnings

        warnings.simplefilter("ignore")
        from funasr_onnx import SenseVoiceSmall

        with contextlib.redirect_stdout(io.StringIO()):
            self._model: Any = SenseVoiceSmall(
                str(model), batch_size=10, quantize=True, intra_op_num_threads=self.threads
            )
        if self.dither is not None:
            self._model.frontend.opts.frame_opts.dither = self.dither
        stages.within(self._model, "load_data", "decode")
        stages.within(self._model, "extract_feat", "features")
        stages.within(self._model, "infer", "run")

    def recognise(self, path: str) -> str:
        return str(self._model(path, language="auto", use_itn=True)[0])


class FunasrBest(FunasrReadme):
    """The same with a thread a session and no dither, called from a thread a core."""

    threads = 1
    dither = 0.0


class Sherpa:
    """sherpa-onnx's wheel on the same int8 weights, a thread a stream."""

    def __init__(self, model: Path, stages: Stages) -> None:
        import numpy as np
        import sherpa_onnx

        self._np, self._stages = np, stages
        self._recogniser: Any = sherpa_onnx.OfflineRecognizer.from_sense_voice(
            model=str(model / "sherpa" / "model.int8.onnx"),
            tokens=str(model / "sherpa" / "tokens.txt"),
            num_threads=1,
            use_itn=True,
        )

    def recognise(self, path: str) -> str:
        with self._stages.stage("decode"):
            with wave.open(path) as file:
                content = file.readframes(file.getnframes())
            samples = self._np.frombuffer(content, "<i2").astype(self._np.float32) / 32768
        stream = self._recogniser.create_stream()
        with self._stages.stage("run"):  # its features are computed inside
            stream.accept_waveform(16_000, samples)
            self._recogniser.decode_stream(stream)
        return str(stream.result.text)


class Ours:
    """Sensestream's decoder and engine, as a worker calls them."""

    def __init__(self, model: Path, stages: Stages) -> None:
        from sensestream_consumer.audio import AudioPolicy, decode
        from sensestream_consumer.audio.spool import Fetched
        from sensestream_consumer.engine import Recogniser

        self._stages, self._decode, self._fetched = stages, decode, Fetched
        self._policy = AudioPolicy(roots=())
        self._recogniser: Any = Recogniser.load(model, device="cpu")
        stages.within(self._recogniser._frontend, "filterbank", "features")
        stages.within(self._recogniser._frontend, "_stack", "features")
        stages.within(self._recogniser._graph, "run", "run")

    def recognise(self, path: str) -> str:
        with self._stages.stage("decode"), Path(path).open("rb") as file:
            fetched = self._fetched("", os.fstat(file.fileno()).st_size, "", file)
            samples = self._decode(fetched, self._policy)
        return str(self._recogniser.recognise(samples, "auto", True).text)


KINDS: dict[str, Any] = {kind.__name__: kind for kind in (FunasrReadme, FunasrBest, Sherpa, Ours)}


def work(contender: Any, stages: Stages, clips: list[str], threads: int) -> dict[str, Any]:
    """Recognise clips on so many threads, and say what it took."""
    stages.seconds.clear()
    cpu, wall = time.process_time(), time.perf_counter()
    if threads == 1:
        texts = [contender.recognise(path) for path in clips]
    else:
        with ThreadPoolExecutor(threads) as pool:
            texts = list(pool.map(contender.recognise, clips))
    return {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "stages": dict(stages.seconds),
        "peak_mb": _peak_mb(),
        "texts": texts,
    }


def _peak_mb() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) // 1024


def main() -> None:
    kind, model, cores = sys.argv[1], Path(sys.argv[2]), [int(n) for n in sys.argv[3].split(",")]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    began = time.perf_counter()
    stages = Stages()
    contender = KINDS[kind](model, stages)
    answers.write(json.dumps({"load": time.perf_counter() - began, "peak_mb": _peak_mb()}) + "\n")
    for line in sys.stdin:
        job = json.loads(line)
        os.sched_setaffinity(0, cores[: job["cores"]])
        answer = work(contender, stages, job["clips"], job["threads"])
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
