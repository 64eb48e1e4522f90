"""Finding the answer to a request: remembered, joined, or heard anew.

fetch, hash → cache ─ hit ───────────────────────────────→ answer
                └ miss → start → decode → engine ────────→ answer
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from sensestream_common.contract.outcome import CacheUse
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Transcript

from sensestream_consumer.audio import AudioPolicy, Fetched, Fetcher, audio_identity, decode
from sensestream_consumer.broker.deliveries import Delivery, Lease
from sensestream_consumer.broker.outbox import CacheWrite
from sensestream_consumer.cache.results import Cache
from sensestream_consumer.engine import Engine
from sensestream_consumer.processing.attempts import Attempts
from sensestream_consumer.processing.deadlines import Deadlines
from sensestream_consumer.processing.fetching import Fetching
from sensestream_consumer.processing.single_flight import FlightCall, FlightResult, SingleFlight
from sensestream_consumer.processing.slots import SlotPool, TooManyWaiters
from sensestream_consumer.processing.transcribing import Hearing
from sensestream_consumer.telemetry.stages import Stage, timed

__all__ = ["Resolution", "Resolver"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """A transcript on its way out, with what the commit shall keep of it."""

    transcript: Transcript
    cache: CacheUse
    digest: str
    keep: CacheWrite
    lease: Lease | None = None


class _HeldElsewhere(Exception):
    """Another worker transcribes this identity: wait for it outside the engine's room."""

    def __init__(self, identity: str, audio: str) -> None:
        self.identity = identity
        self.audio = audio


