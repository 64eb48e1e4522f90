"""Parts of two workers on one Redis, so that a test can force who does what first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.connections.connection import connect
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys, Lane
from sensestream_consumer.broker.autopipeline import AutoPipeline
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, InFlight, Lease
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.broker.outbox import Outbox
from sensestream_consumer.cache.results import Cache, Leased
from sensestream_consumer.processing.attempts import Attempts
from sensestream_consumer.processing.slots import SharedExclusiveGate

KEYS = Keys("sensestream")


class Components:
    """What a worker called `consumer` is made of, without its loop."""

    def __init__(self, redis: Redis, consumer: str) -> None:
        self.redis: Any = redis
        self.consumer = consumer
        self.broker = Broker(AutoPipeline(redis), KEYS, consumer)
        self.in_flight = InFlight()
        self.inbox = Inbox(redis, self.broker, self.in_flight)
        self.outbox = Outbox(self.broker, self.in_flight, request_ttl=100)
        self.cache = Cache(self.broker, self.in_flight, "fingerprint", lease_ms=60_000)
        self.attempts = Attempts(self.broker, SharedExclusiveGate(), most=3)

    async def take_lease(self, identity: str) -> Lease:
        """Take a free lease, and let it outlive its block as one does that a commit takes along."""
        async with self.cache.lease(identity) as leased:
            assert isinstance(leased, Leased)
            lease = leased.hand_over()
        assert lease is not None
        return lease

    async def read(self, count: int = 10) -> list[Delivery]:
        entries = await self.inbox.read(count)
        for delivery in entries:
            self.in_flight.add(delivery)
        return entries

    async def steal(self, delivery: Delivery) -> Delivery:
        """Take an entry over as a reclaim does, from a worker that was silent for long enough."""
        await self.redis.xclaim(
            KEYS.lane(delivery.lane),
            REQUESTS_GROUP,
            self.consumer,
            0,
            [delivery.entry],
            justid=True,
        )
        [row] = await self.redis.xpending_range(
            KEYS.lane(delivery.lane), REQUESTS_GROUP, delivery.entry, delivery.entry, 1
        )
        return Delivery(
            delivery.lane, delivery.entry, delivery.fields, starts=row["times_delivered"] - 1
        )

    async def owner(self, delivery: Delivery) -> str:
        rows = await self.redis.xpending_range(
            KEYS.lane(delivery.lane), REQUESTS_GROUP, delivery.entry, delivery.entry, 1
        )
        return str(rows[0]["consumer"].decode()) if rows else ""


MakeParts = Callable[[str], Components]


@pytest.fixture
async def make_parts(redis_url: str) -> AsyncIterator[MakeParts]:
    async with AsyncExitStack() as stack:

        def make(consumer: str) -> Components:
            redis = connect(redis_url, name=consumer)
            stack.push_async_callback(redis.aclose)
            return Components(redis, consumer)

        yield make


async def submit(redis: Any, *, lane: Lane = Lane.NORMAL, **fields: str) -> str:
    entry = await redis.xadd(KEYS.lane(lane), {"audio": "file:///a.wav", **fields})
    return str(entry.decode())
