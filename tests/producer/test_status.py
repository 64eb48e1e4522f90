"""Status: where a request stands, and how the pipeline does."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys
from sensestream_producer import Client, WorkerStatus

from tests.support.pipeline import answer, requests

pytestmark = pytest.mark.anyio

AUDIO = "file:///data/a.wav"


async def test_a_request_is_queued_and_then_done_with_its_outcome(
    client: Client, redis: Redis, keys: Keys
) -> None:
    receipt = await client.submit(AUDIO, id="x")
    queued = await client.status("x")
    assert queued is not None
    assert (queued.state, queued.entry, queued.outcome) == ("queued", receipt.entry, None)
    [(entry, request)] = await requests(redis, keys)
    await answer(redis, keys, entry, request)
    done = await client.status("x")
    assert done is not None
    assert done.outcome is not None
    assert (done.state, done.status, done.outcome.text) == ("done", "completed", "hello")


async def test_an_unknown_id_has_no_status(client: Client) -> None:
    assert await client.status("never") is None


async def test_the_pipeline_tells_backlog_workers_and_counters(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await client.submit_many([AUDIO] * 3)
    await client.submit(AUDIO, priority="high")
    await redis.xgroup_create(keys.requests, REQUESTS_GROUP, id="0")
    await redis.xreadgroup(REQUESTS_GROUP, "host-1", {keys.requests: ">"}, count=2)
    about: Any = {"host": "host", "pid": 7, "model": "demo", "in_flight": 2, "since": 5}
    await redis.hset(keys.worker("host-1"), mapping=about)
    status = await client.pipeline_status()
    assert (status.backlog, status.backlog_high, status.pending, status.dead) == (3, 1, 2, 0)
    assert status.counters == {"submitted": 4}
    assert status.oldest_ms is not None
    assert 0 <= status.oldest_ms < 60_000
    assert status.workers == (
        WorkerStatus(consumer="host-1", host="host", pid=7, model="demo", in_flight=2, since=5),
    )


async def test_an_empty_pipeline_has_a_status_too(client: Client) -> None:
    status = await client.pipeline_status()
    assert (status.backlog, status.pending, status.oldest_ms, status.workers) == (0, 0, None, ())
