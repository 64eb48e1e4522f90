"""Wakes every subscriber when the pipeline has new outcomes, through one blocking reader."""

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
    """Tells subscribers that there may be new outcomes; they read the outcomes themselves.

    The reader runs while there is a subscriber. At most `max_subscribers` may subscribe.
    """

    def __init__(self, link: RedisTransport, keys: Keys, max_subscribers: int) -> None:
        self._link = link
        self._stream = keys.transcripts
        self._max_subscribers = max_subscribers
        self._subscribers: set[asyncio.Event] = set()
        self._reader: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self) -> Iterator[asyncio.Event]:
        """An event that is set when there may be new outcomes.

        Raises `ApiError` (503) when `max_subscribers` have subscribed.
        """
        if len(self._subscribers) >= self._max_subscribers:
            message = f"{self._max_subscribers} streams of events are open: try again later"
            raise ApiError(503, "too_many_subscribers", message, retry_after=10)
        event = asyncio.Event()
        self._subscribers.add(event)
        if self._reader is None:
            self._reader = asyncio.create_task(self._read(), name="gateway-outcome-notifier")
        try:
            yield event
        finally:
            self._subscribers.discard(event)

    def notify(self) -> None:
        """Set the event of every subscriber."""
        for event in self._subscribers:
            event.set()

    async def close(self) -> None:
        """Stop the reader."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        redis = self._link.reader("outcome-notifier")
        block = round(BLOCK_SECONDS * 1000)
        backoff = Backoff()
        try:
            while self._subscribers:
                try:
                    position = id_text(await raise_if_cancelled(last_id(redis, self._stream), 0))
                    self.notify()  # for outcomes that came while this reader was not reading
                    while self._subscribers:
                        news: Any = await raise_if_cancelled(
                            redis.xread({self._stream: position}, block=block), 0
                        )
                        backoff.reset()
                        if news:
                            position = news[0][1][-1][0].decode()
                            self.notify()
                except (RedisError, OSError):
                    await backoff.wait()
        finally:
            self._reader = None
            await redis.aclose()
