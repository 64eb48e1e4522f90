"""Commands to Redis, gathered: what many coroutines send at once travels as one pipeline.

While a pipeline is under way the next one gathers, so batches grow with the load by themselves,
and the code of one request stays a straight line of awaits.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError
from sensestream_common.scripts import Script

from sensestream_consumer.metrics.contact import Contact

__all__ = ["Commands"]

_MOST_COMMANDS = 512  # in one pipeline: bounds the reply that is parsed in one go


class Commands:
    """Sends commands over one connection, as many at a time as have gathered."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.contact = Contact("commands")
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def __call__(self, *command: Any) -> Any:
        """The reply to a command; its error is raised here and spoils no other's."""
        # Encoded here, so that a value that cannot be sent is told to its own caller only.
        packed = tuple(part.encode() if isinstance(part, str) else part for part in command)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((packed, future))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all(), name="commands")
        return await future

    async def run(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """Run a script by its digest; sent whole when Redis does not know it (again)."""
        try:
            return await self("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self("EVAL", script.source, len(keys), *keys, *args)

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:_MOST_COMMANDS]
                del self._waiting[:_MOST_COMMANDS]
                await self._send(batch)
        finally:
            self._sender = None

    async def _send(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.response_callbacks = {}  # replies as Redis gives them: no work spent on shaping
        for command, _ in batch:
            pipeline.execute_command(*command)
        try:
            replies = await pipeline.execute(raise_on_error=False)
            self.contact.answered()
        except Exception as error:
            self.contact.failed()
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
