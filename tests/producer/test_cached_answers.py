"""What a client remembers of the cache: bounded, and forgotten in the order of use."""

from __future__ import annotations

from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.contract.alias import Alias, AudioWarning
from sensestream_common.contract.identity import result_identity
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.transcript import Transcript
from sensestream_producer.submit import cached_answers as module
from sensestream_producer.submit.cached_answers import CachedAnswers
from sensestream_producer.submit.cached_result import ResultKey
from sensestream_producer.transport import RedisTransport

pytestmark = pytest.mark.anyio


def key(number: int) -> ResultKey:
    return ResultKey(f"sha256:{number:064x}", "auto", True, digest_unverified=True)


@pytest.fixture
async def cached(redis_url: str, redis: Redis, keys: Keys) -> AsyncIterator[CachedAnswers]:
    """Those of a pipeline that keeps three results."""
    terms: Any = {
        "recogniser": "r", "decode_revision": "1", "result_ttl": "60", "request_ttl": "60"
    }  # fmt: skip
    await redis.hset(keys.reuse_policy, mapping=terms)
    for number in range(3):
        audio = sha256(str(number).encode()).hexdigest()
        await redis.set(keys.audio(key(number).digest, "1"), audio)
        result = keys.result(result_identity(audio, "r", "auto", True))
        await redis.hset(result, "transcript", Transcript(f"text {number}").dumps())
    link = RedisTransport(redis_url, retry_timeout=1)
    yield CachedAnswers(link, keys, role="client")
    await link.close()


async def look_ups(redis: Redis) -> int:
    statistics = await redis.info("commandstats")
    return int(statistics.get("cmdstat_get", {}).get("calls", 0))


async def test_a_result_in_the_local_cache_is_not_looked_up_again(
    cached: CachedAnswers, redis: Redis
) -> None:
    found = await cached.find([key(0), None, key(1), key(7)])
    assert [each and each.fields["text"] for each in found] == ["text 0", None, "text 1", None]
    before = await look_ups(redis)
    await cached.find([key(0), key(1)])
    assert await look_ups(redis) == before
    await cached.find([key(2), key(7)])
    assert await look_ups(redis) == before + 2


async def test_the_least_recently_used_result_is_evicted_first(
    cached: CachedAnswers, keys: Keys, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CACHE_BYTES", 2 * module._OVERHEAD + 2000)  # two small ones
    cached = CachedAnswers(cached._link, keys, role="client")
    await cached.find([key(0)])
    await cached.find([key(1)])
    await cached.find([key(0)])
    await cached.find([key(2)])
    before = await look_ups(redis)
    await cached.find([key(0), key(2)])
    assert await look_ups(redis) == before
    await cached.find([key(1)])
    assert await look_ups(redis) == before + 1


async def test_the_warnings_of_the_alias_are_fields_of_the_answer(
    cached: CachedAnswers, redis: Redis, keys: Keys
) -> None:
    lost = AudioWarning("audio_truncated", "its last 0.4 s are missing")
    audio = sha256(b"0").hexdigest()
    await redis.set(keys.audio(key(0).digest, "1"), Alias(audio, (lost,)).encode())
    await redis.set(keys.audio(key(1).digest, "1"), Alias(audio).encode())  # of the same samples
    warned, clean = await cached.find([key(0), key(1)])
    assert warned is not None
    assert clean is not None
    assert (warned.fields["warnings"], clean.fields["warnings"]) == ((lost,), ())
    assert warned.fields["text"] == clean.fields["text"]


@pytest.mark.parametrize("revision", ["1:2", "*", "1" * 101, "\xff"])
async def test_a_malformed_decode_revision_leads_nowhere(
    cached: CachedAnswers, redis: Redis, keys: Keys, revision: str
) -> None:
    await redis.copy(keys.audio(key(0).digest, "1"), keys.audio(key(0).digest, revision))
    await redis.hset(keys.reuse_policy, "decode_revision", revision)
    assert await cached.find([key(0)]) == [None]


async def test_aliases_of_another_decode_revision_lead_nowhere(
    cached: CachedAnswers, redis: Redis, keys: Keys
) -> None:
    await redis.hset(keys.reuse_policy, "decode_revision", "2")
    assert await cached.find([key(0), key(1)]) == [None, None]
