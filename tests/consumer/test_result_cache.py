"""The result cache in Redis: leases, and keys that hold what does not belong there."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.broker.outbox import CacheWrite
from sensestream_consumer.cache.results import Cached, Leased, LeasedElsewhere

from tests.consumer.conftest import KEYS, REVISION, MakeParts, submit, transcript_of

pytestmark = pytest.mark.anyio

KEEP = CacheWrite(
    result="x",
    transcript=Transcript("t").dumps(),
    alias="sha256:0",
    alias_value="a" * 64,
    ttl_ms=10_000,
)


WHOLE: dict[str, Any] = {
    "text": "a",
    "language": "",
    "emotion": "",
    "events": [],
    "segments": [],
    "confidence": None,
    "duration": 1,
}


@pytest.mark.parametrize(
    "value",
    [
        json.dumps(WHOLE | {"text": "?"}).encode().replace(b"?", b"\xed\xa0\x80"),  # a surrogate
        json.dumps(WHOLE | {"segments": [1]}).encode(),
        json.dumps(WHOLE | {"confidence": 10**400}).encode(),
        b"[]",
        b"1",
        b"nothing",
    ],
)
async def test_a_malformed_cached_transcript_is_a_miss(make_parts: MakeParts, value: bytes) -> None:
    parts = make_parts("one")
    await parts.redis.hset(KEYS.result("x"), "transcript", json.dumps(WHOLE))
    assert await parts.cache.result("x") == Transcript("a", duration=1.0)
    await parts.redis.hset(KEYS.result("x"), "transcript", value)
    assert await parts.cache.result("x") is None


async def test_a_lease_of_the_wrong_type_counts_as_no_lease(make_parts: MakeParts) -> None:
    # Taken for another worker's, it would be waited for without an end.
    parts = make_parts("one")
    await parts.redis.rpush(KEYS.lease("x"), "no lease")
    async with parts.cache.lease("x") as leased:
        assert leased == Leased(None)
    assert parts.in_flight.snapshot()[1] == []


async def test_one_worker_has_the_lease_until_its_block_ends(make_parts: MakeParts) -> None:
    one, two = make_parts("one"), make_parts("two")
    async with one.cache.lease("x") as ours:
        assert isinstance(ours, Leased)
        assert one.in_flight.snapshot()[1] == [ours.lease]
        async with two.cache.lease("x") as theirs:
            assert theirs == LeasedElsewhere()
        assert await one.redis.exists(KEYS.lease("x"))
    assert await one.redis.exists(KEYS.lease("x")) == 0
    assert one.in_flight.snapshot()[1] == []


async def test_a_lease_is_released_when_the_transcription_fails(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    with pytest.raises(RuntimeError, match="no transcript"):
        async with parts.cache.lease("x"):
            raise RuntimeError("no transcript")
    assert await parts.redis.exists(KEYS.lease("x")) == 0
    assert parts.in_flight.snapshot()[1] == []


async def test_a_lease_that_is_handed_over_outlives_its_block_until_it_is_released(
    make_parts: MakeParts,
) -> None:
    parts = make_parts("one")
    lease = await parts.take_lease("x")
    assert await parts.redis.exists(KEYS.lease("x"))
    assert parts.in_flight.snapshot()[1] == [lease]
    await parts.cache.release(lease)
    assert await parts.redis.exists(KEYS.lease("x")) == 0
    assert parts.in_flight.snapshot()[1] == []


async def test_a_lease_on_a_result_that_is_there_already_is_released(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await parts.redis.hset(KEYS.result("x"), "transcript", Transcript("t").dumps())
    async with parts.cache.lease("x") as leased:
        assert leased == Cached(Transcript("t"))
    assert await parts.redis.exists(KEYS.lease("x")) == 0
    assert parts.in_flight.snapshot()[1] == []


async def test_waiting_for_a_leaseholder_ends_with_its_transcript(make_parts: MakeParts) -> None:
    holder, waiter = make_parts("holder"), make_parts("waiter")
    await holder.take_lease("x")
    waiting = asyncio.create_task(waiter.cache.wait_for_leaseholder("x"))
    await holder.redis.hset(KEYS.result("x"), "transcript", Transcript("t").dumps())
    assert await waiting == Transcript("t")


async def test_a_worker_does_not_wait_for_its_own_lease_after_a_lost_reply(
    make_parts: MakeParts,
) -> None:
    parts = make_parts("one")
    commands = parts.broker.commands
    lost: list[bool] = []

    async def lossy(*command: Any) -> Any:
        reply = await commands(*command)
        if command[0] == "SET" and not lost:
            lost.append(True)
            raise RedisConnectionError("the reply was lost")
        return reply

    parts.broker.commands = lossy  # type: ignore[assignment]
    await parts.take_lease("x")
    assert lost


async def test_keys_of_the_wrong_type_are_replaced_by_the_next_transcription(
    make_parts: MakeParts,
) -> None:
    # Left alone and prolonged, a result of the wrong type would turn every hit into a miss.
    parts = make_parts("one")
    await parts.inbox.create_groups()
    await submit(parts.redis)
    [delivery] = await parts.read()
    for key in (KEYS.result("x"), KEYS.audio("sha256:0", REVISION)):
        await parts.redis.rpush(key, "not yours")
    assert await parts.outbox.commit(delivery, transcript_of(delivery), keep=KEEP)
    assert await parts.cache.result("x") == Transcript("t")
    assert await parts.redis.get(KEYS.audio("sha256:0", REVISION)) == b"a" * 64
    for key in (KEYS.result("x"), KEYS.audio("sha256:0", REVISION)):
        assert 0 < await parts.redis.pttl(key) <= 10_000
