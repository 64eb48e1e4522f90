"""What a client remembers of the cache: bounded, and forgotten in the order of use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.contract.identity import result_identity
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.transcript import Transcript
from sensestream_producer.submit import cached_answers as module
from sensestream_producer.submit.cached_answers import CachedAnswers, ResultKey
from sensestream_producer.transport import RedisTransport

pytestmark = pytest.mark.anyio


def ask(number: int) -> ResultKey:
    return ResultKey(f"sha256:{number:064x}", "auto", True, claimed=True)


@pytest.fixture
async def repeats(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[CachedAnswers]:
    """Those of a pipeline that keeps three results."""
    terms: Any = {"recogniser": "r", "result_ttl": "60", "request_ttl": "60"}
    await redis.hset(keys.reuse_policy, mapping=terms)
    for number in range(3):
        audio = sha256(str(number).encode()).hexdigest()
        await redis.set(keys.audio(ask(number).digest), audio)
        result = keys.result(result_identity(audio, "r", "auto", True))
        await redis.hset(result, "transcript", Transcript(f"text {number}").dumps())
    link = RedisTransport(redis_url, retry_timeout=1)
    yield CachedAnswers(link, keys, role="client")
    await link.close()


async def look_ups(redis: Redis) -> int:
    statistics = await redis.info("commandstats")
    return int(statistics.get("cmdstat_get", {}).get("calls", 0))


async def test_what_is_remembered_is_not_looked_up_again(
    repeats: CachedAnswers, redis: Redis
) -> None:
    found = await repeats.find([ask(0), None, ask(1), ask(7)])
    assert [each and each.found["text"] for each in found] == ["text 0", None, "text 1", None]
    before = await look_ups(redis)
    await repeats.find([ask(0), ask(1)])
    assert await look_ups(redis) == before
    await repeats.find([ask(2), ask(7)])
    assert await look_ups(redis) == before + 2


async def test_what_was_used_longest_ago_is_forgotten_first(
    repeats: CachedAnswers, keys: Keys, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 2 * module._OVERHEAD + 2000)  # two small ones
    repeats = CachedAnswers(repeats._link, keys, role="client")
    await repeats.find([ask(0)])
    await repeats.find([ask(1)])
    await repeats.find([ask(0)])
    await repeats.find([ask(2)])
    before = await look_ups(redis)
    await repeats.find([ask(0), ask(2)])
    assert await look_ups(redis) == before
    await repeats.find([ask(1)])
    assert await look_ups(redis) == before + 1
