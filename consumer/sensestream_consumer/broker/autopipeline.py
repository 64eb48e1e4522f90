"""Commands to Redis in automatic pipelines: those that gather while one is under way go together.

While a pipeline is under way the next one gathers, so batches grow with the load by themselves,
and the code of one request stays a straight line of awaits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from redis.asyncio import Redis
from sensestream_common.connections.connection import is_out_of_memory, is_outage
from sensestream_common.connections.pipelined_connection import PipelinedConnection, pack
from sensestream_common.connections.retry import retry

from sensestream_consumer.telemetry.connection_state import ConnectionState
from sensestream_consumer.telemetry.metrics import RETRIES

__all__ = ["AutoPipeline", "retry_until_available"]

log = structlog.get_logger(__name__)
T = TypeVar("T")

_MOST_COMMANDS = 512  # in one pipeline: bounds the reply that is parsed in one go


class AutoPipeline:
    """Sends commands over one connection, as many at a time as have gathered."""

    def __init__(self, redis: Redis) -> None:
        self._connection = PipelinedConnection(redis)
        self.connection_state = ConnectionState("commands")
        self._waiting: list[tuple[bytes, asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def __call__(self, *command: Any) -> Any:
        """The reply to a command; its error is raised here and spoils no other's."""
        packed = pack(*command)  # here: a value that cannot be sent fails its own caller only
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((packed, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="commands")
        return await future

    async def close(self) -> None:
        """Give the connection back; commands under way fail."""
        await self._connection.close()

    async def _exchange(self, packed: list[bytes]) -> list[Any]:
        return await self._connection.execute(packed)

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:_MOST_COMMANDS]
                del self._waiting[:_MOST_COMMANDS]
                await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: list[tuple[bytes, asyncio.Future[Any]]]) -> None:
        try:
            replies = await self._exchange([packed for packed, _ in batch])
            self.connection_state.answered()
        except Exception as error:
            self.connection_state.failed()
            replies = [error] * len(batch)
        except BaseException:
            for _, future in batch:
                future.cancel()
            raise
        for (_, future), reply in zip(batch, replies, strict=True):
            if future.done():
                continue  # its coroutine was cancelled meanwhile
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)


async def retry_until_available(call: Callable[[], Awaitable[T]], operation: str) -> T:
    """The reply to a call that may be repeated, however long Redis is away or its memory full.

    `operation` names the call in the log. Only for calls that do no harm when an earlier try went
    through and its reply was lost.
    """

    def on_retry(error: Exception, tries: int) -> None:
        if tries % 8 == 1:
            log.warning("redis_retrying", operation=operation, error=str(error))
        RETRIES.labels("redis").inc()

    return await retry(call, is_retryable=_may_pass, on_retry=on_retry)


def _may_pass(error: Exception) -> bool:
    return is_outage(error) or is_out_of_memory(error) or "NOTSTREAM" in str(error)
