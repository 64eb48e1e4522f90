"""One request's way through the worker, from its stream entry to its outcome.

    request → audio (fetch, hash) → cache ─ hit ──────────────────────────→ outbox
                                      └ miss → start → decode → engine → outbox

Each step is a function here, and the parts it calls live in modules of their own.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog
from redis.exceptions import RedisError
from sensestream_common.connection import is_outage
from sensestream_common.errors import ErrorCode, RequestError, TransientError
from sensestream_common.outcome import CacheUse, Outcome, Status
from sensestream_common.request import BadRequest, Request, decode_request
from sensestream_common.transcript import Transcript

from sensestream_consumer.audio import (
    AudioPolicy,
    Fetched,
    Fetcher,
    audio_identity,
    decode,
    parse_reference,
)
from sensestream_consumer.backoff import Backoff
from sensestream_consumer.cache import Cache
from sensestream_consumer.engine import Engine
from sensestream_consumer.flights import Flight, Flights, Landing
from sensestream_consumer.holding import Held, Lease
from sensestream_consumer.outbox import Keep, Outbox
from sensestream_consumer.room import NoRoom, Places
from sensestream_consumer.starts import EntryLost, Starts

__all__ = ["Handler"]

log = structlog.get_logger(__name__)

_FETCH_TRIES = 4  # of a reference that is unavailable for the moment: about four seconds in all
_FETCHES = 16  # at once: bounds open files and sockets, and the memory behind them


@dataclass(frozen=True, slots=True)
class Answer:
    """A transcript on its way out, with what the commit shall keep of it."""

    transcript: Transcript
    cache: CacheUse
    digest: str
    keep: Keep
    lease: Lease | None = None


class _HeldElsewhere(Exception):
    """Another worker transcribes this identity: wait for it outside the engine's room."""

    def __init__(self, identity: str, audio: str) -> None:
        self.identity = identity
        self.audio = audio


