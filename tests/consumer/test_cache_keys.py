"""Keys of the cache that hold what does not belong there, or whose reply was lost."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.broker.outbox import CacheWrite

from tests.consumer.conftest import KEYS, MakeParts, submit, transcript_of

pytestmark = pytest.mark.anyio

KEEP = CacheWrite(
    result="x",
    transcript=Transcript("t").dumps(),
    alias="sha256:0",
    alias_of="a" * 64,
    ttl_ms=10_000,
)


WHOLE: dict[str, Any] = {"text": "a", "language": "", "emotion": "", "events": [], "segments": [],
         "confidence": None, "duration": 1}  # fmt: skip


@pytest.mark.parametrize(
    "value",
    [
        json.dumps(WHOLE | {"text": "?"}).encode().replace(b"?", b"\xed\xa0\x80"),  # a surrogate
        json.dumps(WHOLE | {"segments": [1]}).encode(),
        json.dumps(WHOLE | {"confidence": 10**400}).encode(),
        b"[]", b"1", b"nothing",
    ],
)  # fmt: skip
async def test_what_is_no_transcript_is_a_miss(make_parts: MakeParts, value: bytes) -> None:
    parts = make_parts("one")
    await parts.redis.hset(KEYS.result("x"), "transcript", json.dumps(WHOLE))
    assert await parts.cache.result("x") == Transcript("a", duration=1.0)
    await parts.redis.hset(KEYS.result("x"), "transcript", value)
    assert await parts.cache.result("x") is None


async def test_a_lease_of_the_wrong_type_counts_as_no_lease(make_parts: MakeParts) -> None:
    # Taken for another's, it would be waited for without an end: it is nobody's, and never ends.
    parts = make_parts("one")
    await parts.redis.rpush(KEYS.lease("x"), "no lease")
    assert await parts.cache.acquire("x") == (None, False, None)
    assert parts.in_flight.snapshot()[1] == []


async def test_a_lease_whose_reply_was_lost_is_not_waited_for_as_anothers(
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
    lease, elsewhere, _ = await parts.cache.acquire("x")
    assert lost
    assert lease is not None
    assert not elsewhere


async def test_keys_of_the_wrong_type_are_replaced_by_the_next_transcription(
    make_parts: MakeParts,
) -> None:
    # Left alone and prolonged, a result of the wrong type would make every repeat a miss.
    parts = make_parts("one")
    await parts.inbox.create_groups()
    await submit(parts.redis)
    [held] = await parts.read()
    for key in (KEYS.result("x"), KEYS.audio("sha256:0")):
        await parts.redis.rpush(key, "not yours")
    assert await parts.outbox.commit(held, transcript_of(held), keep=KEEP)
    assert await parts.cache.result("x") == Transcript("t")
    assert await parts.redis.get(KEYS.audio("sha256:0")) == b"a" * 64
    for key in (KEYS.result("x"), KEYS.audio("sha256:0")):
        assert 0 < await parts.redis.pttl(key) <= 10_000
