"""Many commands in one go: packed in C, over one connection that is kept.

redis-py's asyncio pipeline packs every argument in Python, which for a commit with its sixty
arguments takes longer than all that Redis does with it. It also takes a connection from the pool
for each exchange, gives it back, and reads it through a stream under a timer. Here many exchanges
may be under way, and replies go from the socket to their callers.

For that a connection of redis-py is opened as usual, and its transport is taken. Where a version of
redis-py keeps the transport elsewhere, exchanges go one after the other through its own reading
(`_Fallback`): slower, with the same promises.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import DefaultParser
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    InvalidResponse,
    NoScriptError,
    RedisError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
)

from sensestream_common.connections.connection import is_outage
from sensestream_common.connections.scripts import Script

__all__ = ["EncodedArgs", "PipelinedConnection", "encode_arg", "encode_args", "pack"]

_READ_BYTES = 1 << 16
_CLOSED = "the client was closed"
_LOST = "the connection was lost"
_TRANSPORT_METHODS = ("abort", "get_protocol", "is_closing", "set_protocol", "writelines")
_MORE = object()  # of a reply that has not come whole


def pack(*command: str | bytes | int) -> bytes:
    """A command as Redis reads it; `UnicodeEncodeError` for text that no UTF-8 can hold."""
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]  # a tuple of any length


class EncodedArgs(NamedTuple):
    """Arguments as they stand in a command, and their number."""

    number: int
    content: bytes


def encode_args(*arguments: str | bytes | int) -> EncodedArgs:
    """Arguments encoded once, for all the commands that have them in common."""
    return EncodedArgs(len(arguments), pack(*arguments).partition(b"\r\n")[2])


def encode_arg(text: str) -> EncodedArgs:
    """One argument encoded, in less time than `encode_args` takes."""
    content = text.encode()
    return EncodedArgs(1, b"$%d\r\n%b\r\n" % (len(content), content))


@lru_cache
def _evalsha(sha: str, keys: int) -> EncodedArgs:
    return encode_args("EVALSHA", sha, keys)


def _joined(parts: Sequence[EncodedArgs]) -> bytes:
    count = sum([part.number for part in parts])
    return b"*%d\r\n%b" % (count, b"".join([part.content for part in parts]))


class PipelinedConnection:
    """One connection of the pool of `redis`: opened by the first exchange, kept until it fails."""

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool  # its methods have no types
        self._opening = asyncio.Lock()
        self._times_closed = 0
        self._exchanges: _Protocol | _Fallback | None = None

    async def execute(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands, in order; a refusal is an element.

        Raises what redis-py raises for a lost connection or a time-out. Then every exchange that is
        under way fails, and which of its commands Redis has run is unknown.
        """
        if not commands:
            return []
        exchanges = self._exchanges
        if exchanges is None or exchanges.broken:
            exchanges = await self._open()
        return await exchanges.execute(commands)

    async def run_script(
        self, script: Script, keys: Sequence[EncodedArgs], arguments: Sequence[EncodedArgs]
    ) -> Any:
        """A script's reply; the script is loaded where Redis does not know it (any more).

        Raises what redis-py raises, the script's own errors included.
        """
        count = sum([part.number for part in keys])
        command = _joined([_evalsha(script.sha, count), *keys, *arguments])
        [reply] = await self.execute([command])
        if isinstance(reply, NoScriptError):
            _, reply = await self.execute([pack("SCRIPT", "LOAD", script.source), command])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def close(self) -> None:
        """Give the connection back; exchanges under way fail. A later one opens another."""
        self._times_closed += 1
        if self._exchanges is not None:
            await self._exchanges.close()

    async def _open(self) -> _Protocol | _Fallback:
        times_closed = self._times_closed
        async with self._opening:
            if self._exchanges is None or self._exchanges.broken:
                self._exchanges = _exchanges(self._pool, await self._pool.get_connection())
            if self._times_closed > times_closed:  # meanwhile
                await self._exchanges.close()
                raise RedisConnectionError(_CLOSED)
            return self._exchanges


def _exchanges(pool: Any, connection: Any) -> _Protocol | _Fallback:
    transport = transport_of(connection)
    return _Protocol(pool, connection, transport) if transport else _Fallback(pool, connection)


def transport_of(connection: Any) -> asyncio.Transport | None:
    """The transport of redis-py's connection; `None` where this version keeps it elsewhere.

    It is private to redis-py, which offers no other way to read a socket without its stream.
    """
    transport: Any = getattr(getattr(connection, "_writer", None), "transport", None)
    # By its methods: uvloop's transports are no subclasses of asyncio's.
    return transport if all(hasattr(transport, name) for name in _TRANSPORT_METHODS) else None


class _Fallback:
    """Exchanges one after the other, through redis-py's own reading."""

    def __init__(self, pool: Any, connection: Any) -> None:
        self.broken = False
        self._pool = pool
        self._connection = connection
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[list[Any]]] = set()
        self._error = RedisConnectionError(_LOST)
        self._released = False

    async def execute(self, commands: Sequence[bytes]) -> list[Any]:
        """As `PipelinedConnection.execute`. A caller that is cancelled leaves no reply unread."""
        task = asyncio.create_task(self._exchange(commands), name="sensestream-exchange")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Fail the exchanges under way, and give the connection back to its pool."""
        await asyncio.shield(self._break(RedisConnectionError(_CLOSED)))

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
        except (RedisConnectionError, RedisTimeoutError):
            raise
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


class _Protocol(asyncio.BufferedProtocol):
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
        self._break(RedisConnectionError(_CLOSED))
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