class Handler:
    """Answers requests. One per worker; `handle` runs once for each entry held."""

    def __init__(
        self,
        *,
        cache: Cache,
        engine: Engine,
        fetcher: Fetcher,
        outbox: Outbox,
        starts: Starts,
        places: Places,
        following: Places,
        policy: AudioPolicy,
        clock: Callable[[], int],
        consumer: str,
        model: str,
        result_ttl: int,
        trust_digest: bool,
    ) -> None:
        self._cache = cache
        self._engine = engine
        self._fetcher = fetcher
        self._outbox = outbox
        self._starts = starts
        self._places = places
        self._following = following
        self._policy = policy
        self._clock = clock
        self._consumer = consumer
        self._model = model
        self._result_ttl = result_ttl
        self._trust_digest = trust_digest
        self._flights = Flights()
        self._references: Counter[str] = Counter()  # that are being transcribed here
        self._fetches = asyncio.Semaphore(_FETCHES)
        self._web_fetches = asyncio.Semaphore(_FETCHES)  # apart: a slow site holds up no file
        self._redis_away = Backoff()
        # Apart from asyncio's own threads, which a hung network disk may hold.
        self._decoders = ThreadPoolExecutor(engine.capacity, thread_name_prefix="decode")

    async def handle(self, held: Held) -> None:
        """Answer one entry with exactly one outcome.

        Raises `NoRoom` when it must go back to the stream, `EntryLost` when it is another's now.
        """
        picked_up = self._clock()
        request = decode_request(held.entry, held.fields)
        if isinstance(request, BadRequest):
            await self._fail(held, _outline_bad(held, request), request.error, picked_up)
            return
        outline = _outline(held, request)
        try:
            answer = await self._answer(held, request)
        except RequestError as error:
            await self._fail(held, outline, error, picked_up, request)
        except (NoRoom, EntryLost):
            raise
        except Exception as error:
            log.exception("request_failed_inside", entry=held.entry)
            mistake = RequestError(
                ErrorCode.INTERNAL,
                f"the worker failed on it ({type(error).__name__}): its log tells more; "
                "replay the dead letter once that is mended",
            )
            await self._fail(held, outline, mistake, picked_up, request)
        else:
            await self._complete(held, request, outline, answer, picked_up)

    def close(self) -> None:
        self._decoders.shutdown(wait=False, cancel_futures=True)

    # -- looking for the answer ---------------------------------------------------------------

    async def _answer(self, held: Held, request: Request) -> Answer:
        while True:
            self._check_deadline(request)
            if hit := await self._look_up_promised(request):
                return hit
            self._refuse_crowd(request)
            with await self._fetch(held, request) as fetched:
                if hit := await self._look_up(request, fetched.digest):
                    return hit
                flight = self._flights.get(_flight_key(request, fetched.digest))
                if flight is None or request.ttl == 0:
                    return await self._lead(held, request, fetched)
                digest = fetched.digest
            if answer := await self._follow(flight, request, digest):
                return answer

    def _check_deadline(self, request: Request) -> None:
        if request.deadline is not None and self._clock() > request.deadline:
            raise _expired(request)

    def _time_left(self, request: Request) -> float | None:
        """Seconds until the deadline; `None` without one."""
        return None if request.deadline is None else (request.deadline - self._clock()) / 1000

    @contextmanager
    def _expiring(self, request: Request) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise _expired(request) from None

    async def _look_up_promised(self, request: Request) -> Answer | None:
        """A hit by the digest that the sender names: the audio is not even read."""
        if not (request.digest and self._trust_digest):
            return None
        return await self._look_up(request, request.digest)

    async def _look_up(self, request: Request, digest: str) -> Answer | None:
        found = await self._cache.find(digest, request.language, request.itn)
        if found.transcript is None:
            return None
        return self._repeat(request, found.transcript, CacheUse.HIT, digest, found.audio)

    def _refuse_crowd(self, request: Request) -> None:
        """Before anything is read: when all following places are taken, and this reference is
        being transcribed, its bytes would be read only to be dropped, again and again.
        """
        if self._following.free <= 0 and self._references[request.audio]:
            raise NoRoom

    async def _fetch(self, held: Held, request: Request) -> Fetched:
        """The referenced bytes, hashed; what is unavailable for the moment is tried again."""
        fetched = await self._fetch_patiently(request)
        held.digest = fetched.digest
        if request.digest and request.digest != fetched.digest:
            fetched.close()
            raise RequestError(
                ErrorCode.DIGEST_MISMATCH,
                f"digest={request.digest} was promised, but the bytes read have "
                f"{fetched.digest}: send the digest of these bytes, or none",
            )
        return fetched

    async def _fetch_patiently(self, request: Request) -> Fetched:
        fetches = self._web_fetches if request.audio.startswith("http") else self._fetches
        backoff = Backoff(first=0.5, longest=4.0)
        while True:
            try:
                async with fetches:
                    return await self._fetcher.fetch(request.audio)
            except TransientError:
                if backoff.failures + 1 >= _FETCH_TRIES:
                    raise
                await backoff.wait()
            except RedisError as error:  # audio in Redis, which is away: as long as that takes
                if not is_outage(error):
                    raise
                await self._redis_away.wait()
            self._check_deadline(request)

    async def _follow(self, flight: Flight, request: Request, digest: str) -> Answer | None:
        """The answer of a transcription under way in this worker, holding no engine room."""
        with self._following.place(), self._expiring(request):
            async with asyncio.timeout(self._time_left(request)):
                landing = await flight.follow()
        if landing is None:
            return None
        return self._repeat(request, landing.transcript, CacheUse.COALESCED, digest, landing.audio)

    # -- transcribing -------------------------------------------------------------------------

    async def _lead(self, held: Held, request: Request, fetched: Fetched) -> Answer:
        if request.ttl == 0:  # stores nothing and takes no lease, so there is nothing to lead
            return await self._transcribe(held, request, fetched)
        self._references[request.audio] += 1
        try:
            with self._flights.lead(_flight_key(request, fetched.digest)) as flight:
                answer = await self._lead_or_wait(held, request, fetched)
                flight.land(Landing(answer.transcript, answer.keep.alias_of))
                return answer
        finally:
            self._references[request.audio] -= 1
            if not self._references[request.audio]:
                del self._references[request.audio]

    async def _lead_or_wait(self, held: Held, request: Request, fetched: Fetched) -> Answer:
        while True:
            try:
                return await self._transcribe(held, request, fetched)
            except _HeldElsewhere as other:
                with self._following.place(), self._expiring(request):
                    async with asyncio.timeout(self._time_left(request)):
                        transcript = await self._cache.await_other(other.identity)
                if transcript is not None:
                    return self._repeat(
                        request, transcript, CacheUse.COALESCED, fetched.digest, other.audio
                    )
            self._check_deadline(request)

    async def _transcribe(self, held: Held, request: Request, fetched: Fetched) -> Answer:
        with self._places.place():
            async with self._starts.start(held, request.id, fetched.digest):
                self._check_deadline(request)
                return await self._hear(request, fetched)

    async def _hear(self, request: Request, fetched: Fetched) -> Answer:
        """Decode and recognise, unless these samples turn out to be known, or another's to hear."""
        loop = asyncio.get_running_loop()
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
        try:
            if transcript is not None:
                return replace(
                    self._repeat(request, transcript, CacheUse.HIT, fetched.digest, audio),
                    lease=lease,
                )
            transcript = await self._engine.transcribe(samples, request.language, request.itn)
        except BaseException:
            if lease is not None:
                await self._cache.release(lease)
            raise
        keep = Keep(
            result=identity,
            transcript=transcript.dumps(),
            alias=fetched.digest,
            alias_of=audio,
            ttl_ms=self._ttl_ms(request, self._result_ttl),
        )
        return Answer(transcript, CacheUse.MISS, fetched.digest, keep, lease)

    def _repeat(
        self, request: Request, transcript: Transcript, use: CacheUse, digest: str, audio: str
    ) -> Answer:
        keep = Keep(
            result=self._cache.identity(audio, request.language, request.itn),
            alias=digest,
            alias_of=audio,
            ttl_ms=self._ttl_ms(request, self._result_ttl),
        )
        return Answer(transcript, use, digest, keep)

    def _ttl_ms(self, request: Request, default: int) -> int:
        return (default if request.ttl is None else request.ttl) * 1000

    # -- answering ----------------------------------------------------------------------------

    async def _complete(
        self, held: Held, request: Request, outline: Outcome, answer: Answer, picked_up: int
    ) -> None:
        outcome = replace(
            outline.with_transcript(answer.transcript),
            cache=answer.cache,
            digest=answer.digest,
            model=self._model,
            started_at=picked_up,
            finished_at=self._clock(),
            worker=self._consumer,
            attempt=held.attempt if answer.cache is CacheUse.MISS else 0,
        )
        committed = False
        try:
            committed = await self._outbox.commit(
                held, outcome,
                keep=answer.keep, lease=answer.lease, callback_url=request.callback_url,
            )  # fmt: skip
        finally:
            if not committed and answer.lease is not None:
                await self._cache.release(answer.lease)
        _log_outcome(outcome, committed)

    async def _fail(
        self, held: Held, outline: Outcome, error: RequestError, picked_up: int,
        request: Request | BadRequest | None = None,
    ) -> None:  # fmt: skip
        outcome = replace(
            outline,
            status=Status.FAILED,
            error=error.code,
            # A file name that is no UTF-8 may stand in it, and could not be sent.
            message=error.message.encode("utf-8", "replace").decode(),
            digest=held.digest,
            started_at=picked_up,
            finished_at=self._clock(),
            worker=self._consumer,
            attempt=held.attempt,
        )
        callback = request.callback_url if request else ""
        _log_outcome(outcome, await self._outbox.commit(held, outcome, callback_url=callback))


