"""What is tried again, what is not, and who is charged for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis
from sensestream_consumer.audio import audio_identity
from sensestream_consumer.engine.session import lacks_memory
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker, exactly_once
from tests.support.clips import tone, write_clip
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.long

OwnRedis = Callable[..., EmbeddedRedis]
# As ONNX Runtime words it.
NO_MEMORY = (
    "Non-zero status code returned while running MatMul node. bfc_arena.cc:376 Failed to allocate "
    "memory for requested buffer of size 8589934592"
)


def test_a_device_that_is_full_for_a_moment_fails_no_request(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker(fault=f"2 {NO_MEMORY}", concurrency=1)
    entry = pipeline.submit(write_clip(clips, 1))
    [outcome] = pipeline.wait_for(1)
    assert (outcome["entry"], outcome["status"], outcome["attempt"]) == (entry, "completed", "1")
    retries = [event for event in worker.events() if event["event"] == "engine_retries"]
    assert [(event["tries"], event["entry"]) for event in retries] == [(1, entry), (2, entry)]


def test_a_model_that_fails_on_a_recording_fails_its_request_at_once_and_keeps_it(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker(fault="1 Invalid argument: axis out of range", concurrency=1)
    entry = pipeline.submit(write_clip(clips, 1), id="call-1", unknown="kept")
    [outcome] = pipeline.wait_for(1)
    assert (outcome["entry"], outcome["error"], outcome["attempt"]) == (entry, "internal", "1")
    assert not worker.logged("engine_retries")
    [(_, letter)] = pipeline.redis.xrange(KEYS.dead)
    assert letter[b"unknown"] == b"kept"
    assert letter[b"dead:message"].decode() == outcome["message"]
    assert (letter[b"dead:attempt"], letter[b"dead:worker"]) == (b"1", worker.consumer.encode())


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError(NO_MEMORY),
        RuntimeError("CUDA failure 2: out of memory ; GPU=0"),
        RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_a_lack_of_memory_is_recognised_by_its_message(error: Exception) -> None:
    assert lacks_memory(error)
    assert not lacks_memory(RuntimeError("Got invalid dimensions for input: speech"))


def test_an_outcome_finished_while_redis_was_away_is_published_once_afterwards(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    server = own_redis(appendonly=True, appendfsync="always")
    worker = start_worker(url=server.url, gate=gate, concurrency=1, reclaim_after=2)
    with Redis.from_url(server.url) as redis:
        entries = [Pipeline(redis).submit(write_clip(clips, n)) for n in range(3)]
        wait_until_sync(gate.with_suffix(".reached").exists, what="a recording in the engine")
    server.kill()
    gate.unlink()
    wait_until_sync(lambda: any(event.get("operation") == "commit" for event in worker.events()))
    server.restart()
    with Redis.from_url(server.url) as redis:
        outcomes = Pipeline(redis).wait_for(3)
        assert exactly_once(Pipeline(redis), entries)
        assert {o["status"] for o in outcomes} == {"completed"}
        assert Pipeline(redis).stats()["completed"] == 3


def test_a_recording_that_kills_ten_workers_condemns_itself_and_no_neighbour(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    bad = pipeline.submit(write_clip(clips, 666), id="poison")
    good = [pipeline.submit(write_clip(clips, n)) for n in range(6)]
    workers = start_worker(
        poison=(audio_identity(tone(666)),), lives=11,
        max_attempts=10, concurrency=2, reclaim_after=0.5,
    )  # fmt: skip

    def begun() -> int:
        return sum(event["event"] == "worker_ready" for event in workers.events())

    wait_until_sync(lambda: begun() > 5, timeout=60)
    later = [pipeline.submit(write_clip(clips, 100 + n)) for n in range(6)]
    outcomes = {o["entry"]: o for o in pipeline.wait_for(13, timeout=60)}
    assert begun() == 11
    assert exactly_once(pipeline, [bad, *good, *later])
    assert outcomes[bad]["error"] == "attempts_exhausted"
    [(_, letter)] = pipeline.redis.xrange(KEYS.dead)
    assert (letter[b"id"], letter[b"dead:attempt"]) == (b"poison", b"10")
    assert {outcomes[entry]["status"] for entry in [*good, *later]} == {"completed"}
    # Who stood at the engine when it first fell had been started, and is once more; nobody else.
    assert {outcomes[entry]["attempt"] for entry in good} <= {"1", "2"}
    assert {outcomes[entry]["attempt"] for entry in later} == {"1"}
