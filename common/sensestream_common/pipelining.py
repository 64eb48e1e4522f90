"""Many commands in one go: packed in C, over one connection that is kept.

redis-py's asyncio pipeline packs every argument in Python, which for a commit with its sixty
arguments takes longer than all that Redis does with it. And a connection of the pool is taken and
given back for each exchange, waits for its reply, and is read under a timer. Here many exchanges
may be under way.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
)

from sensestream_common.connection import is_outage
from sensestream_common.scripts import Script

__all__ = ["Line", "pack"]


def pack(*command: str | bytes | int) -> bytes:
    """A command as Redis reads it; `UnicodeEncodeError` for text that no UTF-8 can hold."""
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]  # a tuple of any length


class Line:
    """A connection of the pool of `redis`: taken with the first question, kept until it fails."""

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool  # its methods have no types
        self._opening = asyncio.Lock()
        self._wire: _Wire | None = None

    async def ask(self, packed: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands, in order; a refusal is an element.

        Anything else that redis-py raises (the connection, a time-out) fails all that is under way.
        Which of the commands Redis has run is not known then.
        """
        wire = self._wire
        if wire is None or wire.broken:
            wire = await self._open()
        return await wire.ask(packed)

    async def call(
        self, script: Script, keys: Sequence[str], arguments: Sequence[str | int]
    ) -> Any:
        """A script's reply; it is loaded where Redis does not know it (any more).

        Raises what redis-py raises, the script's own errors too.
        """
        packed = pack("EVALSHA", script.sha, len(keys), *keys, *arguments)
        [answer] = await self.ask([packed])
        if isinstance(answer, NoScriptError):
            _, answer = await self.ask([pack("SCRIPT", "LOAD", script.source), packed])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Give the connection back; what is under way fails."""
        if self._wire is not None:
            await self._wire.close()

    async def _open(self) -> _Wire:
        async with self._opening:
            if self._wire is None or self._wire.broken:
                self._wire = _Wire(self._pool, await self._pool.get_connection())
            return self._wire


class _Asked:
    """Commands that have been written, and their replies so far."""

    __slots__ = ("count", "future", "replies", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.count = count
        self.replies: list[Any] = []
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.since = loop.time()


class _Wire:
    """One connection while it works, and what is under way on it."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self.broken = False
        self._pool = pool
        self._connection = connection
        self._limit: float = connection.socket_timeout
        # Kept here for all that is under way: redis-py would make a task to send each command.
        connection.socket_timeout = None
        self._loop = asyncio.get_running_loop()
        self._asked: deque[_Asked] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._reader = self._loop.create_task(self._read(), name="sensestream-line")

    async def ask(self, packed: Sequence[bytes]) -> list[Any]:
        if not self._connection.is_connected:  # redis-py would connect anew, under the reader
            self._break(RedisConnectionError("the connection was lost"))
            raise RedisConnectionError("the connection was lost")
        asked = _Asked(self._loop, len(packed))
        self._asked.append(asked)
        self._watch()
        try:
            # Written before it waits for anything: questions stand in the order of their replies.
            await self._connection.send_packed_command(packed)
        except (RedisError, OSError) as error:
            self._break(error)
            raise
        return await asked.future

    async def close(self) -> None:
        self._break(RedisConnectionError("the client was closed"))
        self._reader.cancel()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        try:
            while True:
                self._hand_out(await _reply(self._connection))
        except (RedisError, OSError, LookupError) as error:
            self._break(error)
        finally:
            self._break(RedisConnectionError("its reader has ended"))
            self._connection.socket_timeout = self._limit
            with suppress(RedisError, OSError):
                await self._connection.disconnect(nowait=True)
            await self._pool.release(self._connection)

    def _hand_out(self, reply: Any) -> None:
        asked = self._asked[0]  # LookupError: a reply that nobody asked for
        asked.replies.append(reply)
        if len(asked.replies) == asked.count:
            self._asked.popleft()
            if not asked.future.done():  # else whoever asked was cancelled meanwhile
                asked.future.set_result(asked.replies)
        if isinstance(reply, Exception) and is_outage(reply):
            raise reply  # after a failover the master is elsewhere

    def _break(self, error: Exception) -> None:
        """Fail what is under way; whoever asks from here on gets another wire."""
        if self.broken:
            return
        self.broken = True
        if self._timer is not None:
            self._timer.cancel()
        while self._asked:
            future = self._asked.popleft().future
            if not future.done():
                future.set_exception(error)
                future.exception()  # who failed to send does not come back for it
        # Else who still sends would wait for a Redis that does not read, and so would its closing.
        if (writer := self._connection._writer) is not None:
            writer.transport.abort()

    def _watch(self) -> None:
        """One timer for all that is under way, set anew when it is due."""
        if self._timer is None and self._asked:
            self._timer = self._loop.call_at(self._asked[0].since + self._limit, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._asked and self._loop.time() >= self._asked[0].since + self._limit:
            self._break(RedisTimeoutError(f"no reply within {self._limit} s"))
            self._reader.cancel()
        self._watch()


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error
