"""Parts of two workers on one Redis, so that a test can force who does what first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.connections.connection import connect, connect_blocking
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys, Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.broker.autopipeline import AutoPipeline
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, InFlight, Lease
from sensestream_consumer.broker.heartbeat import Heartbeat, WorkerInfo
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.broker.janitor import Janitor
from sensestream_consumer.broker.outbox import Outbox
from sensestream_consumer.cache.results import Cache, Leased
from sensestream_consumer.processing.attempts import Attempts
from sensestream_consumer.processing.slots import SharedExclusiveGate

KEYS = Keys("sensestream")
REVISION = "1-2.3"  # of the decoders
RECLAIM_AFTER = 60.0  # seconds


class Components:
    """What a worker called `consumer` is made of, without its loop."""

    def __init__(self, redis: Redis, consumer: str) -> None:
        self.redis: Any = redis
        self.consumer = consumer
        self.broker = Broker(AutoPipeline(redis), KEYS, consumer)
        self.in_flight = InFlight()
        self.inbox = Inbox(redis, self.broker, self.in_flight)
        self.outbox = Outbox(self.broker, self.in_flight, request_ttl=100, decode_revision=REVISION)
        self.cache = Cache(self.broker, self.in_flight, "fingerprint", REVISION, lease_ms=60_000)
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


def transcript_of(delivery: Delivery, text: str = "one two", **fields: Any) -> Outcome:
    return Outcome(
        id=fields.pop("id", delivery.entry), entry=delivery.entry, status=Status.COMPLETED,
        cache=CacheUse.MISS, digest="sha256:" + "0" * 64, model="m", **fields,
    ).with_transcript(Transcript(text))  # fmt: skip


def failure_of(delivery: Delivery, error: ErrorCode = ErrorCode.AUDIO_NOT_FOUND) -> Outcome:
    return Outcome(
        id=delivery.entry, entry=delivery.entry, status=Status.FAILED, error=error, message="gone"
    )


async def outcomes(parts: Components) -> list[bytes]:
    return [fields[b"status"] for _, fields in await parts.redis.xrange(KEYS.transcripts)]


async def two_holders(make_parts: MakeParts) -> tuple[Components, Delivery, Components, Delivery]:
    """One worker that has lost its entry without knowing, and the one that has it now."""
    old, new = make_parts("old"), make_parts("new")
    await old.inbox.create_groups()
    await submit(old.redis)
    [delivery] = await old.read()
    return old, delivery, new, await new.steal(delivery)


class Beating:
    """Parts of a worker with a heartbeat that beats when the test says so."""

    def __init__(
        self,
        parts: Components,
        url: str,
        *,
        fingerprint: str = "fingerprint",
        revision: str = REVISION,
        trust_digest: bool = True,
    ) -> None:
        self.parts = parts
        self.lost: list[Delivery] = []
        self.heartbeat = Heartbeat(
            connect_blocking(url, name="heartbeat", timeout=2),
            KEYS,
            WorkerInfo(
                parts.consumer,
                fingerprint,
                revision,
                {"host": "h"},
                trust_digest=trust_digest,
                result_ttl=604_800,
                request_ttl=86_400,
            ),
            parts.in_flight,
            reclaim_after=RECLAIM_AFTER,
            on_lost=self.lost.append,
        )

    async def beat(self) -> None:
        await asyncio.to_thread(self.heartbeat.beat)
        await asyncio.sleep(0)  # what it found is reported to the event loop


@pytest.fixture
async def beating(make_parts: MakeParts, redis_url: str) -> Beating:
    parts = make_parts("me")
    await parts.inbox.create_groups()
    return Beating(parts, redis_url)


def janitor(parts: Components, *, ttl: int = 100, most: int = 1000, dead: int = 1000) -> Janitor:
    return Janitor(
        parts.broker, transcripts_ttl=ttl, transcripts_max=most, dead_max=dead,
    )  # fmt: skip
