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
from sensestream_consumer.broker.deliveries import Delivery, InFlight
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.broker.outbox import Outbox
from sensestream_consumer.cache.results import Cache
from sensestream_consumer.processing.attempts import Attempts
from sensestream_consumer.processing.slots import SharedExclusiveGate

KEYS = Keys("sensestream")


class Components:
    """What a worker called `consumer` is made of, without its loop."""

    def __init__(self, redis: Redis, consumer: str) -> None:
        self.redis: Any = redis
        self.consumer = consumer
        self.commands = AutoPipeline(redis)
        self.holding = InFlight()
        self.inbox = Inbox(redis, self.commands, KEYS, consumer)
        self.outbox = Outbox(self.commands, KEYS, self.holding, consumer, request_ttl=100)
        self.cache = Cache(
            self.commands, KEYS, self.holding, consumer, "fingerprint", lease_ms=60_000
        )
        self.starts = Attempts(self.commands, KEYS, SharedExclusiveGate(), consumer, most=3)

    async def read(self, count: int = 10) -> list[Delivery]:
        entries = await self.inbox.read(count)
        for held in entries:
            self.holding.add(held)
        return entries

    async def steal(self, held: Delivery) -> Delivery:
        """Take an entry over as a reclaim does, from a worker that was silent for long enough."""
        await self.redis.xclaim(
            KEYS.lane(held.lane), REQUESTS_GROUP, self.consumer, 0, [held.entry], justid=True
        )
        [row] = await self.redis.xpending_range(
            KEYS.lane(held.lane), REQUESTS_GROUP, held.entry, held.entry, 1
        )
        return Delivery(held.lane, held.entry, held.fields, starts=row["times_delivered"] - 1)

    async def owner(self, held: Delivery) -> str:
        rows = await self.redis.xpending_range(
            KEYS.lane(held.lane), REQUESTS_GROUP, held.entry, held.entry, 1
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