class Resolver:
    """Where answers come from. `places` bounds misses in hand, `following` who waits for one."""

    def __init__(
        self,
        *,
        cache: Cache,
        engine: Engine,
        fetcher: Fetcher,
        starts: Attempts,
        places: SlotPool,
        following: SlotPool,
        policy: AudioPolicy,
        clock: Callable[[], int],
        result_ttl: int,
        trust_digest: bool,
    ) -> None:
        self._cache = cache
        self._starts = starts
        self._places = places
        self._following = following
        self._policy = policy
        self._result_ttl = result_ttl
        self._trust_digest = trust_digest
        self._deadlines = Deadlines(clock)
        self._fetching = Fetching(fetcher, self._deadlines)
        self._hearing = Hearing(engine, self._deadlines)
        self._flights = SingleFlight()
        self._references: Counter[str] = Counter()  # that are being transcribed here
        # Apart from asyncio's own threads, which a hung network disk may hold.
        self._decoders = ThreadPoolExecutor(engine.capacity, thread_name_prefix="decode")

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def find(self, held: Delivery, request: Request) -> Resolution:
        """The answer to a request.

        Raises `RequestError` when it has none, `AtCapacity` when it must go back to the stream,
        `DeliveryLost` when it is another's now.
        """
        while True:
            self._deadlines.check(request)
            if hit := await self._look_up_promised(request):
                return hit
            self._refuse_crowd(request)
            with await self._fetching.fetch(request) as fetched:
                held.digest = fetched.digest
                if hit := await self._look_up(request, fetched.digest):
                    return hit
                flight = self._flights.get(_flight_key(request, fetched.digest))
                if flight is None or request.ttl == 0:
                    return await self._lead(held, request, fetched)
                digest = fetched.digest
            if answer := await self._follow(held, flight, request, digest):
                return answer

    def recall(self, request: Request) -> Resolution | None:
        """The answer that this worker has given before to the digest that the sender names.

        Whether it still holds is seen by the commit (`CacheWrite.expected_sha1`).
        """
        if not (request.digest and self._trust_digest) or self._deadlines.passed(request):
            return None
        found = self._cache.recall(request.digest, request.language, request.itn)
        if found is None:
            return None
        audio, known = found
        return self._repeat(
            request, known.transcript, CacheUse.HIT, request.digest, audio, known.checksum
        )

    async def _look_up_promised(self, request: Request) -> Resolution | None:
        """A hit by the digest that the sender names: the audio is not even read."""
        if not (request.digest and self._trust_digest):
            return None
        return await self._look_up(request, request.digest)

    async def _look_up(self, request: Request, digest: str) -> Resolution | None:
        found = await self._cache.find(digest, request.language, request.itn)
        if found.transcript is None:
            return None
        return self._repeat(request, found.transcript, CacheUse.HIT, digest, found.audio)

    def _refuse_crowd(self, request: Request) -> None:
        """Before anything is read: when all following places are taken, and this reference is
        being transcribed, its bytes would be read only to be dropped, again and again.
        """
        if self._following.free <= 0 and self._references[request.audio]:
            raise TooManyWaiters

    async def _follow(
        self, held: Delivery, flight: FlightCall, request: Request, digest: str
    ) -> Resolution | None:
        """The answer of a transcription under way in this worker, holding no engine room."""
        self._places.let_go(held)
        with self._following.place(), timed(Stage.FOLLOW):
            async with self._deadlines.within(request):
                landing = await flight.follow()
        if landing is None:
            return None
        return self._repeat(request, landing.transcript, CacheUse.COALESCED, digest, landing.audio)

    async def _lead(self, held: Delivery, request: Request, fetched: Fetched) -> Resolution:
        if request.ttl == 0:  # stores nothing and takes no lease, so there is nothing to lead
            return await self._transcribe(held, request, fetched)
        self._references[request.audio] += 1
        try:
            with self._flights.lead(_flight_key(request, fetched.digest)) as flight:
                answer = await self._lead_or_wait(held, request, fetched)
                flight.land(FlightResult(answer.transcript, answer.keep.alias_of))
                return answer
        finally:
            self._references[request.audio] -= 1
            if not self._references[request.audio]:
                del self._references[request.audio]

    async def _lead_or_wait(self, held: Delivery, request: Request, fetched: Fetched) -> Resolution:
        while True:
            try:
                return await self._transcribe(held, request, fetched)
            except _HeldElsewhere as other:
                with self._following.place(), timed(Stage.FOLLOW):
                    async with self._deadlines.within(request):
                        transcript = await self._cache.await_other(other.identity)
                if transcript is not None:
                    return self._repeat(
                        request, transcript, CacheUse.COALESCED, fetched.digest, other.audio
                    )
            self._deadlines.check(request)

    async def _transcribe(self, held: Delivery, request: Request, fetched: Fetched) -> Resolution:
        with self._places.place(held):
            async with self._starts.start(held, request.id, fetched.digest):
                self._deadlines.check(request)
                return await self._hear(held, request, fetched)

    async def _hear(self, held: Delivery, request: Request, fetched: Fetched) -> Resolution:
        """Decode and recognise, unless these samples turn out to be known, or another's to hear."""
        loop = asyncio.get_running_loop()
        with timed(Stage.DECODE):
            samples = await loop.run_in_executor(self._decoders, decode, fetched, self._policy)
            audio = await loop.run_in_executor(self._decoders, audio_identity, samples)
        identity = self._cache.identity(audio, request.language, request.itn)
        lease: Lease | None = None
        if request.ttl == 0:
            transcript = await self._cache.result(identity)
        else:
            lease, elsewhere, transcript = await self._cache.acquire(identity)
            if transcript is None and elsewhere:
                raise _HeldElsewhere(identity, audio)
        held.lease = lease
        try:
            if transcript is not None:
                return replace(
                    self._repeat(request, transcript, CacheUse.HIT, fetched.digest, audio),
                    lease=lease,
                )
            transcript = await self._hearing.transcribe(samples, request)
        except BaseException:
            if lease is not None:
                await self._cache.release(lease)
            raise
        value = transcript.dumps()
        if request.ttl != 0:
            self._cache.learn(fetched.digest, audio, identity, transcript, value)
        keep = CacheWrite(
            result=identity,
            transcript=value,
            alias=fetched.digest,
            alias_of=audio,
            ttl_ms=self._ttl_ms(request, self._result_ttl),
        )
        return Resolution(transcript, CacheUse.MISS, fetched.digest, keep, lease)

    def _repeat(
        self, request: Request, transcript: Transcript, use: CacheUse, digest: str, audio: str,
        expected: str = "",
    ) -> Resolution:  # fmt: skip
        keep = CacheWrite(
            result=self._cache.identity(audio, request.language, request.itn),
            alias=digest,
            alias_of=audio,
            ttl_ms=self._ttl_ms(request, self._result_ttl),
            expected_sha1=expected,
        )
        return Resolution(transcript, use, digest, keep)

    def _ttl_ms(self, request: Request, default: int) -> int:
        return (default if request.ttl is None else request.ttl) * 1000


def _flight_key(request: Request, digest: str) -> tuple[str, str, bool]:
    return (digest, request.language, request.itn)
