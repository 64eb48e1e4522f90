"""Trying again while Redis is away: delays that double up to a bound, with jitter."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import RedisError

__all__ = ["Backoff", "retry"]

_FIRST = 0.05  # seconds
_LONGEST = 2.0  # a process is back within this after Redis is
T = TypeVar("T")


class Backoff:
    """Delays that double up to a bound, each shortened at random so that a fleet spreads out."""

    def __init__(self, first: float = _FIRST, longest: float = _LONGEST) -> None:
        """`first` and `longest` are in seconds."""
        self._first = first
        self._longest = longest
        self.failures = 0

    def reset(self) -> None:
        """Begin again with the first delay."""
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait before the next try."""
        delay = min(self._longest, self._first * 2.0 ** min(self.failures, 20))
        self.failures += 1
        return delay * random.uniform(0.5, 1.0)  # noqa: S311  (spread, not secrecy)

    async def wait(self) -> None:
        """Sleep for the next delay."""
        await asyncio.sleep(self.next())


async def retry(
    call: Callable[[], Awaitable[T]],
    *,
    is_retryable: Callable[[Exception], bool],
    timeout: float | None = None,
    on_retry: Callable[[Exception, int], None] = lambda _error, _tries: None,
) -> T:
    """The result of `call`, tried again after errors that may pass.

    Only for calls that do no harm when an earlier try went through and its reply was lost.

    Args:
        is_retryable: Whether waiting may help after this error.
        timeout: Seconds after which no further try begins; `None` for no limit.
        on_retry: Called before each wait, with the error and how many tries have failed so far.

    Raises:
        RedisError, OSError: The last error, where it does not pass or the time is up.
    """
    backoff = Backoff()
    began = time.monotonic()
    while True:
        try:
            return await call()
        except (RedisError, OSError) as error:
            pause = backoff.next()
            if not is_retryable(error):
                raise
            if timeout is not None and time.monotonic() + pause > began + timeout:
                raise
            on_retry(error, backoff.failures)
        await asyncio.sleep(pause)
