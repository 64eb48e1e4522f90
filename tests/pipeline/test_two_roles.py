"""One Redis, two roles: what memory pressure takes from the cache, and never from the queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sensestream_producer.blocking import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import encoded, tone, write_clip

pytestmark = pytest.mark.long

OwnRedis = Callable[..., EmbeddedRedis]
UPLOADS = [f"upload-{n}" for n in range(12)]


class Pressure:
    """Results of other recordings, as large as those of ten seconds of speech."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._number = count()
        self.written = 0

    def push(self, results: int) -> None:
        # A hundred at a time: what is under way takes memory too, and room for it would be made.
        for _ in range(results // 100):
            pipe = self._redis.pipeline(transaction=False)
            for _ in range(100):
                key = KEYS.result(f"{next(self._number):064x}")
                pipe.hset(key, mapping={"transcript": b"x" * 2000})
                pipe.pexpire(key, 604_800_000)
            pipe.execute()
            self.written += 100

    def left(self) -> int:
        return sum(1 for _ in self._redis.scan_iter(match=KEYS.result("*"), count=5000))


@contextmanager
def going_on(pressure: Pressure) -> Iterator[None]:
    """The same in a thread, for as long as this lasts."""
    stop = threading.Event()

    def push() -> None:
        while not stop.is_set():
            pressure.push(100)
            stop.wait(0.02)  # or redis-server would have no time for the worker

    thread = threading.Thread(target=push, name="pressure")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_memory_pressure_takes_results_and_neither_uploads_nor_ids_nor_requests(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path
) -> None:
    server = own_redis(appendonly=True, maxmemory_policy="volatile-lfu")
    with server.client() as redis, Client(server.url) as client:
        pipeline = Pipeline(redis)
        pressure = Pressure(redis)
        redis.config_set("maxmemory", pipeline.redis.info("memory")["used_memory"] + 3 * 2**20)
        pressure.push(2000)
        for n, name in enumerate(UPLOADS):
            client.submit_file(encoded(tone(n)), id=name)
        plain = [pipeline.submit(write_clip(clips, 100 + n), high=n % 2 == 0) for n in range(12)]
        pressure.push(2000)
        assert pipeline.redis.info("stats")["evicted_keys"] > 0

        # Everything queued is there, and known by its id: to submit it again adds nothing.
        assert pipeline.backlog() == len(UPLOADS) + len(plain)
        assert redis.exists(*map(KEYS.upload, UPLOADS)) == len(UPLOADS)
        again = [client.submit_file(encoded(tone(n)), id=name) for n, name in enumerate(UPLOADS)]
        assert all(receipt.duplicate for receipt in again)

        with going_on(pressure):
            start_worker(url=server.url)
            outcomes = pipeline.wait_for(len(UPLOADS) + len(plain))
        assert [o["message"] for o in outcomes if o["status"] != "completed"] == []
        assert sorted(o["id"] for o in outcomes) == sorted([*UPLOADS, *plain])
        assert pressure.left() < pressure.written / 2
