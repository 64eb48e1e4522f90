"""Waiting for outcomes: many at once, across outages, and never for an outcome already there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from redis.asyncio import Redis
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import ErrorCode, SensestreamError, WaitTimeout
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome, Status
from sensestream_producer import Client
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.pipeline import answer, answering, requests, write_outcome
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

AUDIO = "file:///data/a.wav"


async def waiting_requests(redis: Redis, keys: Keys, count: int) -> None:
    async def there() -> bool:
        return int(await redis.xlen(keys.requests)) == count

    await wait_until(there, what=f"{count} requests")


async def test_transcribe_gives_the_outcome(client: Client, redis: Redis, keys: Keys) -> None:
    async with answering(redis, keys, text="good morning"):
        outcome = await client.transcribe(AUDIO, id="x", timeout=20)
    assert (outcome.id, outcome.status, outcome.text) == ("x", Status.COMPLETED, "good morning")


async def test_transcribe_returns_a_failed_outcome(
    client: Client, redis: Redis, keys: Keys
) -> None:
    waiting = asyncio.create_task(client.transcribe(AUDIO, timeout=20))
    await waiting_requests(redis, keys, 1)
    [(entry, request)] = await requests(redis, keys)
    await answer(redis, keys, entry, request, error=ErrorCode.AUDIO_NOT_FOUND)
    assert (await waiting).error is ErrorCode.AUDIO_NOT_FOUND


async def test_an_outcome_written_before_the_wait_is_found(
    client: Client, redis: Redis, keys: Keys
) -> None:
    receipt = await client.submit(AUDIO)
    [(entry, request)] = await requests(redis, keys)
    await answer(redis, keys, entry, request)
    assert (await client.wait(receipt.id, timeout=2)).entry == receipt.entry


async def test_transcribing_a_completed_id_gives_the_outcome_it_had(
    client: Client, redis: Redis, keys: Keys
) -> None:
    async with answering(redis, keys):
        first = await client.transcribe(AUDIO, id="x", timeout=20)
    assert await client.transcribe(AUDIO, id="x", timeout=2) == first


async def test_a_wait_for_a_trimmed_outcome_raises_wait_timeout(
    client: Client, redis: Redis, keys: Keys
) -> None:
    async with answering(redis, keys):
        await client.transcribe(AUDIO, id="x", timeout=20)
    await redis.xtrim(keys.transcripts, maxlen=0)
    with pytest.raises(WaitTimeout, match="no longer kept"):
        await client.transcribe(AUDIO, id="x", timeout=20)
    with pytest.raises(WaitTimeout, match="not kept"):
        await client.wait("x", timeout=20)


async def test_the_outcome_of_an_earlier_request_with_the_id_is_ignored(
    client: Client, redis: Redis, keys: Keys
) -> None:
    waiting = asyncio.create_task(client.transcribe(AUDIO, id="x", timeout=20))
    await waiting_requests(redis, keys, 1)
    stale = Outcome(id="x", entry="1-0", status=Status.COMPLETED, text="of another recording")
    await write_outcome(redis, keys, stale)
    [(entry, request)] = await requests(redis, keys)
    await answer(redis, keys, entry, request, text="of this one")
    assert (await waiting).text == "of this one"


async def test_a_wait_timeout_leaves_the_request_queued(
    client: Client, redis: Redis, keys: Keys
) -> None:
    with pytest.raises(WaitTimeout, match="'x'"):
        await client.transcribe(AUDIO, id="x", timeout=0.05)
    assert await redis.xlen(keys.requests) == 1


async def test_hundreds_wait_on_one_connection(client: Client, redis: Redis, keys: Keys) -> None:
    async with answering(redis, keys):
        waits = [asyncio.create_task(client.transcribe(AUDIO, timeout=30)) for _ in range(256)]
        outcomes = await asyncio.gather(*waits)
    assert len({outcome.id for outcome in outcomes}) == 256
    readers = [each for each in await redis.client_list() if each["name"] == "sensestream-wait"]
    assert len(readers) == 1


async def test_several_may_wait_for_one_request(client: Client, redis: Redis, keys: Keys) -> None:
    async with answering(redis, keys):
        outcomes = await asyncio.gather(
            *(client.transcribe(AUDIO, id="x", timeout=20) for _ in range(20))
        )
    assert len({outcome.entry for outcome in outcomes}) == 1


async def test_the_next_wait_works_after_a_cancelled_one(
    client: Client, redis: Redis, keys: Keys
) -> None:
    waiting = asyncio.create_task(client.transcribe(AUDIO, id="x", timeout=None))
    await waiting_requests(redis, keys, 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with answering(redis, keys):
        assert (await client.wait("x", timeout=20)).id == "x"


async def test_a_wait_outlasts_a_restart_of_redis(
    own_redis: Callable[..., EmbeddedRedis], keys: Keys
) -> None:
    server = own_redis(appendonly=True, appendfsync="always")
    async with Client(server.url, retry_timeout=30) as client:
        receipt = await client.submit(AUDIO)
        waiting = asyncio.create_task(client.wait(receipt.id, timeout=60))
        late = asyncio.create_task(client.transcribe(AUDIO, timeout=60))
        redis = connect(server.url, name="test")
        await waiting_requests(redis, keys, 2)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        async with answering(redis, keys):
            assert (await waiting).entry == receipt.entry
            assert (await late).completed
        await redis.aclose()


async def test_an_outcome_below_the_readers_position_is_found_by_its_key(
    client: Client, redis: Redis, keys: Keys
) -> None:
    """After a failover, Redis may give ids below those that the reader has seen."""
    await redis.xadd(keys.transcripts, {"v": "1"}, id="99999999999999-0")
    waiting = asyncio.create_task(client.transcribe(AUDIO, timeout=30))
    await waiting_requests(redis, keys, 1)
    await redis.delete(keys.transcripts)
    [(entry, request)] = await requests(redis, keys)
    await answer(redis, keys, entry, request)
    assert (await waiting).entry == entry


async def test_closing_the_client_ends_its_waits(redis_url: str, redis: Redis) -> None:
    async def reads() -> bool:
        names = {each["name"]: each["cmd"] for each in await redis.client_list()}
        return names.get("sensestream-wait") == "xread"

    async with Client(redis_url) as client:
        waiting = asyncio.create_task(client.wait("never", timeout=None))
        await wait_until(reads, what="the reader reads")
    with pytest.raises(SensestreamError, match="closed"):
        await waiting


async def test_closing_right_after_an_outcome_does_not_wait_for_the_next_read(
    redis_url: str, redis: Redis, keys: Keys
) -> None:
    async with answering(redis, keys):
        client = Client(redis_url)
        await client.transcribe(AUDIO, timeout=20)
        began = time.monotonic()
        await client.close()
    assert time.monotonic() - began < 1.5  # a read blocks for two seconds


@pytest.mark.parametrize("turns", range(6))
async def test_closing_a_client_that_is_starting_leaves_nothing_behind(
    redis_url: str, redis: Redis, turns: int
) -> None:
    async def connections() -> list[str]:
        return [each["name"] for each in await redis.client_list()]

    before = await connections()
    client = Client(redis_url)
    waiting = asyncio.create_task(client.wait("anything", timeout=5))
    for _ in range(turns):
        await asyncio.sleep(0)
    await client.close()
    with pytest.raises(SensestreamError, match="closed"):
        await waiting
    await asyncio.sleep(0.1)  # what was left would have connected by now
    assert await connections() == before


async def test_closing_does_not_wait_for_a_redis_that_is_away() -> None:
    client = Client("redis://127.0.0.1:1/0", retry_timeout=60)
    waiting = asyncio.create_task(client.wait("anything", timeout=None))
    await asyncio.sleep(0.1)
    await asyncio.wait_for(client.close(), 5)
    with pytest.raises(SensestreamError, match="closed"):
        await asyncio.wait_for(waiting, 10)
