"""On a real GPU: the same transcripts as on a processor, alone and in batches, and a whole worker.

Skipped where the installed ONNX Runtime has no CUDA. `benchmarks/gpu.py` measures; this holds.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from sensestream_common.contract.errors import ModelError
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.engine import Engine, Recogniser
from sensestream_consumer.engine.batching.queue import BatchLimits
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.consumer.engine.models import TinyModel
from tests.consumer.engine.speech import bundled_clips, read_speech
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="the installed ONNX Runtime has no CUDA",
)


@pytest.fixture(scope="module")
def float_demo(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with its float graph alone."""
    target = tmp_path_factory.mktemp("float-demo")
    for path in demo.iterdir():
        if path.is_file() and path.name != "model_quant.onnx":
            (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope="module")
def on_cpu(float_demo: Path) -> Recogniser:
    return Recogniser.load(float_demo, device="cpu")


@pytest.fixture(scope="module")
def on_gpu(float_demo: Path) -> Iterator[Recogniser]:
    limits = BatchLimits(max_wait=0.2)  # seconds: so long that clips which come together meet
    recogniser = Recogniser.load(float_demo, device="cuda", batching=limits)
    recogniser.warm_up()
    yield recogniser
    recogniser.close()


def _same(transcript: Transcript, expected: Transcript) -> bool:
    """Whether text, language and times are equal and the confidence but for a rounding."""
    pairs = [
        (transcript.text, expected.text),
        (transcript.language, expected.language),
        (transcript.events, expected.events),
        ([(s.start, s.end, s.text) for s in transcript.segments],
         [(s.start, s.end, s.text) for s in expected.segments]),
    ]  # fmt: skip
    if any(ours != theirs for ours, theirs in pairs):
        return False
    if transcript.confidence is None or expected.confidence is None:
        return transcript.confidence is expected.confidence
    return abs(transcript.confidence - expected.confidence) < 1e-3


def test_auto_takes_the_gpu(on_gpu: Recogniser, float_demo: Path) -> None:
    assert on_gpu.device == "cuda:0"
    automatic = Recogniser.load(float_demo)
    assert automatic.device == "cuda:0"
    automatic.close()


def test_every_bundled_clip_is_transcribed_as_on_a_processor(
    on_cpu: Recogniser, on_gpu: Recogniser
) -> None:
    for clip in bundled_clips():
        samples = read_speech(clip.path)
        transcript = on_gpu.recognise(samples, clip.language, clip.itn)
        assert _same(transcript, on_cpu.recognise(samples, clip.language, clip.itn)), clip


def test_batch_neighbours_change_no_transcript(on_cpu: Recogniser, on_gpu: Recogniser) -> None:
    clips = [(read_speech(c.path), c.language, c.itn) for c in bundled_clips()] * 4

    async def together() -> list[Transcript]:
        engine = Engine(on_gpu, concurrency=8)
        transcript = await asyncio.gather(*(engine.transcribe(*clip) for clip in clips))
        await engine.aclose()
        return list(transcript)

    assert on_gpu.batch_stats is not None
    before = on_gpu.batch_stats.batches
    for transcript, clip in zip(asyncio.run(together()), clips, strict=True):
        assert _same(transcript, on_cpu.recognise(*clip))
    assert on_gpu.batch_stats.batches - before < len(clips) / 2  # they did run in batches


def test_only_best_pieces_come_back_and_everything_large_stays_on_the_card(
    float_demo: Path, tmp_path: Path
) -> None:
    """No node of the graph that touches logits falls back to the processor."""
    from sensestream_consumer.engine.graph.reduction import with_best_rows

    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = onnxruntime.InferenceSession(
        with_best_rows(float_demo / "model.onnx"), options,
        providers=["CUDAExecutionProvider", "CPUExecutionProvider"],
    )  # fmt: skip
    rows = np.zeros((2, 64, 560), np.float32)
    feed = [rows, *(np.full(2, number, np.int32) for number in (64, 0, 14))]
    names = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs() if node.name.startswith("sensestream")]
    session.run(outputs, dict(zip(names, feed, strict=True)))

    nodes = [e for e in json.loads(Path(session.end_profiling()).read_text()) if e["cat"] == "Node"]
    left = {
        e["args"]["op_name"] for e in nodes if e["args"].get("provider") == "CPUExecutionProvider"
    }
    assert not left & {"ArgMax", "TopK", "MatMul", "Gemm", "Softmax", "ReduceMax", "Conv", "Exp"}


def test_a_device_that_the_machine_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cuda:99"):
        Recogniser.load(TinyModel().write(tmp_path), device="cuda:99")


def test_an_arena_too_small_for_the_model_is_refused_with_what_it_lacks(float_demo: Path) -> None:
    with pytest.raises(ModelError, match=r"(?i)memory"):
        Recogniser.load(float_demo, device="cuda", gpu_mem_limit=1024)


def test_a_whole_worker_answers_from_the_gpu(float_demo: Path, tmp_path: Path) -> None:
    clips = bundled_clips()
    with EmbeddedRedis() as redis:
        worker = WorkerProcess(
            redis.url, clips[0].path.parent, tmp_path / "worker.log",
            model=float_demo, device="cuda",
        ).wait_ready()  # fmt: skip
        try:

            async def transcribe() -> list[str]:
                async with Client(redis.url) as client:
                    waiting = [
                        client.transcribe(c.path.as_uri(), language=c.language, itn=c.itn)
                        for c in clips
                    ]
                    return [outcome.message or "" for outcome in await asyncio.gather(*waiting)]

            assert asyncio.run(transcribe()) == [""] * len(clips)
            (ready,) = [e for e in worker.events() if e["event"] == "worker_ready"]
            assert ready["device"] == "cuda:0"
        finally:
            assert worker.terminate() == 0
