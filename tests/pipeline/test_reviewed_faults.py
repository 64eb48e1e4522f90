"""Faults that once made a request wait for ever, fail for nothing, or be charged for another."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from sensestream_consumer.audio import audio_identity
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.pipeline.test_crashes import ended_or_answered, exactly_once, started
from tests.support.clips import encoded, tone, write_clip
from tests.support.waiting import wait_until_sync

OwnRedis = Callable[..., EmbeddedRedis]


def more_outcomes(pipeline: Pipeline, seen: int) -> bool:
    return len(pipeline.outcomes()) > min(seen, 15)


def test_a_cached_transcript_that_cannot_be_sent_harms_no_neighbour(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker(reclaim_after=1)
    files = [write_clip(clips, n) for n in range(4)]
    pipeline.submit(files[0])
    pipeline.wait_for(1)
    [result] = pipeline.redis.keys("*:result:*")
    broken = json.loads(pipeline.redis.hget(result, "transcript"))
    broken["text"] = "\ud800"
    pipeline.redis.hset(result, "transcript", json.dumps(broken))
    entries = [pipeline.submit(files[n % 4]) for n in range(20)]
    outcomes = pipeline.wait_for(21)
    assert {o["entry"] for o in outcomes[1:]} == set(entries)
    assert {o["status"] for o in outcomes} == {"completed"}
    assert worker.process.poll() is None


def test_a_folder_whose_name_is_no_utf_8_can_be_spoken_of(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    odd = Path(str(clips) + "/\udcff")
    odd.mkdir()
    start_worker(audio_roots=odd)
    pipeline.submit("file:///etc/hostname")
    assert pipeline.wait_for(1)[0]["error"] == "audio_forbidden"


def test_a_connection_cut_while_uploads_are_read_fails_none_of_them(
    pipeline: Pipeline, start_worker: StartWorker
) -> None:
    start_worker()
    for n in range(16):
        pipeline.redis.set(KEYS.upload(f"u{n}"), encoded(tone(n, 20.0)))
    for n in range(16):
        pipeline.submit(f"redis:{KEYS.upload(f'u{n}')}", id=f"u{n}")
    while len(pipeline.outcomes()) < 16:
        pipeline.redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        wait_until_sync(partial(more_outcomes, pipeline, len(pipeline.outcomes())), timeout=30)
    assert {o["status"] for o in pipeline.wait_for(16)} == {"completed"}


def test_a_full_redis_is_drained_by_workers_that_start_then(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path
) -> None:
    server = own_redis(maxmemory_policy="noeviction")
    with Redis.from_url(server.url) as redis:
        pipeline = Pipeline(redis)
        start_worker(url=server.url).terminate()
        entry = pipeline.submit(write_clip(clips, 1))
        redis.config_set("maxmemory", 1)
        start_worker(url=server.url)
        assert pipeline.wait_for(1)[0]["entry"] == entry


def test_a_drain_takes_back_no_crash_that_another_worker_had(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    victim = start_worker(gate=gate, concurrency=1, reclaim_after=1)
    entry = pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: started(pipeline) == [entry])
    holder = start_worker(gate=gate, concurrency=1, reclaim_after=1, drain_timeout=0.5)
    pipeline.submit(write_clip(clips, 2), high=True)
    wait_until_sync(lambda: len(started(pipeline)) == 2)
    victim.kill()
    # The holder is busy, so the suspect waits in its hands to be alone.
    wait_until_sync(lambda: holder.holds(pipeline.redis, KEYS.requests) == 1)
    holder.terminate()
    [row] = pipeline.redis.xpending_range(KEYS.requests, "workers", "-", "+", 10)
    assert row["consumer"] == b"handed-back"
    assert row["times_delivered"] == 2


def test_what_is_not_started_is_handed_back_before_the_drain_has_ended(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    leaving = start_worker(gate=gate, concurrency=1, read_ahead=8)
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(6)]
    wait_until_sync(lambda: started(pipeline) and len(pipeline.pending()) == 6)
    leaving.signal(signal.SIGTERM)
    wait_until_sync(lambda: leaving.logged("draining"))
    wait_until_sync(lambda: leaving.holds(pipeline.redis, KEYS.requests) == len(started(pipeline)))
    assert len(started(pipeline)) < 6
    assert leaving.process.poll() is None
    gate.unlink()
    assert leaving.process.wait(20) == 0
    start_worker()
    pipeline.wait_for(6)
    assert exactly_once(pipeline, entries)


def test_a_worker_that_waits_for_its_redis_ends_when_it_is_told_to(
    own_redis: OwnRedis, start_worker: StartWorker
) -> None:
    server = own_redis()
    server.kill()
    worker = start_worker(url=server.url, ready=False)
    wait_until_sync(lambda: worker.logged("redis_retrying"), timeout=30)
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(10) == 0


def test_a_requests_key_of_the_wrong_type_at_start_is_told_in_a_sentence(
    pipeline: Pipeline, start_worker: StartWorker
) -> None:
    pipeline.redis.set(KEYS.requests, "not a stream")
    worker = start_worker(ready=False)
    assert worker.process.wait(20) == 1
    assert KEYS.requests in worker.log_file.read_text()
    assert "Traceback" not in worker.log_file.read_text()


@pytest.mark.anyio
async def test_a_condemned_recording_is_tried_again_when_its_letter_is_replayed(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    poison = audio_identity(tone(1))
    pipeline.submit(write_clip(clips, 1), id="bad")
    victim = start_worker(poison=(poison,), reclaim_after=0.5)
    wait_until_sync(partial(ended_or_answered, victim, pipeline, 1))
    while not pipeline.outcomes():
        victim = start_worker(poison=(poison,), reclaim_after=0.5)
        wait_until_sync(partial(ended_or_answered, victim, pipeline, 1))
    assert pipeline.outcomes()[0]["error"] == "attempts_exhausted"
    victim.terminate()
    mended = start_worker()
    async with Client(mended.redis_url) as client:
        letters = [letter async for letter in client.dead.select()]
        assert (await client.dead.replay(letters[0])).result == "queued"
        assert (await client.wait("bad", timeout=20)).completed


def test_a_follower_does_not_wait_past_its_own_deadline(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    start_worker(gate=gate, concurrency=1)
    audio = write_clip(clips, 1)
    pipeline.submit(audio)
    wait_until_sync(lambda: started(pipeline))
    late = pipeline.submit(audio, deadline=str(int(time.time() * 1000) + 700))
    [outcome] = wait_until_sync(pipeline.outcomes)
    assert outcome["entry"] == late
    assert outcome["error"] == "expired"
    gate.unlink()
    assert Counter(o["status"] for o in pipeline.wait_for(2)) == {"completed": 1, "failed": 1}
