"""Redis that restarts, is emptied, is full, or holds what does not belong there."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import OutOfMemoryError
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import encoded, tone, write_clip
from tests.support.waiting import wait_until_sync

OwnRedis = Callable[..., EmbeddedRedis]


def test_flushall_under_a_running_worker_ends_nothing(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    worker = start_worker(gate=gate, concurrency=1, reclaim_after=1)
    lost = [pipeline.submit(write_clip(clips, n)) for n in range(6)]
    wait_until_sync(lambda: any(row["times_delivered"] > 1 for row in pipeline.pending()))
    pipeline.redis.flushall()
    gate.unlink()
    entries = [pipeline.submit(write_clip(clips, 100 + n)) for n in range(6)]
    outcomes = pipeline.wait_for(6)
    assert Counter(o["entry"] for o in outcomes) == Counter(entries)
    assert not {o["entry"] for o in outcomes} & set(lost)
    assert worker.process.poll() is None
    wait_until_sync(lambda: worker.logged("group_created"))


def test_a_deleted_request_stream_is_made_again(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    start_worker()
    pipeline.redis.delete(KEYS.requests, KEYS.requests_high)
    entry = pipeline.submit(write_clip(clips, 1))
    assert pipeline.wait_for(1)[0]["entry"] == entry


def test_a_worker_outlives_a_restart_of_redis(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path
) -> None:
    server = own_redis(appendonly=True, appendfsync="always")
    worker = start_worker(url=server.url, reclaim_after=1)
    with Redis.from_url(server.url) as redis:
        before = Pipeline(redis).submit(write_clip(clips, 1))
        Pipeline(redis).wait_for(1)
    server.kill()
    wait_until_sync(lambda: worker.logged("redis_away") or worker.logged("heartbeat_failed"))
    server.restart()
    with Redis.from_url(server.url) as redis:
        pipeline = Pipeline(redis)
        after = [pipeline.submit(write_clip(clips, n)) for n in range(1, 5)]
        outcomes = pipeline.wait_for(5)
    assert Counter(o["entry"] for o in outcomes) == Counter([before, *after])
    assert outcomes[1]["cache"] == "hit"
    assert worker.process.poll() is None


def test_a_worker_started_before_its_redis_waits_for_it(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path
) -> None:
    server = own_redis()
    server.kill()
    worker = start_worker(url=server.url, ready=False)
    wait_until_sync(lambda: worker.logged("redis_retrying"), timeout=30)
    server.restart()
    worker.wait_ready()
    with Redis.from_url(server.url) as redis:
        entry = Pipeline(redis).submit(write_clip(clips, 1))
        assert Pipeline(redis).wait_for(1)[0]["entry"] == entry


def test_a_full_redis_drains(own_redis: OwnRedis, start_worker: StartWorker, clips: Path) -> None:
    server = own_redis(maxmemory_policy="noeviction")
    with Redis.from_url(server.url) as redis:
        pipeline = Pipeline(redis)
        start_worker(url=server.url, reclaim_after=2)
        pipeline.submit(write_clip(clips, 0))
        pipeline.wait_for(1)
        pipe = redis.pipeline(transaction=True)
        for n in range(6):
            pipe.xadd(KEYS.requests, {"audio": write_clip(clips, n), "id": f"r{n}"})
        pipe.config_set("maxmemory", 1)
        entries = [entry.decode() for entry in pipe.execute()[:6]]
        with pytest.raises(OutOfMemoryError):
            redis.xadd(KEYS.requests, {"audio": "file:///a"})
        outcomes = pipeline.wait_for(7)
        assert Counter(o["entry"] for o in outcomes[1:]) == Counter(entries)
        assert all(o["status"] == "completed" for o in outcomes)
        redis.config_set("maxmemory", 0)
        last = pipeline.submit(write_clip(clips, 1))
        assert pipeline.wait_for(8)[7]["entry"] == last


@pytest.mark.parametrize("key", [KEYS.transcripts, KEYS.dead])
def test_an_outcome_that_cannot_be_written_keeps_its_request(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, key: str
) -> None:
    pipeline.redis.set(key, "not a stream")
    worker = start_worker(reclaim_after=2)
    entry = pipeline.submit(clips.joinpath("none.wav").as_uri())
    wait_until_sync(lambda: worker.logged("redis_retrying"))
    assert pipeline.redis.xlen(KEYS.requests) == 1
    wait_until_sync(lambda: any(key in str(e.get("error")) for e in worker.events()))
    pipeline.redis.delete(key)
    [outcome] = pipeline.wait_for(1)
    assert outcome["entry"] == entry
    assert outcome["error"] == "audio_not_found"


def test_a_request_key_of_the_wrong_type_is_reported_and_stops_nothing(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker()
    pipeline.redis.set(KEYS.request("r1"), "not a hash")
    pipeline.redis.set(KEYS.stats, "not a hash")
    entry = pipeline.submit(write_clip(clips, 1), id="r1")
    [outcome] = pipeline.wait_for(1)
    assert outcome["entry"] == entry
    wait_until_sync(lambda: worker.logged("commit_incomplete"))


def test_a_requests_key_of_the_wrong_type_is_named_in_the_log(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker()
    pipeline.redis.delete(KEYS.requests)
    pipeline.redis.set(KEYS.requests, "not a stream")
    wait_until_sync(lambda: worker.logged("requests_key_is_no_stream"))
    pipeline.redis.delete(KEYS.requests)
    entry = pipeline.submit(write_clip(clips, 1))
    assert pipeline.wait_for(1)[0]["entry"] == entry


def test_an_entry_deleted_by_hand_while_it_is_held_is_not_claimed_forever(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    victim = start_worker(gate=gate, concurrency=1, reclaim_after=1)
    entry = pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: victim.holds(pipeline.redis, KEYS.requests))
    victim.kill()
    gate.unlink()
    pipeline.redis.xdel(KEYS.requests, entry)
    start_worker(reclaim_after=1)
    wait_until_sync(lambda: pipeline.pending() == [])
    assert pipeline.stats()["vanished"] == 1
    assert pipeline.outcomes() == []


def test_a_wrong_password_is_told_in_a_sentence(
    own_redis: OwnRedis, start_worker: StartWorker
) -> None:
    host = own_redis(tcp=True).url.rpartition("@")[2]
    worker = start_worker(url=f"redis://:wrong-secret@{host}", ready=False)
    assert worker.process.wait(20) == 1
    message = worker.log_file.read_text()
    assert "SENSESTREAM_REDIS_URL" in message
    assert "Traceback" not in message
    assert "wrong-secret" not in message


def more_outcomes(pipeline: Pipeline, seen: int) -> bool:
    return len(pipeline.outcomes()) > min(seen, 15)


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
