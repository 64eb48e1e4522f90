"""Two workers and one entry: whoever commits first answers it, and only once."""

from __future__ import annotations

import asyncio
from copy import copy

import pytest
from sensestream_common.contract.keys import REQUESTS_GROUP
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.broker.outbox import CacheWrite

from tests.consumer.conftest import (
    KEYS,
    REVISION,
    MakeParts,
    failure_of,
    outcomes,
    submit,
    transcript_of,
    two_holders,
)

pytestmark = pytest.mark.anyio


async def test_two_workers_that_finish_one_entry_give_one_outcome(make_parts: MakeParts) -> None:
    old, delivery, new, stolen = await two_holders(make_parts)
    assert await new.outbox.commit(stolen, transcript_of(stolen))
    assert not await old.outbox.commit(delivery, transcript_of(delivery))
    assert await outcomes(new) == [b"completed"]
    assert await new.redis.xlen(KEYS.requests) == 0
    assert await new.redis.hget(KEYS.stats, "completed") == b"1"


async def test_a_transcript_counts_even_from_a_worker_that_lost_its_entry(
    make_parts: MakeParts,
) -> None:
    old, delivery, new, stolen = await two_holders(make_parts)
    assert await old.outbox.commit(delivery, transcript_of(delivery))
    assert not await new.outbox.commit(stolen, failure_of(stolen))
    assert await outcomes(new) == [b"completed"]
    assert await new.redis.exists(KEYS.dead) == 0


async def test_a_zombies_failure_does_not_count_against_the_living_owner(
    make_parts: MakeParts,
) -> None:
    old, delivery, new, stolen = await two_holders(make_parts)
    assert not await old.outbox.commit(delivery, failure_of(delivery))
    assert await outcomes(new) == []
    assert await new.redis.xlen(KEYS.requests) == 1
    assert await new.outbox.commit(stolen, transcript_of(stolen))
    assert await outcomes(new) == [b"completed"]


async def test_a_commit_whose_reply_was_lost_is_not_repeated_by_its_retry(
    make_parts: MakeParts,
) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    await submit(parts.redis)
    [delivery] = await parts.read()
    again = copy(delivery)  # as it was when the first try was sent
    assert await parts.outbox.commit(delivery, failure_of(delivery))
    assert not await parts.outbox.commit(again, failure_of(delivery))
    assert await outcomes(parts) == [b"failed"]
    assert await parts.redis.xlen(KEYS.dead) == 1


async def test_a_request_submitted_again_meanwhile_keeps_its_own_state(
    make_parts: MakeParts,
) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    await submit(parts.redis, id="a")
    await parts.redis.hset(
        KEYS.request("a"), mapping={"state": "queued", "entry": "9999999999999-0"}
    )
    [delivery] = await parts.read()
    assert await parts.outbox.commit(delivery, transcript_of(delivery, id="a"))
    assert await parts.redis.hget(KEYS.request("a"), "state") == b"queued"
    assert await parts.redis.ttl(KEYS.request("a")) == -1


async def test_a_commit_releases_its_own_lease_and_no_other(
    make_parts: MakeParts,
) -> None:
    one, two = make_parts("one"), make_parts("two")
    await one.inbox.create_groups()
    for _ in range(2):
        await submit(one.redis)
    first, second = await one.read()
    lease = await one.take_lease("x")
    keep = CacheWrite(result="x", transcript=Transcript("t").dumps(), ttl_ms=10_000)
    assert await one.outbox.commit(first, transcript_of(first), keep=keep, lease=lease)
    assert await one.redis.exists(KEYS.lease("x")) == 0
    assert (await two.cache.result("x")) == Transcript("t")
    await two.redis.set(KEYS.lease("x"), "another's")
    assert await one.outbox.commit(second, transcript_of(second), lease=lease)
    assert await one.redis.get(KEYS.lease("x")) == b"another's"


