"""The way of a request to its answer.

    resolve_locally   the sender's digest in this worker's own memory; the commit checks it
    resolve
      1 look up       the sender's digest in Redis                      → cache hit, nothing is read
      2 fetch         the bytes, and their digest
      3 look up       the digest of the bytes in Redis                  → cache hit
      4 follow        a request in this worker that transcribes them    → coalesced
      5 lead          transcribe them: slot, attempt, decode, engine    → miss
          or wait     for the worker that holds the lease on the audio  → coalesced

Where the request that it followed, or the leaseholder, ends without an answer for others, a request
goes this way again.
"""

from __future__ import annotations

from dataclasses import dataclass

from sensestream_common.contract.alias import Alias, AudioWarning
from sensestream_common.contract.outcome import CacheUse
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Transcript

from sensestream_consumer.audio import Fetched
from sensestream_consumer.broker.deliveries import Delivery, Lease
from sensestream_consumer.broker.outbox import CacheWrite
from sensestream_consumer.cache.results import Cache, Cached, LeasedElsewhere, Lookup
from sensestream_consumer.processing.deadlines import Deadlines
from sensestream_consumer.processing.fetching import Fetching
from sensestream_consumer.processing.single_flight import (
    FlightCall,
    FlightKey,
    FlightResult,
    SingleFlight,
)
from sensestream_consumer.processing.slots import SlotPool, TooManyWaiters
from sensestream_consumer.processing.transcribing import Transcribed, Transcribing
from sensestream_consumer.telemetry.stages import Stage, timed

__all__ = ["Resolution", "Resolver"]


@dataclass(frozen=True, slots=True)
class Resolution:
    """A transcript, and what its commit writes to the cache; the commit takes the lease along.

    The warnings are those about the request's own bytes.
    """

    transcript: Transcript
    warnings: tuple[AudioWarning, ...]
    cache: CacheUse
    digest: str
    cache_write: CacheWrite
    lease: Lease | None = None


