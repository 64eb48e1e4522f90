"""Retention: exact, by Redis's clock, and remembered for those who read on from a position."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from redis.exceptions import OutOfMemoryError
from sensestream_common.connections.connection import connect
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.consumer.conftest import KEYS, Components, MakeParts, janitor
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


async def add(parts: Components, key: str, age_seconds: int, count: int) -> list[bytes]:
    seconds, _ = await parts.redis.time()
    return [
        await parts.redis.xadd(key, {"n": n}, id=f"{(seconds - age_seconds) * 1000}-{n + 1}")
        for n in range(count)
    ]


async def test_outcomes_are_trimmed_by_age(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    old = await add(parts, KEYS.transcripts, 200, 3)
    new = await add(parts, KEYS.transcripts, 50, 2)
    await janitor(parts).sweep()
    assert [entry for entry, _ in await parts.redis.xrange(KEYS.transcripts)] == new
    assert await parts.redis.get(KEYS.trimmed) == old[-1]


async def test_outcomes_are_trimmed_to_an_exact_count(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    entries = await add(parts, KEYS.transcripts, 50, 250)
    await janitor(parts, most=7).sweep()
    assert [entry for entry, _ in await parts.redis.xrange(KEYS.transcripts)] == entries[-7:]
    assert await parts.redis.get(KEYS.trimmed) == entries[-8]


async def test_a_sweep_that_trims_nothing_leaves_no_mark(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    await add(parts, KEYS.transcripts, 50, 3)
    await janitor(parts).sweep()
    assert await parts.redis.xlen(KEYS.transcripts) == 3
    assert await parts.redis.get(KEYS.trimmed) is None


async def test_dead_letters_are_kept_up_to_a_number(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    entries = await add(parts, KEYS.dead, 10**6, 5)
    await janitor(parts, dead=2).sweep()
    assert [entry for entry, _ in await parts.redis.xrange(KEYS.dead)] == entries[-2:]


async def test_an_orphaned_upload_gets_a_ttl_and_a_queued_one_none(
    make_parts: MakeParts,
) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    entry = await parts.redis.xadd(KEYS.requests, {"audio": "redis:x", "id": "queued"})
    await parts.redis.hset(KEYS.request("queued"), mapping={"state": "queued", "entry": entry})
    await parts.redis.hset(KEYS.request("gone"), mapping={"state": "queued", "entry": "1-1"})
    for name in ("queued", "gone", "plain"):
        await parts.redis.set(KEYS.upload(name), b"bytes")
    await janitor(parts).sweep()
    assert await parts.redis.ttl(KEYS.upload("queued")) == -1
    assert 0 < await parts.redis.ttl(KEYS.upload("gone")) <= 3600
    # It may be a plain XADD's, which has no request key: not while anything waits.
    assert await parts.redis.ttl(KEYS.upload("plain")) == -1
    await parts.redis.delete(KEYS.requests)
    await parts.inbox.create_groups()
    await janitor(parts).sweep()
    assert 0 < await parts.redis.ttl(KEYS.upload("plain")) <= 3600


async def test_a_full_redis_can_be_trimmed(own_redis: Callable[..., EmbeddedRedis]) -> None:
    server = own_redis(maxmemory_policy="noeviction")
    parts = Components(connect(server.url, name="one"), "one")
    await parts.inbox.create_groups()
    await add(parts, KEYS.transcripts, 200, 3)
    await parts.redis.config_set("maxmemory", 1)
    with pytest.raises(OutOfMemoryError):
        await parts.redis.set(KEYS.janitor, "1", nx=True, px=1000)
    sweeping = asyncio.create_task(janitor(parts).run())

    async def trimmed() -> bool:
        return bool(await parts.redis.xlen(KEYS.transcripts) == 0)

    try:
        await wait_until(trimmed)
    finally:
        sweeping.cancel()
        await parts.redis.aclose()


async def test_a_janitors_turn_is_left_to_the_worker_that_has_it(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await parts.redis.set(KEYS.janitor, "1")
    assert not await janitor(parts)._is_mine()
