"""Many commands in one go: packed in C, over one connection that is kept.

redis-py's asyncio pipeline packs every argument in Python, which for a commit with its sixty
arguments takes longer than all that Redis does with it. And a connection of the pool is taken and
given back for each exchange, waits for its reply, and is read through a stream, under a timer. Here
many exchanges may be under way, and replies go from the socket to whoever waits for them.
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
    TimeoutError as RedisTimeoutError,
)

from sensestream_common.connections.connection import is_outage
from sensestream_common.connections.scripts import Script

__all__ = ["EncodedArgs", "PipelinedConnection", "encode_arg", "encode_args", "pack"]

_READ_BYTES = 1 << 16
_CLOSED = "the client was closed"
_LOST = "the connection was lost"
_MORE = object()  # of a reply that has not come whole


def pack(*command: str | bytes | int) -> bytes:
    """A command as Redis reads it; `UnicodeEncodeError` for text that no UTF-8 can hold."""
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]  # a tuple of any length


class EncodedArgs(NamedTuple):
    """Arguments as they stand in a command."""

    words: int
    content: bytes


def encode_args(*arguments: str | bytes | int) -> EncodedArgs:
    """Arguments made ready: those that many commands have in common need it only once."""
    return EncodedArgs(len(arguments), pack(*arguments).partition(b"\r\n")[2])


def encode_arg(text: str) -> EncodedArgs:
    """The same for one of them, in less time."""
    content = text.encode()
    return EncodedArgs(1, b"$%d\r\n%b\r\n" % (len(content), content))


@lru_cache
def _evalsha(sha: str, keys: int) -> EncodedArgs:
    return encode_args("EVALSHA", sha, keys)


def _joined(parts: Sequence[EncodedArgs]) -> bytes:
    words = sum([part.words for part in parts])
    return b"*%d\r\n%b" % (words, b"".join([part.content for part in parts]))


class PipelinedConnection:
    """A connection of the pool of `redis`: taken with the first question, kept until it fails."""

    def __init__(self, redis: Redis) -> None:
        self._pool: Any = redis.connection_pool  # its methods have no types
        self._opening = asyncio.Lock()
        self._closed = 0  # times
        self._wire: _Protocol | None = None

    async def execute(self, commands: Sequence[bytes]) -> list[Any]:
        """The replies to packed commands, in order; a refusal is an element.

        Anything else that redis-py raises (the connection, a time-out) fails all that is under way.
        Which of the commands Redis has run is not known then.
        """
        if not commands:
            return []
        wire = self._wire
        if wire is None or wire.broken:
            wire = await self._open()
        return await wire.execute(commands)

    async def run_script(
        self, script: Script, keys: Sequence[EncodedArgs], arguments: Sequence[EncodedArgs]
    ) -> Any:
        """A script's reply; it is loaded where Redis does not know it (any more).

        Raises what redis-py raises, the script's own errors too.
        """
        count = sum([part.words for part in keys])
        command = _joined([_evalsha(script.sha, count), *keys, *arguments])
        [answer] = await self.execute([command])
        if isinstance(answer, NoScriptError):
            _, answer = await self.execute([pack("SCRIPT", "LOAD", script.source), command])
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def close(self) -> None:
        """Give the connection back; what is under way fails. Who asks later opens another."""
        self._closed += 1
        if self._wire is not None:
            await self._wire.close()

    async def _open(self) -> _Protocol:
        closed = self._closed
        async with self._opening:
            if self._wire is None or self._wire.broken:
                self._wire = _Protocol(self._pool, await self._pool.get_connection())
            if self._closed > closed:  # meanwhile
                await self._wire.close()
                raise RedisConnectionError(_CLOSED)
            return self._wire


class _PendingReplies:
    """Commands that have been written, and their replies so far."""

    __slots__ = ("count", "future", "replies", "since")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.count = count
        self.replies: list[Any] = []
        self.future: asyncio.Future[list[Any]] = loop.create_future()
        self.since = loop.time()


class _Protocol(asyncio.BufferedProtocol):
    """One connection while it works, and what is under way on it.

    redis-py has opened it, with its TLS, passwords and sentinels; what it reads comes here from
    then on. It is never used by redis-py again, and the pool opens another in its place.
    """

    def __init__(self, pool: Any, connection: Any) -> None:
        self.broken = False
        self._pool = pool
        self._connection = connection
        self._limit: float = connection.socket_timeout
        self._loop = asyncio.get_running_loop()
        self._asked: deque[_PendingReplies] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._given_back: asyncio.Task[None] | None = None
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error,
            notEnoughData=_MORE,
        )  # fmt: skip
        # TLS writes to slices of it, which must not be copies.
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._transport: asyncio.Transport = connection._writer.transport
        self._opener: Any = self._transport.get_protocol()
        self._transport.set_protocol(self)

    def execute(self, commands: Sequence[bytes]) -> asyncio.Future[list[Any]]:
        """The replies to come. What the socket has no room for is kept until it has."""
        asked = _PendingReplies(self._loop, len(commands))
        if self._transport.is_closing():
            self._break(RedisConnectionError(_LOST))
        if self.broken:
            asked.future.set_exception(RedisConnectionError(_LOST))
            return asked.future
        self._asked.append(asked)
        self._transport.writelines(commands)
        self._watch()
        return asked.future

    async def close(self) -> None:
        """Fail what is under way, and give the connection back to its pool."""
        self._break(RedisConnectionError(_CLOSED))
        if self._given_back is not None:
            await asyncio.wait([self._given_back])  # to the end, though who waits may be cancelled

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        # One for all: asyncio would take 256 KiB for every read, and longer for that than to read.
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type]  # any buffer does
        try:
            while (reply := self._reader.gets()) is not _MORE:
                self._hand_out(reply)
        except (InvalidResponse, LookupError) as error:  # a reply that nobody asked for
            self._break(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._opener.connection_lost(exc)  # or redis-py, where it closes it, waits for that
        what = str(exc) if exc else "Connection closed by server."
        self._break(RedisConnectionError(what))

    def _hand_out(self, reply: Any) -> None:
        if isinstance(reply, RedisConnectionError):  # it is loading, or knows us no more
            self._break(reply)
            return
        asked = self._asked[0]
        asked.replies.append(reply)
        if len(asked.replies) == asked.count:
            self._asked.popleft()
            if not asked.future.done():  # else whoever asked was cancelled meanwhile
                asked.future.set_result(asked.replies)
        if isinstance(reply, Exception) and is_outage(reply):
            self._break(reply)  # after a failover the master is elsewhere

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
        self._transport.abort()
        self._given_back = self._loop.create_task(self._give_back(), name="sensestream-line")

    async def _give_back(self) -> None:
        try:
            await self._connection.disconnect(nowait=True)
        finally:
            await self._pool.release(self._connection)

    def _watch(self) -> None:
        """One timer for all that is under way, set anew when it is due."""
        if self._timer is None and self._asked:
            self._timer = self._loop.call_at(self._asked[0].since + self._limit, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._asked and self._loop.time() >= self._asked[0].since + self._limit:
            self._break(RedisTimeoutError(f"no reply within {self._limit} s"))
        else:
            self._watch()
