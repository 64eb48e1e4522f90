"""The client's way to Redis: commands are retried in an outage, and errors are our own.

Only operations that may run twice go through `RedisTransport.run`: it tries again after a
lost reply.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
)
from sensestream_common.connections.connection import (
    connect,
    is_out_of_memory,
    is_outage,
    redacted_url,
)
from sensestream_common.connections.pipelined_connection import PipelinedConnection
from sensestream_common.connections.retry import retry
from sensestream_common.contract.errors import (
    PipelineError,
    RedisUnavailable,
    SensestreamError,
    SubmitRefused,
)

__all__ = ["RedisTransport", "cancellations", "is_retryable", "raise_if_cancelled"]

T = TypeVar("T")


def is_retryable(error: BaseException) -> bool:
    """Whether waiting may help: an outage, but not a refused password (redis-py mixes them)."""
    refused = (AuthenticationError, AuthorizationError)
    return isinstance(error, Exception) and is_outage(error) and not isinstance(error, refused)


def cancellations() -> int:
    """How often the current task has been cancelled so far."""
    task = asyncio.current_task()
    return task.cancelling() if task else 0


async def raise_if_cancelled(operation: Awaitable[T], since: int | None = None) -> T:
    """The result of a command of redis-py, or the cancellation that came meanwhile.

    Python 3.11's `wait_for`, through which redis-py sends, drops a cancellation that arrives
    together with its result: a task that is cancelled once would then go on for ever. A loop
    says with `since` how many `cancellations` there were when it began, because one that comes
    between two commands (by a signal's handler) is dropped by the next.
    """
    before = cancellations() if since is None else since
    result = await operation
    if cancellations() > before:
        raise asyncio.CancelledError
    return result


class RedisTransport:
    """One pipeline's Redis; an outage is retried for `retry_timeout` seconds."""

    def __init__(self, url: str, *, retry_timeout: float) -> None:
        self.url = url
        self.retry_timeout = retry_timeout
        self.redis: Redis = connect(url, name="sensestream-client")
        self.connection = PipelinedConnection(self.redis)

    def reader(self, name: str) -> Redis:
        """A connection of its own, for reads that block; the caller closes it."""
        return connect(self.url, name=f"sensestream-{name}", connections=1)

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The result of `operation`, which is tried again while Redis is away.

        Raises:
            RedisUnavailable: Redis was away for longer than `retry_timeout`.
            SubmitRefused: Redis has no memory left.
            PipelineError: Redis refused it for another reason.
        """
        before = cancellations()
        try:
            return await retry(
                lambda: raise_if_cancelled(operation(), before),
                is_retryable=is_retryable,
                timeout=self.retry_timeout,
            )
        except (RedisError, OSError) as error:
            raise self.translate(error) from error

    def translate(self, error: Exception) -> SensestreamError:
        """What a person can do about an error of redis-py, or of one of our scripts."""
        _, found, misplaced = str(error).partition("WRONGKEY ")
        if found:
            return PipelineError(misplaced)
        where = f"Redis at {redacted_url(self.url)}"
        if isinstance(error, (AuthenticationError, AuthorizationError, NoPermissionError)):
            return RedisUnavailable(
                f"{where} refuses this user: {error}. Check the user and the password in "
                "--redis-url or SENSESTREAM_REDIS_URL"
            )
        if is_outage(error):
            return RedisUnavailable(
                f"{where} does not answer ({_reason(error)}): start it, or name another one with "
                "--redis-url or SENSESTREAM_REDIS_URL"
            )
        if isinstance(error, OutOfMemoryError) or is_out_of_memory(error):
            return SubmitRefused(
                f"{where} has no memory left and takes no more requests: submit again when "
                "workers have caught up, or raise its maxmemory"
            )
        return PipelineError(f"{where}: {error}")

    async def close(self) -> None:
        """Close all connections; commands under way fail."""
        await self.connection.close()
        await self.redis.aclose()


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
