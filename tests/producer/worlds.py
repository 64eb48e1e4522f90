"""The two pipelines that the clients' contract is held to: a real Redis, and the one in memory.

Each is met through the asyncio client and through the blocking one, behind the same verbs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, cast

from redis.asyncio import Redis
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.request import Request, decode_request
from sensestream_producer import Client, blocking
from sensestream_producer.testing import ScriptedPipeline
from sensestream_producer.transport import raise_if_cancelled

__all__ = ["InMemory", "OnRedis", "World", "face"]

_END: Any = object()
# What the worker's commit does, as far as clients see it: in one step.
_COMMIT = """
local outcome = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 4))
redis.call('HSET', KEYS[2], 'state', 'done', 'status', ARGV[2], 'outcome', outcome)
redis.call('XDEL', KEYS[3], ARGV[1])
redis.call('PUBLISH', KEYS[1], ARGV[3])
if KEYS[4] then redis.call('DEL', KEYS[4]) end
"""


class World(Protocol):
    """An empty pipeline, whose requests wait unless they are being answered."""

    def client(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        """A client, closed at the end; a blocking one answers to the same verbs, in threads."""
        ...

    def answering(
        self, *, text: str = "hello", error: ErrorCode | None = None
    ) -> AbstractAsyncContextManager[None]:
        """While inside, everything that waits or is submitted is answered."""
        ...

    async def forget_outcomes(self) -> None:
        """What the janitor does beyond the retention."""
        ...


@asynccontextmanager
async def face(client: Client | blocking.Client) -> AsyncIterator[Client]:
    """The asyncio verbs of either client."""
    if isinstance(client, Client):
        async with client:
            yield client
    else:
        threaded = _Threaded(client)
        yield cast(Client, threaded)
        await threaded.close()


class OnRedis:
    """The clients, and the answers of a worker written by hand."""

    def __init__(self, url: str, redis: Redis, keys: Keys, kind: type[Any]) -> None:
        self._url = url
        self._redis = redis
        self._keys = keys
        self._kind = kind

    def client(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        return face(self._kind(self._url, **options))

    @asynccontextmanager
    async def answering(
        self, *, text: str = "hello", error: ErrorCode | None = None
    ) -> AsyncIterator[None]:
        task = asyncio.create_task(self._answer_all(text, error), name="answering")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and (failure := task.exception()):
                raise failure

    async def forget_outcomes(self) -> None:
        last: Any = await self._redis.xrevrange(self._keys.transcripts, count=1)
        if not last:
            return
        await self._redis.xtrim(self._keys.transcripts, maxlen=0, approximate=False)
        await self._redis.set(self._keys.trimmed, last[0][0])

    async def _answer_all(self, text: str, error: ErrorCode | None) -> None:
        read: Any = {self._keys.requests: "0-0", self._keys.requests_high: "0-0"}
        while True:
            news: Any = await raise_if_cancelled(self._redis.xread(read, block=50))
            for stream, entries in news or ():
                read[stream.decode()] = entries[-1][0].decode()
                high = stream.decode() == self._keys.requests_high
                lane = Lane.HIGH if high else Lane.NORMAL
                for entry, raw in entries:
                    await raise_if_cancelled(self._answer(entry.decode(), raw, lane, text, error))

    async def _answer(
        self, entry: str, raw: Any, lane: Lane, text: str, error: ErrorCode | None
    ) -> None:
        request = decode_request(entry, raw)
        assert isinstance(request, Request)
        if error and error.dead_letter:
            about = {"entry": entry, "lane": lane.value, "error": error.value, "attempt": 3}
            about |= {"message": "it cannot be read", "worker": "host-1"}
            about |= {"at": time.time_ns() // 1_000_000}
            letter: Any = {**raw, **{f"dead:{name}": value for name, value in about.items()}}
            await self._redis.xadd(self._keys.dead, letter)
        outcome = Outcome(
            id=request.id,
            entry=entry,
            audio=request.audio,
            status=Status.FAILED if error else Status.COMPLETED,
            text="" if error else text,
            cache=None if error else CacheUse.MISS,
            error=error,
            message="it cannot be read" if error else "",
            metadata=request.metadata,
        )
        fields = [part for pair in outcome.encode().items() for part in pair]
        keys = [self._keys.transcripts, self._keys.request(request.id), self._keys.lane(lane)]
        upload = self._keys.upload(request.id)
        if request.audio == f"redis:{upload}" and not (error and error.dead_letter):
            keys.append(upload)
        given = [entry, outcome.status.value, outcome.dumps(), *fields]
        await self._redis.eval(_COMMIT, len(keys), *keys, *given)


class InMemory:
    """The double."""

    def __init__(self, *, blocking_client: bool) -> None:
        self.pipeline = ScriptedPipeline()
        self._blocking = blocking_client
        self._away = self.pipeline.workers_away()
        self._away.__enter__()

    def client(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        if self._blocking:
            return face(self.pipeline.blocking_client(**options))
        return face(self.pipeline.client(**options))

    @asynccontextmanager
    async def answering(
        self, *, text: str = "hello", error: ErrorCode | None = None
    ) -> AsyncIterator[None]:
        self.pipeline.default = error or text
        self._away.__exit__(None, None, None)
        yield
        self._away = self.pipeline.workers_away()
        self._away.__enter__()

    async def forget_outcomes(self) -> None:
        self.pipeline.forget_outcomes()


class _Threaded:
    """A blocking client, each call of it in a thread."""

    _ITERATORS = ("follow", "listen", "select")

    def __init__(self, wrapped: Any) -> None:
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._wrapped, name)
        if name == "dead":
            return _Threaded(member)
        if not callable(member):
            return member
        if name in self._ITERATORS:
            return lambda *given, **named: _events(member(*given, **named))

        async def call(*given: Any, **named: Any) -> Any:
            return await asyncio.to_thread(member, *given, **named)

        return call


async def _events(events: Generator[Any]) -> AsyncGenerator[Any]:
    try:
        while (event := await asyncio.to_thread(next, events, _END)) is not _END:
            yield event
    finally:
        events.close()