def _expired(request: Request) -> RequestError:
    return RequestError(
        ErrorCode.EXPIRED,
        f"deadline={request.deadline} had passed before it was transcribed: "
        "send it again with a later one, or add workers",
    )


def _flight_key(request: Request, digest: str) -> tuple[str, str, bool]:
    return (digest, request.language, request.itn)


def _outline(held: Held, request: Request) -> Outcome:
    """The part of an outcome that only echoes its request."""
    return Outcome(
        id=request.id,
        entry=held.entry,
        status=Status.COMPLETED,
        audio=_echo(request.audio),
        submitted_at=request.submitted_at,
        metadata=request.metadata,
        traceparent=request.traceparent,
    )


def _outline_bad(held: Held, request: BadRequest) -> Outcome:
    return Outcome(
        id=request.id,
        entry=held.entry,
        status=Status.FAILED,
        audio=_echo(request.audio),
        submitted_at=request.submitted_at,
        metadata=request.metadata,
        traceparent=request.traceparent,
    )


def _echo(audio: str) -> str:
    """The reference as outcomes repeat it: whole, but without secrets and without its bytes."""
    if audio.startswith(("file:", "redis:")) or not audio:
        return audio
    try:
        return parse_reference(audio).display
    except RequestError:
        return audio.partition(":")[0] + ":…"


def _log_outcome(outcome: Outcome, committed: bool) -> None:
    """The one canonical line per request."""
    log.info(
        "request_answered" if committed else "request_answered_by_another",
        id=outcome.id,
        entry=outcome.entry,
        audio=outcome.audio[:300],
        status=outcome.status.value,
        cache=outcome.cache and outcome.cache.value,
        error=outcome.error and outcome.error.value,
        message=outcome.message or None,
        language=outcome.language or None,
        duration=outcome.duration,
        attempt=outcome.attempt,
        waited_ms=(outcome.started_at or 0) - (outcome.submitted_at or 0),
        took_ms=(outcome.finished_at or 0) - (outcome.started_at or 0),
    )
