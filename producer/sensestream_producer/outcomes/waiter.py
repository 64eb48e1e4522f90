"""Waiting for outcomes: one reader of the stream serves every caller that waits.

The reader looks at each entry once and offers it to the waiters of its request id. A waiter is
registered before its request is submitted, so that no outcome can come too soon. Until the reply
to the submit names the entry that was added, outcomes are only kept:

    registered ────── the submit is under way ──────► accept(entry) ──────► the outcome is known
                      offer(outcome): kept as early     early and later offers are
                                                        compared with the entry

The comparison matters because an id may have been used before: an early outcome may belong to
the earlier request. A caller that knows only an id accepts the outcome of any entry ("").

The reader alone may miss an outcome: after a failover Redis gives ids below the reader's position.
So every few seconds it checks its position against the stream, and the keys of the requests
that are waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sensestream_common.connections.connection import BLOCK_SECONDS
from sensestream_common.connections.retry import Backoff
from sensestream_common.contract.errors import SensestreamError, WaitTimeout
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome, outcome_from_entry

from sensestream_producer.outcomes.stream_ids import (
    ORIGIN,
    Entry,
    StreamId,
    entries,
    id_text,
    last_id,
    parse_id,
)
from sensestream_producer.submit.submission import Receipt, RequestState
from sensestream_producer.transport import RedisTransport, is_retryable, raise_if_cancelled

__all__ = ["OutcomeWaiter", "Waiter", "closed_meanwhile", "no_longer_kept", "not_kept"]

_CHECK_SECONDS = 3.0  # between checks for outcomes that the reader has missed
_LINGER_SECONDS = 10.0  # the reader's life after the last waiter, for the next one to come
_CANCEL_AGAIN_SECONDS = 0.05
_COUNT = 512  # entries of one read

log = structlog.get_logger("sensestream.client")


class Waiter:
    """One caller that waits for the outcome of the request `id`."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.entry: str | None = None  # not known yet; "" for any
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._early: list[Outcome] = []

    def offer(self, outcome: Outcome) -> None:
        """Take an outcome with this id if it answers the entry; keep it while that is unknown."""
        if self.entry is None:
            self._early.append(outcome)
        elif self.entry in ("", outcome.entry) and not self.outcome.done():
            self.outcome.set_result(outcome)

    def accept(self, entry: str) -> None:
        """From now on the outcome of this entry counts; of any entry if it is empty."""
        self.entry = entry
        early, self._early = self._early, []
        for outcome in early:
            self.offer(outcome)

    def fail(self, error: SensestreamError) -> None:
        """End the wait with an error, unless the outcome has come."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class OutcomeWaiter:
    """Waits for outcomes, with one reader on a connection of its own while anyone waits.

    Every wait lasts until its outcome comes: callers limit it with a timeout. It raises
    `WaitTimeout` for an outcome that is no longer kept, and what `RedisTransport.run` raises.
    """

    def __init__(self, link: RedisTransport, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._waiters: dict[bytes, list[Waiter]] = {}
        self._position: StreamId = ORIGIN
        self._ready: asyncio.Future[None] | None = None  # done when the position is known
        self._reader: asyncio.Task[None] | None = None
        self._closed = False

    async def wait_after_submit(
        self, request_id: str, submit: Callable[[], Awaitable[Receipt]]
    ) -> Outcome:
        """Submit a request with this id, and wait for its outcome."""
        async with self._registered(request_id) as waiter:
            receipt = await submit()
            waiter.accept(receipt.entry)
            return await self._outcome(waiter, receipt)

    async def wait_from_entry(self, receipt: Receipt) -> Outcome:
        """Wait for the outcome of a request that was submitted before, by its entry."""
        async with self._registered(receipt.id) as waiter:
            waiter.accept(receipt.entry)
            if receipt.state != RequestState.DONE:
                await self._link.run(lambda: self._check_entry(waiter, receipt.entry))
            return await self._outcome(waiter, receipt)

    async def wait_for_known_id(self, request_id: str) -> Outcome:
        """Wait for the outcome that a request has, or for its next; only the id is known."""
        async with self._registered(request_id) as waiter:
            waiter.accept("")
            await self._link.run(lambda: self._check_keys([waiter]))
            return await waiter.outcome

    async def close(self) -> None:
        """End the reader, and every wait with an error."""
        self._closed = True
        if reader := self._reader:
            while self._reader is reader and not reader.done():
                reader.cancel()  # more than once: Python 3.11 may drop one (`raise_if_cancelled`)
                await asyncio.wait([reader], timeout=_CANCEL_AGAIN_SECONDS)
            await asyncio.gather(reader, return_exceptions=True)
        self._fail_all(closed_meanwhile())

    @asynccontextmanager
    async def _registered(self, request_id: str) -> AsyncIterator[Waiter]:
        """A waiter to which every outcome is offered that is written from now on."""
        waiter = Waiter(request_id)
        key = request_id.encode()
        waiters = self._waiters.setdefault(key, [])
        waiters.append(waiter)
        try:
            await self._start()
            yield waiter
        finally:
            waiters.remove(waiter)
            if not waiters and self._waiters.get(key) is waiters:
                del self._waiters[key]
            if waiter.outcome.done() and not waiter.outcome.cancelled():
                waiter.outcome.exception()  # asyncio logs exceptions that are never retrieved

    async def _outcome(self, waiter: Waiter, receipt: Receipt) -> Outcome:
        """What the receipt carries or names, or else what the reader will find."""
        if receipt.answer is not None:
            return receipt.answer
        if receipt.state != RequestState.DONE:
            return await waiter.outcome
        kept = await self._link.run(
            lambda: entries(
                self._link.redis, self._keys.transcripts, receipt.outcome, receipt.outcome
            )
        )
        if not kept:
            raise no_longer_kept(receipt.id, receipt.outcome)
        return outcome_from_entry(kept[0][1])

    # -- the reader ---------------------------------------------------------------------------

    async def _start(self) -> None:
        """Return when the reader knows its position; start it where none runs."""
        if self._closed:
            raise closed_meanwhile()
        if self._reader is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._reader = asyncio.create_task(self._run(self._ready), name="sensestream-wait")
        if self._ready is not None:
            await asyncio.shield(self._ready)  # shared: one caller's cancellation must not end it

    async def _run(self, ready: asyncio.Future[None]) -> None:
        redis = self._link.reader("wait")
        try:
            self._position = await self._link.run(
                lambda: last_id(self._link.redis, self._keys.transcripts)
            )
            ready.set_result(None)
            await self._read(redis)
        except SensestreamError as error:
            self._fail_all(error)
        except Exception as error:
            self._fail_all(self._link.translate(error))
        finally:
            self._reader = None
            await redis.aclose()

    async def _read(self, redis: Redis) -> None:
        """Read and check in turns, across outages, until no one has waited for a while."""
        backoff = Backoff()
        needed = time.monotonic()
        check_at = needed + _CHECK_SECONDS
        while self._waiters or time.monotonic() < needed + _LINGER_SECONDS:
            if self._waiters:
                needed = time.monotonic()
            try:
                self._deliver(await raise_if_cancelled(self._next(redis), 0))
                if time.monotonic() >= check_at:
                    await raise_if_cancelled(self._check(redis), 0)
                    check_at = time.monotonic() + _CHECK_SECONDS
            except (RedisError, OSError) as error:
                if not is_retryable(error):
                    raise
                await backoff.wait()
            else:
                backoff.reset()

    async def _next(self, redis: Redis) -> list[Entry]:
        reply: Any = await redis.xread(
            {self._keys.transcripts: id_text(self._position)},
            count=_COUNT,
            block=round(BLOCK_SECONDS * 1000),
        )
        return reply[0][1] if reply else []

    def _deliver(self, news: list[Entry]) -> None:
        for entry, raw in news:
            self._position = parse_id(entry)
            waiters = self._waiters.get(raw.get(b"id", b""))
            if not waiters:  # another client's: not worth decoding
                continue
            try:
                outcome = outcome_from_entry(raw, defer=True)
            except SensestreamError as error:
                log.warning("foreign entry skipped", entry=entry.decode(), reason=str(error))
                continue
            for waiter in waiters:
                waiter.offer(outcome)

    # -- what the reader may have missed ------------------------------------------------------

    async def _check(self, redis: Redis) -> None:
        """Go back to the stream's last id if that is below the position, and look at the keys."""
        self._position = min(self._position, await last_id(redis, self._keys.transcripts))
        waiters = [waiter for several in self._waiters.values() for waiter in several]
        await self._check_keys([waiter for waiter in waiters if waiter.entry is not None])

    async def _check_keys(self, waiters: list[Waiter]) -> None:
        """Offer the outcomes that the requests' keys name; fail those no longer kept."""
        async with self._link.redis.pipeline(transaction=False) as pipe:
            for waiter in waiters:
                pipe.hmget(self._keys.request(waiter.id), "state", "outcome")
            answers = await pipe.execute()
            done = [
                (waiter, outcome)
                for waiter, (state, outcome) in zip(waiters, answers, strict=True)
                if state == RequestState.DONE.encode() and outcome
            ]
            for _, outcome in done:
                pipe.xrange(self._keys.transcripts, outcome, outcome)
            found = await pipe.execute()
        for (waiter, outcome), kept in zip(done, found, strict=True):
            if not kept:
                waiter.fail(not_kept(waiter.id, outcome.decode()))
                continue
            try:
                waiter.offer(outcome_from_entry(kept[0][1]))
            except SensestreamError as error:
                waiter.fail(error)

    async def _check_entry(self, waiter: Waiter, entry: str) -> None:
        """Offer the outcome of an entry, though its id may belong to another request by now."""
        since = f"{parse_id(entry)[0]}"  # an outcome is never older than its request
        for _, raw in await entries(self._link.redis, self._keys.transcripts, since):
            if raw.get(b"entry") == entry.encode():
                waiter.offer(outcome_from_entry(raw, defer=True))

    def _fail_all(self, error: SensestreamError) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # asyncio logs exceptions that are never retrieved
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.fail(error)


def no_longer_kept(request_id: str, outcome: str) -> WaitTimeout:
    """The error for a submit of an answered id whose outcome has been trimmed."""
    return WaitTimeout(
        f"the request {request_id!r} has been answered, and its outcome {outcome} is no longer "
        "kept (setting SENSESTREAM_TRANSCRIPTS_TTL): submit it under another id"
    )


def not_kept(request_id: str, outcome: str) -> WaitTimeout:
    """The error for a wait by id whose outcome has been trimmed."""
    return WaitTimeout(f"the outcome {outcome} of {request_id!r} is not kept")


def closed_meanwhile() -> SensestreamError:
    """The error of a wait that the end of the client cuts short."""
    return SensestreamError("the client was closed during a wait")
