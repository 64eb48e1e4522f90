"""The session that `sensestream demo` runs: the bundled clips through a pipeline, twice."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.outcome import CacheUse, Outcome

from sensestream_producer.client import Client
from sensestream_producer.local.redis_server import EmbeddedRedis
from sensestream_producer.local.worker_process import WorkerMissing, WorkerProcess

__all__ = ["Clip", "Shown", "bundled_clips", "pipeline", "play", "wait_for_worker"]

_WORKER_TIMEOUT = 120.0  # seconds until it reads; loading the model is most of it
_CLIP_TIMEOUT = 60.0
_POLL = 0.05


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording that comes with the consumer, and the words spoken in it."""

    path: Path
    language: str
    itn: bool
    text: str


@dataclass(frozen=True, slots=True)
class Shown:
    """One clip's outcome; `latency` is the submitter's, in milliseconds."""

    clip: Clip
    again: bool
    outcome: Outcome
    latency: float

    @property
    def right(self) -> bool:
        """Whether it has the right words, and was a cache hit the second time."""
        correct = self.outcome.completed and self.outcome.text.strip() == self.clip.text.strip()
        return correct and (not self.again or self.outcome.cache is CacheUse.HIT)


def bundled_clips() -> list[Clip]:
    """The consumer's clips, found without importing it; raises `WorkerMissing` without them."""
    spec = importlib.util.find_spec("sensestream_consumer")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        index = Path(folder) / "clips" / "clips.json"
        if index.exists():
            return [
                Clip(index.parent / clip["file"], clip["language"], clip["itn"], clip["text"])
                for clip in json.loads(index.read_text("utf-8"))
            ]
    raise WorkerMissing(
        "the demo's clips are not installed: they come with the consumer, from a checkout with "
        "pip install -e ./common -e ./producer -e './consumer[cpu]'"
    )


@asynccontextmanager
async def pipeline(clips: list[Clip]) -> AsyncGenerator[tuple[EmbeddedRedis, WorkerProcess]]:
    """A Redis and a worker of its own; both end with the block."""
    roots = ":".join(sorted({str(clip.path.parent) for clip in clips}))
    with EmbeddedRedis() as redis:
        arguments = ["--redis-url", redis.url, "--pipeline", "sensestream"]
        arguments += ["--model", "demo", "--audio-roots", roots]
        with WorkerProcess(arguments, redis.directory / "worker.log") as worker:
            yield redis, worker


async def wait_for_worker(client: Client, worker: WorkerProcess) -> None:
    """Return when the worker reads; `SensestreamError` with its last log lines if it never does."""
    deadline = time.monotonic() + _WORKER_TIMEOUT
    while not (await client.pipeline_status()).workers:
        worker.check()
        if time.monotonic() > deadline:
            raise SensestreamError(
                f"the worker was not ready within {_WORKER_TIMEOUT:.0f} s; the end of its log:\n"
                f"{worker.log_tail()}"
            )
        await asyncio.sleep(_POLL)


async def play(
    client: Client, worker: WorkerProcess, clips: list[Clip], *, again: bool
) -> AsyncGenerator[Shown]:
    """Transcribe each clip in turn, submitted by reference."""
    for clip in clips:
        start = time.perf_counter()
        outcome = await _transcribe(client, worker, clip)
        yield Shown(clip, again, outcome, (time.perf_counter() - start) * 1000)


async def _transcribe(client: Client, worker: WorkerProcess, clip: Clip) -> Outcome:
    """The clip's outcome, or an error as soon as the worker is dead."""
    waiting = asyncio.create_task(
        client.transcribe(
            clip.path.as_uri(), language=clip.language, itn=clip.itn, timeout=_CLIP_TIMEOUT
        ),
        name="sensestream-demo-clip",
    )
    try:
        while not (await asyncio.wait([waiting], timeout=1.0))[0]:
            worker.check()
        return waiting.result()
    finally:
        waiting.cancel()
