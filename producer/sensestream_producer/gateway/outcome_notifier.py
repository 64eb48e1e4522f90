"""Tells all who listen that the pipeline has new outcomes, through one reader."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError
from sensestream_common.connections.connection import BLOCK_SECONDS
from sensestream_common.connections.retry import Backoff
from sensestream_common.contract.keys import Keys

from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.outcomes.stream_ids import id_text, last_id
from sensestream_producer.transport import RedisTransport, raise_if_cancelled

__all__ = ["OutcomeNotifier"]


class OutcomeNotifier:
    """Rings whenever the pipeline has a new outcome: one blocking reader for all who listen."""

    def __init__(self, link: RedisTransport, keys: Keys, most: int) -> None:
        self._link = link
        self._stream = keys.transcripts
        self._most = most
        self._listeners: set[asyncio.Event] = set()
        self._reader: asyncio.Task[None] | None = None

    @contextmanager
    def listening(self) -> Iterator[asyncio.Event]:
        """An event that is set when there may be news; `ApiError` when too many listen."""
        if len(self._listeners) >= self._most:
            raise ApiError(
                503, "too_many_subscribers",
                f"{self._most} streams of events are open: try again later", retry_after=10,
            )  # fmt: skip
        event = asyncio.Event()
        self._listeners.add(event)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="gateway-bell")
        try:
            yield event
        finally:
            self._listeners.discard(event)

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        redis = self._link.reader("bell")
        backoff = Backoff()
        try:
            while self._listeners:
                try:
                    position = id_text(await raise_if_cancelled(last_id(redis, self._stream), 0))
                    self._ring()  # for what came while nobody looked
                    while self._listeners:
                        news: Any = await raise_if_cancelled(
                            redis.xread(
                                {self._stream: position}, block=round(BLOCK_SECONDS * 1000)
                            ),
                            0,
                        )
                        backoff.reset()
                        if news:
                            position = news[0][1][-1][0].decode()
                            self._ring()
                except (RedisError, OSError):
                    await backoff.wait()
        finally:
            self._reader = None
            await redis.aclose()

    def _ring(self) -> None:
        for event in self._listeners:
            event.set()
