"""The way of a request in one worker, on a real Redis, with a fake engine and a fake clock.

The engine is a fake because a test says when a transcription ends, and how. The clock stands still
until a test sets it.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sensestream_common.contract.keys import REQUESTS_GROUP
from sensestream_common.contract.request import Request, decode_request
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.audio import AudioPolicy, Fetcher
from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.processing.deadlines import Deadlines
from sensestream_consumer.processing.fetching import Fetching
from sensestream_consumer.processing.handler import Handler
from sensestream_consumer.processing.resolver import Resolution, Resolver
from sensestream_consumer.processing.slots import SlotPool, TooManyWaiters
from sensestream_consumer.processing.transcribing import Transcribing
from sensestream_consumer.telemetry.tracing import Tracing

from tests.consumer.conftest import KEYS, Components, MakeParts, submit
from tests.support.clips import write_clip

NOW = 1_000_000  # milliseconds since the epoch, by the fake clock


def request(**fields: Any) -> Request:
    return Request(**{"audio": "file:///a.wav", **fields})


def digest_of(reference: str) -> str:
    content = Path(reference.removeprefix("file://")).read_bytes()
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class FakeEngine:
    """Gives a numbered transcript for each recording, or raises the next of `errors`.

    `entered` is set once a recording is in it; after `hold` it stays there until `go` is set.
    """

    capacity = 2

    def __init__(self) -> None:
        self.calls = 0
        self.start_within: list[float | None] = []
        self.errors: list[Exception] = []
        self.entered = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    def hold(self) -> None:
        self.go.clear()

    async def transcribe(
        self, samples: Any, language: str, itn: bool, *, start_within: float | None = None
    ) -> Transcript:
        self.calls += 1
        self.start_within.append(start_within)
        text = f"transcript {self.calls}" if itn else f"transcript {self.calls} without itn"
        self.entered.set()
        await self.go.wait()
        if self.errors:
            raise self.errors.pop(0)
        return Transcript(text, language, duration=len(samples) / 16_000)


class Way:
    """The way of requests in the worker called `consumer`; the engine and the clock are fakes."""

    def __init__(
        self, parts: Components, folder: Path, *, slots: int = 4, waiters: int = 4
    ) -> None:
        self.parts = parts
        self.folder = folder
        self.now = NOW
        self.engine = FakeEngine()
        self.slots = SlotPool(slots, lambda: None)
        self.waiters = SlotPool(waiters, lambda: None, refusal=TooManyWaiters)
        policy = AudioPolicy(roots=(folder,))
        fetcher = Fetcher(policy, parts.redis, KEYS.upload_prefix)
        deadlines = Deadlines(lambda: self.now)
        engine: Any = self.engine
        self.fetching = Fetching(fetcher, deadlines)
        self.transcribing = Transcribing(
            engine=engine,
            cache=parts.cache,
            attempts=parts.attempts,
            slots=self.slots,
            policy=policy,
            deadlines=deadlines,
        )
        self.resolver = Resolver(
            cache=parts.cache,
            fetching=self.fetching,
            transcribing=self.transcribing,
            slots=self.slots,
            waiters=self.waiters,
            deadlines=deadlines,
            result_ttl=60,
            trust_digest=True,
        )
        self.handler = Handler(
            self.resolver,
            parts.outbox,
            parts.cache,
            clock=lambda: self.now,
            consumer=parts.consumer,
            model="fake",
            tracing=Tracing(KEYS, parts.consumer),
        )

    def clip(self, seed: int) -> str:
        return write_clip(self.folder, seed)

    async def deliver(self, audio: str, **fields: Any) -> Delivery:
        """Submit a request with a plain XADD, and read it."""
        await self.parts.inbox.create_groups()
        await submit(self.parts.redis, **{"audio": audio, **fields})
        [delivery] = await self.parts.read(1)
        return delivery

    async def resolve(self, audio: str, **fields: Any) -> Resolution:
        return await self.resolver.resolve(*await self.request(audio, **fields))

    async def request(self, audio: str, **fields: Any) -> tuple[Delivery, Request]:
        delivery = await self.deliver(audio, **fields)
        decoded = decode_request(delivery.entry, delivery.fields)
        assert isinstance(decoded, Request), decoded
        return delivery, decoded

    async def handle(self, audio: str, **fields: Any) -> dict[str, str]:
        """Handle a request; its outcome as it stands in the stream."""
        delivery = await self.deliver(audio, **fields)
        await self.handler.handle(delivery)
        return await self.outcome(delivery)

    async def outcome(self, delivery: Delivery) -> dict[str, str]:
        rows = await self.parts.redis.xrange(KEYS.transcripts)
        [outcome] = [fields for _, fields in rows if fields[b"entry"] == delivery.entry.encode()]
        return {name.decode(): value.decode() for name, value in outcome.items()}

    async def pending(self) -> int:
        summary = await self.parts.redis.xpending(KEYS.requests, REQUESTS_GROUP)
        return int(summary["pending"])

    async def leases(self) -> list[str]:
        return [key.decode() async for key in self.parts.redis.scan_iter(KEYS.lease("*"))]


@pytest.fixture
async def way(make_parts: MakeParts, tmp_path: Path) -> AsyncIterator[Way]:
    way = Way(make_parts("me"), tmp_path)
    yield way
    way.transcribing.close()


@pytest.fixture
async def other_way(make_parts: MakeParts, tmp_path: Path) -> AsyncIterator[Way]:
    """Another worker's, on the same Redis."""
    way = Way(make_parts("other"), tmp_path)
    yield way
    way.transcribing.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that would have been waited between tries; a fake clock lets none pass."""
    waited: list[float] = []

    async def wait(backoff: Any) -> None:
        waited.append(backoff.next())

    monkeypatch.setattr("sensestream_common.connections.retry.Backoff.wait", wait)
    return waited
