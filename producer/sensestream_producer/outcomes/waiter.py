"""One reader of the outcomes for all who wait: each outcome is read once and handed on by id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
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

_LOOK_SECONDS = 3.0  # between looks at the request keys, should the tail have missed something
_LINGER_SECONDS = 10.0  # how long the reader goes on when nobody waits, for the next to come
_COUNT = 512

log = structlog.get_logger("sensestream.client")


class Waiter:
    """An outcome that somebody waits for.

    Before `entry` is known (the submit is still under way) what comes is only kept: the id may
    belong to an earlier request too.
    """

    def __init__(self, request_id: str) -> None:
        self.id = request_id
        self.entry: str | None = None
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._early: list[Outcome] = []

    def offer(self, outcome: Outcome) -> None:
        if self.entry is None:
            self._early.append(outcome)
        elif self.entry in ("", outcome.entry) and not self.outcome.done():
            self.outcome.set_result(outcome)

    def accept(self, entry: str) -> None:
        """From now on the outcome of this entry counts; of any with the id, if it is empty."""
        self.entry = entry
        early, self._early = self._early, []
        for outcome in early:
            self.offer(outcome)

    def fail(self, error: SensestreamError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)


class OutcomeWaiter:
    """Reads the outcomes as they come, on a connection of its own, while anybody waits."""

    def __init__(self, link: RedisTransport, keys: Keys) -> None:
        self._link = link
        self._keys = keys
        self._expected: dict[bytes, list[Waiter]] = {}
        self._position: StreamId = (0, 0)
        self._ready: asyncio.Future[None] | None = None  # done when it is known where to begin
        self._reader: asyncio.Task[None] | None = None
        self._looker: asyncio.Task[None] | None = None
        self._closed = False

    @asynccontextmanager
    async def expecting(self, request_id: str) -> AsyncIterator[Waiter]:
        """Outcomes written from now on reach the `Waiter`: submit only inside this block."""
        expected = Waiter(request_id)
        waiting = self._expected.setdefault(request_id.encode(), [])
        waiting.append(expected)
        try:
            await self._start()
            yield expected
        finally:
            waiting.remove(expected)
            if not waiting and self._expected.get(request_id.encode()) is waiting:
                del self._expected[request_id.encode()]
            if expected.outcome.done() and not expected.outcome.cancelled():
                expected.outcome.exception()  # seen: nobody need be told that it was not awaited

    async def settle(self, expected: Waiter, receipt: Receipt) -> Outcome:
        """The outcome of the request that was just submitted."""
        expected.accept(receipt.entry)
        if receipt.answer is not None:
            return receipt.answer
        if receipt.state == RequestState.DONE:
            return await self.fetch(receipt.id, receipt.outcome)
        return await expected.outcome

    async def catch_up(self, expected: Waiter, receipt: Receipt) -> Outcome:
        """The same for a request that was submitted before anybody expected its outcome."""
        if receipt.state != RequestState.DONE:
            expected.accept(receipt.entry)
            await self._link.run(lambda: self._look_back(expected, receipt.entry))
        return await self.settle(expected, receipt)

    async def look_up(self, expected: Waiter) -> Outcome:
        """The outcome of a request submitted before: the one it has, or else the next."""
        expected.accept("")
        await self._link.run(lambda: self._look([expected]))
        return await expected.outcome

    async def fetch(self, request_id: str, outcome: str) -> Outcome:
        """The outcome with this stream id; `WaitTimeout` when it is no longer kept."""
        found = await self._link.run(
            lambda: entries(self._link.redis, self._keys.transcripts, outcome, outcome)
        )
        if not found:
            raise no_longer_kept(request_id, outcome)
        return outcome_from_entry(found[0][1])

    async def close(self) -> None:
        self._closed = True
        tasks = [task for task in (self._reader, self._looker) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail_all(closed_meanwhile())

    async def _start(self) -> None:
        if self._closed:
            raise closed_meanwhile()
        if self._reader is None:
            self._ready = asyncio.get_running_loop().create_future()
            self._reader = asyncio.create_task(self._read(self._ready), name="sensestream-tail")
        if self._ready is not None:
            await asyncio.shield(self._ready)  # one of several may be cancelled
        if self._looker is None:
            self._looker = asyncio.create_task(self._keep_looking(), name="sensestream-look")

    async def _read(self, ready: asyncio.Future[None]) -> None:
        """Until nobody has waited for a while."""
        redis = self._link.reader("tail")
        try:
            self._position = await self._link.run(
                lambda: last_id(self._link.redis, self._keys.transcripts)
            )
            ready.set_result(None)
            await self._follow(redis)
        except SensestreamError as error:
            self._fail_all(error)
        except Exception as error:
            self._fail_all(self._link.translate(error))
        finally:
            self._reader = None
            await redis.aclose()

    async def _follow(self, redis: Redis) -> None:
        backoff = Backoff()
        needed = time.monotonic()
        while self._expected or time.monotonic() < needed + _LINGER_SECONDS:
            if self._expected:
                needed = time.monotonic()
            try:
                news = await raise_if_cancelled(self._next(redis), 0)
            except (RedisError, OSError) as error:
                if not is_retryable(error):
                    raise
                await backoff.wait()
            else:
                backoff.reset()
                self._deliver(news)

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
            waiting = self._expected.get(raw.get(b"id", b""))
            if not waiting:  # somebody else's: not worth decoding
                continue
            try:
                outcome = outcome_from_entry(raw)
            except SensestreamError as error:
                log.warning("foreign entry skipped", entry=entry.decode(), reason=str(error))
                continue
            for expected in waiting:
                expected.offer(outcome)

    async def _keep_looking(self) -> None:
        try:
            while self._expected:
                await asyncio.sleep(_LOOK_SECONDS)
                waiting = [one for several in self._expected.values() for one in several]
                try:
                    await raise_if_cancelled(self._rewind(), 0)
                    known = [one for one in waiting if one.entry is not None]
                    await raise_if_cancelled(self._look(known), 0)
                except (RedisError, OSError) as error:
                    if not is_retryable(error):
                        self._fail_all(self._link.translate(error))
        finally:
            self._looker = None

    async def _rewind(self) -> None:
        """After a failover or a FLUSHALL new outcomes may have ids below the position."""
        before = self._position
        last = await last_id(self._link.redis, self._keys.transcripts)
        if last < before:
            self._position = last

    async def _look(self, waiting: list[Waiter]) -> None:
        """Offer the outcomes that the request keys name."""
        async with self._link.redis.pipeline(transaction=False) as pipe:
            for expected in waiting:
                pipe.hmget(self._keys.request(expected.id), "state", "outcome")
            answers = await pipe.execute()
            done = [
                (expected, outcome)
                for expected, (state, outcome) in zip(waiting, answers, strict=True)
                if state == RequestState.DONE.encode() and outcome
            ]
            for _, outcome in done:
                pipe.xrange(self._keys.transcripts, outcome, outcome)
            found = await pipe.execute()
        for (expected, outcome), kept in zip(done, found, strict=True):
            if kept:
                expected.offer(outcome_from_entry(kept[0][1]))
            else:
                expected.fail(not_kept(expected.id, outcome.decode()))

    async def _look_back(self, expected: Waiter, entry: str) -> None:
        """Offer the outcome of an entry, though its id may belong to another request by now."""
        since = f"{parse_id(entry)[0]}"  # an outcome is never older than its request
        for _, raw in await entries(self._link.redis, self._keys.transcripts, since):
            if raw.get(b"entry") == entry.encode():
                expected.offer(outcome_from_entry(raw))

    def _fail_all(self, error: SensestreamError) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # seen, though those who waited for it may have gone
        for several in self._expected.values():
            for expected in several:
                expected.fail(error)


def no_longer_kept(request_id: str, outcome: str) -> WaitTimeout:
    return WaitTimeout(
        f"the request {request_id!r} has been answered, and its outcome {outcome} is no longer "
        "kept (setting SENSESTREAM_TRANSCRIPTS_TTL): submit it under another id"
    )


def not_kept(request_id: str, outcome: str) -> WaitTimeout:
    return WaitTimeout(f"the outcome {outcome} of {request_id!r} is not kept")


def closed_meanwhile() -> SensestreamError:
    return SensestreamError("the client was closed while somebody waited")
