"""Exchanges of commands and replies over one connection that redis-py has opened.

`ReplyProtocol` takes the transport of the connection, so that many exchanges may be under way and
replies go from the socket to their callers. Where a version of redis-py keeps the transport
elsewhere, `FallbackExchanges` runs them one after the other through redis-py's own reading: slower,
with the same promises.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    InvalidResponse,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
)

from sensestream_common.connections.connection import is_outage

__all__ = ["CLOSED", "FallbackExchanges", "ReplyProtocol", "open_exchanges", "transport_of"]

CLOSED = "the client was closed"
_READ_BYTES = 1 << 16
_LOST = "the connection was lost"
_TRANSPORT_METHODS = ("abort", "get_protocol", "is_closing", "set_protocol", "writelines")
_MORE = object()  # of a reply that has not come whole


def open_exchanges(pool: Any, connection: Any) -> ReplyProtocol | FallbackExchanges:
    """The exchanges over a connection that was taken from `pool`, which gets it back from them."""
    transport = transport_of(connection)
    return (
        ReplyProtocol(pool, connection, transport)
        if transport
        else FallbackExchanges(pool, connection)
    )


def transport_of(connection: Any) -> asyncio.Transport | None:
    """The transport of redis-py's connection; `None` where this version keeps it elsewhere.

    It is private to redis-py, which offers no other way to read a socket without its stream.
    """
    transport: Any = getattr(getattr(connection, "_writer", None), "transport", None)
    # By its methods: uvloop's transports are no subclasses of asyncio's.
    return transport if all(hasattr(transport, name) for name in _TRANSPORT_METHODS) else None


class FallbackExchanges:
    """Exchanges one after the other, through redis-py's own reading."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self.broken = False
        self._pool = pool
        self._connection = connection
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[list[Any]]] = set()
        self._error = RedisConnectionError(_LOST)

    async def execute(self, commands: Sequence[bytes]) -> list[Any]:
        """As `PipelinedConnection.execute`. A caller that is cancelled leaves no reply unread."""
        task = asyncio.create_task(self._exchange(commands), name="sensestream-exchange")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Fail the exchanges under way, and give the connection back to its pool."""
        await asyncio.shield(self._break(RedisConnectionError(CLOSED)))

    def _forget(self, task: asyncio.Task[list[Any]]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # its caller, who had it from here, may be gone

    async def _exchange(self, commands: Sequence[bytes]) -> list[Any]:
        async with self._turn:
            if self.broken:
                raise self._error
            try:
                await self._connection.send_packed_command(list(commands))
                replies = [await self._reply() for _ in commands]
            except (RedisError, OSError) as error:
                if self.broken:  # closed meanwhile
                    raise self._error from error
                await self._break(error)
                raise
            if any(isinstance(reply, Exception) and is_outage(reply) for reply in replies):
                await self._break(RedisConnectionError(_LOST))  # the master is elsewhere now
            return replies

    async def _reply(self) -> Any:
        try:
            return await self._connection.read_response()
        except ResponseError as error:
            return error

    async def _break(self, error: Exception) -> None:
        if self.broken:
            return
        self.broken = True
        self._error = error if isinstance(error, RedisConnectionError) else self._error
        try:
            await self._connection.disconnect(nowait=True)
        finally:
            await self._pool.release(self._connection)


class _PendingReplies:
    """One exchange: commands that have been written, and their replies so far."""

    __slots__ = ("count", "future", "replies", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.count = count
        self.replies: list[Any] = []
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.since = loop.time()


class ReplyProtocol(asyncio.BufferedProtocol):
    """Exchanges that are all under way at once, read straight from the socket.

    redis-py has opened the connection, with its TLS, passwords and sentinels. From then on its
    bytes come here, redis-py never uses it again, and the pool opens another in its place.
    """

    def __init__(self, pool: Any, connection: Any, transport: asyncio.Transport) -> None:
        self.broken = False
        self._pool = pool
        self._connection = connection
        self._limit: float = connection.socket_timeout
        self._loop = asyncio.get_running_loop()
        self._pending: deque[_PendingReplies] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._given_back: asyncio.Task[None] | None = None
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error,
            notEnoughData=_MORE,
        )  # fmt: skip
        # TLS writes to slices of it, which must not be copies.
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._transport = transport
        self._opener: Any = transport.get_protocol()
        transport.set_protocol(self)

    def execute(self, commands: Sequence[bytes]) -> asyncio.Future[list[Any]]:
        """The replies to come. Bytes that the socket has no room for wait until it has."""
        pending = _PendingReplies(self._loop, len(commands))
        if self._transport.is_closing():
            self._break(RedisConnectionError(_LOST))
        if self.broken:
            pending.future.set_exception(RedisConnectionError(_LOST))
            return pending.future
        self._pending.append(pending)
        self._transport.writelines(commands)
        self._watch()
        return pending.future

    async def close(self) -> None:
        """Fail the exchanges under way, and give the connection back to its pool."""
        self._break(RedisConnectionError(CLOSED))
        if self._given_back is not None:
            await asyncio.wait([self._given_back])  # to the end, even where this is cancelled

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        # One for all: asyncio would take 256 KiB for every read, and longer for that than to read.
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # any buffer does
        try:
            while (reply := self._reader.gets()) is not _MORE:
                self._hand_out(reply)
        except (InvalidResponse, LookupError) as error:  # a reply to no command
            self._break(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._opener.connection_lost(exc)  # redis-py waits for that where it closes it
        reason = str(exc) if exc else "Connection closed by server."
        self._break(RedisConnectionError(reason))

    def _hand_out(self, reply: Any) -> None:
        if isinstance(reply, RedisConnectionError):  # it is loading, or has closed the session
            self._break(reply)
            return
        pending = self._pending[0]
        pending.replies.append(reply)
        if len(pending.replies) == pending.count:
            self._pending.popleft()
            if not pending.future.done():  # its caller was cancelled meanwhile
                pending.future.set_result(pending.replies)
        if isinstance(reply, Exception) and is_outage(reply):
            self._break(reply)  # after a failover the master is elsewhere

    def _break(self, error: Exception) -> None:
        """Fail the exchanges under way; the next one opens another connection."""
        if self.broken:
            return
        self.broken = True
        if self._timer is not None:
            self._timer.cancel()
        while self._pending:
            future = self._pending.popleft().future
            if not future.done():
                future.set_exception(error)
        self._transport.abort()
        self._given_back = self._loop.create_task(self._give_back(), name="sensestream-give-back")

    async def _give_back(self) -> None:
        try:
            await self._connection.disconnect(nowait=True)
        finally:
            await self._pool.release(self._connection)

    def _watch(self) -> None:
        """Keep one timer for all exchanges, set anew when it is due."""
        if self._timer is None and self._pending:
            self._timer = self._loop.call_at(self._pending[0].since + self._limit, self._check)

    def _check(self) -> None:
        self._timer = None
        if self._pending and self._loop.time() >= self._pending[0].since + self._limit:
            self._break(RedisTimeoutError(f"no reply within {self._limit} s"))
        else:
            self._watch()
