"""Slow, stalled or crowded, the pipeline waits: it takes no more than it has room for."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis
from sensestream_common.contract.keys import HANDED_BACK
from sensestream_producer.local.redis_server import EmbeddedRedis

from chaos.proxy import Proxy
from tests.pipeline.conftest import KEYS, Pipeline, StartWorker, exactly_once, started
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.long

OwnRedis = Callable[..., EmbeddedRedis]
AT_REST = 50  # looks at the stream, ten milliseconds apart, that show the same


def pending_at_rest(pipeline: Pipeline) -> Counter[str]:
    """How many entries each consumer holds, once nobody takes or gives back any more."""
    seen: list[Counter[str]] = []

    def resting() -> bool:
        seen.append(Counter(row["consumer"].decode() for row in pipeline.pending()))
        return len(seen) > AT_REST and all(held == seen[-1] for held in seen[-AT_REST:])

    wait_until_sync(resting, what="a pending list that rests")
    return seen[-1]


def test_a_worker_with_a_busy_engine_reads_no_more_than_its_read_ahead(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(60)]
    worker = start_worker(gate=gate, concurrency=1, read_ahead=10)
    wait_until_sync(lambda: started(pipeline))
    held = pending_at_rest(pipeline)
    # Four misses for its one slot; the rest of its look-ahead lies where others find it.
    assert held[worker.consumer] == 4
    assert held.total() <= 2 * 10
    gate.unlink()
    most = 0
    while len(pipeline.outcomes()) < 60:
        most = max(most, worker.holds(pipeline.redis, KEYS.requests))
    assert most <= 10
    pipeline.wait_for(60)
    assert exactly_once(pipeline, entries)


def test_a_burst_of_new_recordings_keeps_the_engine_busy(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    start_worker(concurrency=1)
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(240)]
    # Two seconds or so. A worker that sits in a blocking read while its places come free works
    # off four a second.
    wait_until_sync(lambda: len(pipeline.outcomes()) == 240, timeout=30)
    assert exactly_once(pipeline, entries)


def test_cache_hits_in_a_batch_of_files_are_answered_before_misses(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    start_worker(gate=gate, concurrency=1)
    known = [write_clip(clips, n) for n in range(20)]
    for each in known:
        pipeline.submit(each)
    pipeline.wait_for(20)
    gate.touch()
    new = [pipeline.submit(write_clip(clips, 100 + n)) for n in range(20)]
    again = [pipeline.submit(each) for each in known]
    wait_until_sync(lambda: len(pipeline.outcomes()) == 40)
    gate.unlink()
    answered = [o["entry"] for o in pipeline.wait_for(60)]
    assert set(answered[20:40]) == set(again)
    assert set(answered[40:]) == set(new)


def test_followers_of_a_hot_clip_leave_room_for_hits(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    start_worker(gate=gate, concurrency=1, read_ahead=8)
    known, hot = write_clip(clips, 1), write_clip(clips, 2)
    pipeline.submit(known)
    pipeline.wait_for(1)
    gate.touch()
    crowd = [pipeline.submit(hot) for _ in range(30)]
    wait_until_sync(lambda: started(pipeline))
    pending_at_rest(pipeline)
    hit = pipeline.submit(known)
    pipeline.wait_until_answered(hit)
    assert len(pipeline.outcomes()) == 2
    gate.unlink()
    uses = Counter(o["cache"] for o in pipeline.wait_for(32))
    assert uses["miss"] == 2
    assert set(crowd) <= {o["entry"] for o in pipeline.outcomes()}


@contextmanager
def before(server: EmbeddedRedis) -> Iterator[tuple[Proxy, str]]:
    """A proxy before a Redis, and the URL that leads through it."""
    port = int(server.url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        yield proxy, server.url.replace(f":{port}", f":{proxy.port}")


def give(pipeline: Pipeline, consumer: str, audio: str, idle: int) -> str:
    """A request that `consumer` has held without renewing it for `idle` milliseconds; its entry."""
    pipe = pipeline.redis.pipeline(transaction=True)
    pipe.xadd(KEYS.requests, {"audio": audio})
    pipe.xreadgroup("workers", consumer, {KEYS.requests: ">"}, count=1)
    entry = pipe.execute()[0].decode()
    pipeline.redis.xclaim(KEYS.requests, "workers", consumer, 0, [entry], idle=idle, justid=True)
    return str(entry)


def test_a_worker_on_a_slow_connection_keeps_what_it_holds(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    server = own_redis(tcp=True)
    with before(server) as (proxy, slow_url), Redis.from_url(server.url) as redis:
        pipeline = Pipeline(redis)
        far = start_worker(url=slow_url, gate=gate, concurrency=1, reclaim_after=3)
        entries = [pipeline.submit(write_clip(clips, n)) for n in range(3)]
        wait_until_sync(lambda: far.holds(redis, KEYS.requests) == 3)
        proxy.delay(0.3)  # more than half a second for every round trip
        near = start_worker(url=server.url, concurrency=1, reclaim_after=3)
        # It takes over what a silent consumer read later, and so would what is not renewed.
        silent = give(pipeline, "silent", write_clip(clips, 3), 0)
        pipeline.wait_until_answered(silent)
        assert near.logged("entries_reclaimed")
        assert far.holds(redis, KEYS.requests) == 3
        gate.unlink()
        outcomes = pipeline.wait_for(4)
        assert exactly_once(pipeline, [*entries, silent])
        assert {o["attempt"] for o in outcomes} == {"1"}


def test_a_disk_stall_longer_than_the_reclaim_time_costs_no_worker_its_entries(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    server = own_redis(tcp=True, appendonly=True, appendfsync="always")
    with before(server) as (proxy, far_url), Redis.from_url(server.url) as redis:
        pipeline = Pipeline(redis)
        far = start_worker(url=far_url, gate=gate, concurrency=1, reclaim_after=3)
        entries = [pipeline.submit(write_clip(clips, n)) for n in range(3)]
        wait_until_sync(lambda: far.holds(redis, KEYS.requests) == 3)
        near = start_worker(url=server.url, concurrency=1, reclaim_after=3)
        os.kill(server.pid, signal.SIGSTOP)
        # A beat waits a second for its answer: all that is held is idle for longer than that.
        wait_until_sync(lambda: all(each.logged("heartbeat_failed") for each in (near, far)))
        proxy.refuse(True)
        proxy.cut()
        os.kill(server.pid, signal.SIGCONT)
        # The first to be back looks for work to take over, and finds what anybody may take.
        wait_until_sync(lambda: near.logged("reclaim_postponed"))
        free = give(pipeline, HANDED_BACK, write_clip(clips, 3), 10**9)
        pipeline.wait_until_answered(free)
        assert far.holds(redis, KEYS.requests) == 3
        proxy.refuse(False)
        wait_until_sync(lambda: far.logged("reclaim_postponed"))
        gate.unlink()
        outcomes = {o["entry"]: o for o in pipeline.wait_for(4)}
        assert exactly_once(pipeline, [*entries, free])
    assert {outcomes[entry]["worker"] for entry in entries} == {far.consumer}
    assert not near.logged("entries_reclaimed")
