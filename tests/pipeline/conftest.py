"""A pipeline as its users meet it: plain XADD in, entries of the transcripts stream out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys

from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

KEYS = Keys("sensestream")
StartWorker = Callable[..., WorkerProcess]


class Pipeline:
    """What an upstream service in any language can do, and see."""

    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis  # redis-py's types are unions of everything it may ever answer
        self.keys = KEYS

    def submit(self, audio: str, *, high: bool = False, **fields: Any) -> str:
        """XADD a request; its entry id."""
        lane = KEYS.requests_high if high else KEYS.requests
        entry = self.redis.xadd(lane, {"audio": audio, **fields})
        return str(entry.decode())

    def outcomes(self) -> list[dict[str, str]]:
        rows = self.redis.xrange(KEYS.transcripts)
        return [{k.decode(): v.decode() for k, v in fields.items()} for _, fields in rows]

    def wait_for(self, count: int, timeout: float = 40) -> list[dict[str, str]]:
        """The outcomes, once there are `count` and no request is left."""

        def done() -> bool:
            return len(self.outcomes()) >= count and self.backlog() == 0

        wait_until_sync(done, timeout=timeout, what=f"{count} outcomes")
        return self.outcomes()

    def wait_until_answered(self, entry: str) -> None:
        wait_until_sync(
            lambda: any(outcome["entry"] == entry for outcome in self.outcomes()),
            what=f"the outcome of {entry}",
        )

    def backlog(self) -> int:
        return int(self.redis.xlen(KEYS.requests)) + int(self.redis.xlen(KEYS.requests_high))

    def stats(self) -> dict[str, int]:
        return {k.decode(): int(v) for k, v in self.redis.hgetall(KEYS.stats).items()}

    def pending(self) -> list[dict[str, Any]]:
        return [
            row
            for lane in (KEYS.requests_high, KEYS.requests)
            for row in self.redis.xpending_range(lane, "workers", "-", "+", 1000)
        ]


def exactly_once(pipeline: Pipeline, entries: list[str]) -> bool:
    """Whether each entry has one outcome, and there is no other."""
    return Counter(o["entry"] for o in pipeline.outcomes()) == Counter(entries)


def ended(worker: WorkerProcess) -> bool:
    return worker.process.poll() is not None


def ended_or_answered(worker: WorkerProcess, pipeline: Pipeline, count: int) -> bool:
    return ended(worker) or len(pipeline.outcomes()) == count


def started(pipeline: Pipeline) -> list[str]:
    return [r["message_id"].decode() for r in pipeline.pending() if r["times_delivered"] > 1]


@pytest.fixture
def pipeline(redis_url: str) -> Iterator[Pipeline]:
    with Redis.from_url(redis_url) as redis:
        yield Pipeline(redis)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    folder.mkdir()
    return folder


@pytest.fixture
def start_worker(tmp_path: Path, clips: Path, redis_url: str) -> Iterator[StartWorker]:
    """A factory of worker processes, which end with the test."""
    workers: list[WorkerProcess] = []

    def start(*, url: str = redis_url, ready: bool = True, **options: Any) -> WorkerProcess:
        logs = tmp_path / f"worker-{len(workers)}.log"
        worker = WorkerProcess(url, clips, logs, **options)
        workers.append(worker)
        return worker.wait_ready() if ready else worker

    yield start
    for worker in workers:
        if worker.process.poll() is None:
            worker.kill()
