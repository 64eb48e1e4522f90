"""The two pipelines that the clients' contract is held to: a real Redis, and the one in memory.

Each is met through the asyncio client and through the blocking one, behind the same verbs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol, cast

from redis.asyncio import Redis
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import Keys
from sensestream_producer import Client, blocking
from sensestream_producer.testing import ScriptedPipeline

from tests.support.pipeline import answering

__all__ = ["InMemory", "OnRedis", "World", "face"]

_END: Any = object()


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
    """The clients on a real Redis, and answers by the worker's commit script."""

    def __init__(self, url: str, redis: Redis, keys: Keys, kind: type[Any]) -> None:
        self._url = url
        self._redis = redis
        self._keys = keys
        self._kind = kind

    def client(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        return face(self._kind(self._url, **options))

    def answering(
        self, *, text: str = "hello", error: ErrorCode | None = None
    ) -> AbstractAsyncContextManager[None]:
        return answering(self._redis, self._keys, text=text, error=error)

    async def forget_outcomes(self) -> None:
        last: Any = await self._redis.xrevrange(self._keys.transcripts, count=1)
        if not last:
            return
        await self._redis.xtrim(self._keys.transcripts, maxlen=0, approximate=False)
        await self._redis.set(self._keys.trimmed, last[0][0])


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