async def test_an_outcome_with_a_callback_adds_a_webhook_entry(make_parts: MakeParts) -> None:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    await submit(parts.redis)
    [delivery] = await parts.read()
    await parts.outbox.commit(delivery, transcript_of(delivery), callback_url="http://h/hook")
    [(_, hook)] = await parts.redis.xrange(KEYS.webhooks)
    [(outcome, _)] = await parts.redis.xrange(KEYS.transcripts)
    assert hook == {b"outcome": outcome, b"url": b"http://h/hook", b"id": delivery.entry.encode()}


async def test_handed_back_entries_are_taken_at_once_and_uncharged(make_parts: MakeParts) -> None:
    one, two = make_parts("one"), make_parts("two")
    await one.inbox.create_groups()
    await submit(one.redis, id="a")
    [delivery] = await one.read()
    async with one.attempts.begin(delivery, "a", "sha256:0"):
        assert delivery.attempt == 1
    assert await two.inbox.take(5, 60_000) == []
    await one.inbox.hand_back([delivery])
    [taken] = await two.inbox.take(5, 60_000)
    assert taken.fields == delivery.fields
    async with two.attempts.begin(taken, "a", "sha256:0"):
        assert taken.attempt == 1
        assert not taken.suspect


async def test_handing_back_takes_nothing_from_a_new_owner(make_parts: MakeParts) -> None:
    old, delivery, new, stolen = await two_holders(make_parts)
    await old.inbox.hand_back([delivery])
    assert await new.owner(stolen) == "new"


async def test_a_worker_that_still_holds_entries_cannot_be_removed(make_parts: MakeParts) -> None:
    from sensestream_common.connections.scripts import load_script

    leave = load_script("sensestream_consumer.broker.lua", "leave")
    parts = make_parts("one")
    await parts.inbox.create_groups()
    await submit(parts.redis)
    [delivery] = await parts.read()
    keys = [KEYS.requests_high, KEYS.requests, KEYS.worker("one")]
    assert await parts.broker.run(leave, keys, [REQUESTS_GROUP, "one"]) == 1
    assert await parts.owner(delivery) == "one"
    await parts.outbox.commit(delivery, transcript_of(delivery))
    assert await parts.broker.run(leave, keys, [REQUESTS_GROUP, "one"]) == 0
    assert await parts.redis.xinfo_consumers(KEYS.requests, REQUESTS_GROUP) == []


async def test_handed_back_entries_are_found_behind_thousands_in_flight(
    make_parts: MakeParts,
) -> None:
    one, two = make_parts("one"), make_parts("two")
    await one.inbox.create_groups()
    pipe = one.redis.pipeline(transaction=False)
    for _ in range(4000):
        pipe.xadd(KEYS.requests, {"audio": "file:///a.wav"})
    await pipe.execute()
    delivery = await one.read(4000)
    await one.inbox.hand_back(delivery[-1:])
    assert [taken.entry for taken in await two.inbox.take(1, 60_000)] == [delivery[-1].entry]


async def test_a_value_that_cannot_be_sent_fails_its_own_caller_only(
    make_parts: MakeParts,
) -> None:
    parts = make_parts("one")
    replies = await asyncio.gather(
        parts.broker.commands("PING"),
        parts.broker.commands("SET", "k", "\ud800"),
        return_exceptions=True,
    )
    assert replies[0] == b"PONG"
    assert isinstance(replies[1], UnicodeEncodeError)


async def test_a_hit_replaces_an_alias_of_the_wrong_type(make_parts: MakeParts) -> None:
    """Its retention was prolonged instead, and every repeat decoded the recording for a week."""
    parts = make_parts("worker")
    await parts.inbox.create_groups()
    await submit(parts.redis)
    [delivery] = await parts.read()
    digest = "sha256:" + "0" * 64
    await parts.redis.rpush(KEYS.audio(digest, REVISION), "not yours")
    await parts.redis.expire(KEYS.audio(digest, REVISION), 3)
    keep = CacheWrite(result="r", alias=digest, alias_value="a" * 64, ttl_ms=60_000)
    assert await parts.outbox.commit(delivery, transcript_of(delivery), keep=keep)
    assert await parts.redis.get(KEYS.audio(digest, REVISION)) == b"a" * 64
    assert 50 < await parts.redis.ttl(KEYS.audio(digest, REVISION)) <= 60
