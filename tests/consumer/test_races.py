"""Races between workers, each forced in the order that hurts; docs/reliability.md lists them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import HANDED_BACK_IDLE, REQUESTS_GROUP, Lane
from sensestream_consumer.broker import janitor as janitor_module
from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.cache.results import LeasedElsewhere
from sensestream_consumer.processing.attempts import DeliveryLost
from sensestream_consumer.processing.flow_control import FlowControl
from sensestream_consumer.processing.slots import SlotPool

from tests.consumer.conftest import (
    KEYS,
    RECLAIM_AFTER,
    Beating,
    Components,
    MakeParts,
    failure_of,
    janitor,
    outcomes,
    submit,
    transcript_of,
    two_holders,
)

pytestmark = pytest.mark.anyio

LEAVE = load_script("sensestream_consumer.broker.lua", "leave")
HALF_A_MINUTE, A_MINUTE = 30_000, 60_000  # milliseconds


async def age(redis: Any, delivery: Delivery, consumer: str) -> None:
    """As if its holder had last renewed it a minute ago."""
    await redis.xclaim(
        KEYS.lane(delivery.lane),
        REQUESTS_GROUP,
        consumer,
        0,
        [delivery.entry],
        idle=A_MINUTE,
        justid=True,
    )


async def leave(parts: Components) -> int:
    keys = [KEYS.requests_high, KEYS.requests, KEYS.worker(parts.consumer)]
    return int(await parts.broker.run(LEAVE, keys, [REQUESTS_GROUP, parts.consumer]))


@pytest.mark.parametrize("error", list(ErrorCode))
async def test_a_failure_does_not_acknowledge_the_entry_of_another_worker(
    make_parts: MakeParts, error: ErrorCode
) -> None:
    old, delivery, new, _ = await two_holders(make_parts)
    assert not await old.outbox.commit(delivery, failure_of(delivery, error))
    [row] = await new.redis.xpending_range(KEYS.requests, REQUESTS_GROUP, "-", "+", 10)
    assert (row["consumer"], row["times_delivered"]) == (b"new", 1)
    assert await outcomes(new) == []
    assert await new.redis.exists(KEYS.dead) == 0


async def test_non_owner_cannot_start_hand_back_or_leave(make_parts: MakeParts) -> None:
    old, delivery, new, stolen = await two_holders(make_parts)
    await age(new.redis, stolen, "new")
    with pytest.raises(DeliveryLost):
        async with old.attempts.begin(delivery, delivery.entry, "sha256:0"):
            pass
    await old.inbox.hand_back([delivery])
    assert await leave(old) == 0
    [row] = await new.redis.xpending_range(KEYS.requests, REQUESTS_GROUP, "-", "+", 10)
    assert (row["consumer"], row["times_delivered"]) == (b"new", 1)
    assert row["time_since_delivered"] >= A_MINUTE


async def test_work_that_is_renewed_is_never_reclaimed(
    beating: Beating, make_parts: MakeParts
) -> None:
    living, silent, third = beating.parts, make_parts("silent"), make_parts("third")
    for parts in (living, silent):
        await submit(parts.redis)
        [delivery] = await parts.read()
        await age(parts.redis, delivery, parts.consumer)
    await beating.beat()
    [taken] = await third.inbox.take(10, HALF_A_MINUTE)
    [still_held] = living.in_flight.snapshot()[0]
    assert taken.entry == silent.in_flight.snapshot()[0][0].entry
    assert await third.owner(still_held) == living.consumer
    assert beating.lost == []


async def test_the_first_worker_to_reconnect_reclaims_nothing_from_the_others(
    beating: Beating, make_parts: MakeParts
) -> None:
    first, away = beating, make_parts("away")
    await submit(away.redis)
    [delivery] = await away.read()
    await age(away.redis, delivery, "away")  # the outage was longer than the reclaim time
    first.heartbeat._no_reclaim_before -= RECLAIM_AFTER  # first is no newcomer
    first.heartbeat._last_beat -= 3 * first.heartbeat.interval
    await first.beat()
    assert await flow_control(first).reclaim(0) == []
    assert await away.owner(delivery) == "away"
    first.heartbeat._no_reclaim_before -= RECLAIM_AFTER  # and who is silent now is dead
    [taken] = await flow_control(first).reclaim(0)
    assert taken.entry == delivery.entry


async def test_a_follower_takes_over_once_the_lease_of_a_dead_holder_has_ended(
    make_parts: MakeParts,
) -> None:
    holder, follower = make_parts("holder"), make_parts("follower")
    lease = await holder.take_lease("x")
    async with follower.cache.lease("x") as leased:
        assert leased == LeasedElsewhere()
    waiting = asyncio.create_task(follower.cache.wait_for_leaseholder("x"))
    await holder.redis.pexpire(lease.key, 100)  # nobody renews it any more
    assert await asyncio.wait_for(waiting, 10) is None
    await follower.take_lease("x")


def flow_control(beating: Beating) -> FlowControl:
    slots = SlotPool(4, lambda: None)
    return FlowControl(beating.parts.inbox, slots, beating.heartbeat, 10, RECLAIM_AFTER)


async def test_a_consumer_is_removed_only_without_pending_entries(
    make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor_module, "_CONSUMER_IDLE_MS", -1)  # as if an hour had passed
    dead, living = make_parts("dead"), make_parts("living")
    await dead.inbox.create_groups()
    await living.inbox.create_groups()
    await living.redis.hset(KEYS.worker("living"), "host", "h")
    await submit(dead.redis)
    [delivery] = await dead.read()
    await janitor(living).sweep()
    assert await living.owner(delivery) == "dead"
    assert await dead.outbox.commit(delivery, transcript_of(delivery))
    await janitor(living).sweep()
    consumers = await living.redis.xinfo_consumers(KEYS.requests, REQUESTS_GROUP)
    assert [consumer["name"] for consumer in consumers] == [b"living"]


@pytest.mark.parametrize("lane", list(Lane))
async def test_entries_of_a_consumer_removed_by_hand_are_taken_by_others(
    make_parts: MakeParts, lane: Lane
) -> None:
    removed, other = make_parts("removed"), make_parts("other")
    await removed.inbox.create_groups()
    for _ in range(3):
        await submit(removed.redis, lane=lane)
    lost, lost_too = await removed.inbox.read(2)
    assert await removed.redis.xgroup_delconsumer(KEYS.lane(lane), REQUESTS_GROUP, "removed") == 2
    # One that has not been delivered yet is nobody's business but the next reader's.
    await janitor(other).sweep()
    taken = await other.inbox.take(10, HANDED_BACK_IDLE)
    assert [delivery.entry for delivery in taken] == [lost.entry, lost_too.entry]
    assert await other.outbox.commit(taken[0], transcript_of(taken[0]))
    assert not await removed.outbox.commit(lost, transcript_of(lost))
    # Its transcript counts, as from anybody who was slow, and the other's then does not.
    assert await removed.outbox.commit(lost_too, transcript_of(lost_too))
    assert not await other.outbox.commit(taken[1], transcript_of(taken[1]))
    assert await outcomes(other) == [b"completed"] * 2
    assert len(await other.inbox.read(10)) == 1
