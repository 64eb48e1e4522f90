"""Waiting for Redis to come back: exponential, with jitter, and ended by a stop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from redis.exceptions import RedisError
from sensestream_common.connections.connection import is_out_of_memory, is_outage

from sensestream_consumer.telemetry.metrics import RETRIES

__all__ = ["Backoff", "until_redis_answers"]

log = structlog.get_logger(__name__)

_FIRST = 0.05  # seconds
_LONGEST = 2.0  # a worker is back within this after Redis is
T = TypeVar("T")


class Backoff:
    """Delays that double up to a bound, each shortened at random so that a fleet spreads out."""

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST) -> None:
        self._first = first
        self._longest = longest
        self.failures = 0

    def reset(self) -> None:
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait before the next try."""
        delay = min(self._longest, self._first * 2.0 ** min(self.failures, 20))
        self.failures += 1
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  (spread, not secrecy)

    async def wait(self) -> None:
        await asyncio.sleep(self.next())


async def until_redis_answers(call: Callable[[], Awaitable[T]], what: str) -> T:
    """The answer of a call that may be repeated, however long Redis is away or its memory full.

    Only for calls that do no harm when an earlier try went through and its reply was lost.
    """
    backoff = Backoff()
    while True:
        try:
            return await call()
        except (RedisError, OSError) as error:
            if not (is_outage(error) or is_out_of_memory(error) or "NOTSTREAM" in str(error)):
                raise
            if backoff.failures % 8 == 0:
                log.warning("redis_call_waits", call=what, error=str(error))
        RETRIES.labels("redis").inc()
        await backoff.wait()