class Resolver:
    """Finds the transcript for a request, or makes it."""

    def __init__(
        self,
        *,
        cache: Cache,
        fetching: Fetching,
        transcribing: Transcribing,
        slots: SlotPool,
        waiters: SlotPool,
        deadlines: Deadlines,
        result_ttl: int,
        trust_digest: bool,
    ) -> None:
        """`slots` bounds the misses in hand, `waiters` the requests that wait for another's.

        `result_ttl` is in seconds.
        """
        self._cache = cache
        self._fetching = fetching
        self._transcribing = transcribing
        self._slots = slots
        self._waiters = waiters
        self._deadlines = deadlines
        self._result_ttl = result_ttl
        self._trust_digest = trust_digest
        self._flights = SingleFlight()

    def resolve_locally(self, request: Request) -> Resolution | None:
        """The answer that this worker has seen before for the digest that the sender names.

        The commit checks that Redis still keeps it (`CacheWrite.expected_sha1`).
        """
        if not (request.digest and self._trust_digest) or self._deadlines.passed(request):
            return None
        found = self._cache.find_locally(request.digest, request.language, request.itn)
        return self._cached(request, CacheUse.HIT, request.digest, found) if found else None

    async def resolve(self, delivery: Delivery, request: Request) -> Resolution:
        """The answer to a request.

        Raises `RequestError` when it has none, `AtCapacity` when it must go back to the stream,
        `DeliveryLost` when another worker owns it now.
        """
        while True:
            self._deadlines.check(request)
            if hit := await self._look_up_promised(request):
                return hit
            self._refuse_useless_fetch(request)
            with await self._fetching.fetch(request) as fetched:
                delivery.digest = digest = fetched.digest
                if hit := await self._look_up(request, digest):
                    return hit
                call = self._flights.get(_flight_key(request, digest))
                if call is None or request.ttl == 0:
                    return await self._lead(delivery, request, fetched)
            if coalesced := await self._follow(delivery, call, request, digest):
                return coalesced

    # -- the steps of `resolve` ---------------------------------------------------------------

    async def _look_up_promised(self, request: Request) -> Resolution | None:
        if not (request.digest and self._trust_digest):
            return None
        return await self._look_up(request, request.digest)

    async def _look_up(self, request: Request, digest: str) -> Resolution | None:
        found = await self._cache.find(digest, request.language, request.itn)
        return self._cached(request, CacheUse.HIT, digest, found) if found else None

    def _refuse_useless_fetch(self, request: Request) -> None:
        """Refuse a request that could only follow where all waiters' slots are taken.

        Its bytes would be read only to be dropped, again and again.
        """
        if self._waiters.available <= 0 and self._flights.has_reference(request.audio):
            raise TooManyWaiters

    async def _follow(
        self, delivery: Delivery, call: FlightCall, request: Request, digest: str
    ) -> Resolution | None:
        """The answer of a transcription under way in this worker; `None` to try again."""
        self._slots.cancel_reservation(delivery)
        with self._waiters.acquire(), timed(Stage.FOLLOW):
            async with self._deadlines.within(request):
                result = await call.wait()
        if result is None:
            return None
        found = Lookup(result.alias, result.transcript)
        return self._cached(request, CacheUse.COALESCED, digest, found)

    async def _lead(self, delivery: Delivery, request: Request, fetched: Fetched) -> Resolution:
        if request.ttl == 0:  # stores nothing and takes no lease, so there is nothing to lead
            _, resolution = await self._transcribe_or_wait(delivery, request, fetched)
            return resolution
        with self._flights.lead(_flight_key(request, fetched.digest), request.audio) as call:
            alias, resolution = await self._transcribe_or_wait(delivery, request, fetched)
            call.set_result(FlightResult(resolution.transcript, alias))
            return resolution

    async def _transcribe_or_wait(
        self, delivery: Delivery, request: Request, fetched: Fetched
    ) -> tuple[Alias, Resolution]:
        digest = fetched.digest
        while True:
            alias, end = await self._transcribing.transcribe(delivery, request, fetched)
            match end:
                case Transcribed():
                    return alias, self._miss(request, end, digest, alias)
                case Cached(transcript):
                    found = Lookup(alias, transcript)
                    return alias, self._cached(request, CacheUse.HIT, digest, found)
                case LeasedElsewhere():
                    if waited := await self._wait_for_leaseholder(request, alias):
                        return alias, self._cached(request, CacheUse.COALESCED, digest, waited)
            self._deadlines.check(request)

    async def _wait_for_leaseholder(self, request: Request, alias: Alias) -> Lookup | None:
        """The other worker's transcript of the same audio, which may be in other bytes."""
        identity = self._identity(request, alias.audio)
        with self._waiters.acquire(), timed(Stage.FOLLOW):
            async with self._deadlines.within(request):
                transcript = await self._cache.wait_for_leaseholder(identity)
        return Lookup(alias, transcript) if transcript is not None else None

    # -- their ends ---------------------------------------------------------------------------

    def _miss(
        self, request: Request, transcribed: Transcribed, digest: str, alias: Alias
    ) -> Resolution:
        transcript, identity = transcribed.transcript, self._identity(request, alias.audio)
        value = transcript.dumps()
        if request.ttl != 0:
            self._cache.put_locally(digest, alias, identity, transcript, value)
        write = CacheWrite(
            result=identity,
            transcript=value,
            alias=digest,
            alias_value=alias.encode(),
            ttl_ms=self._ttl_ms(request),
        )
        return Resolution(
            transcript, alias.warnings, CacheUse.MISS, digest, write, transcribed.lease
        )

    def _cached(self, request: Request, use: CacheUse, digest: str, found: Lookup) -> Resolution:
        """A transcript that Redis keeps already: its retention is prolonged."""
        write = CacheWrite(
            result=self._identity(request, found.alias.audio),
            alias=digest,
            alias_value=found.alias.encode(),
            ttl_ms=self._ttl_ms(request),
            expected_sha1=found.unchecked_sha1,
        )
        return Resolution(found.transcript, found.alias.warnings, use, digest, write)

    def _identity(self, request: Request, audio: str) -> str:
        return self._cache.identity(audio, request.language, request.itn)

    def _ttl_ms(self, request: Request) -> int:
        return (self._result_ttl if request.ttl is None else request.ttl) * 1000


def _flight_key(request: Request, digest: str) -> FlightKey:
    return (digest, request.language, request.itn)
