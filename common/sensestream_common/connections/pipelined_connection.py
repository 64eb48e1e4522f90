"""Many commands in one go: packed in C, over one connection that is kept.

redis-py's asyncio pipeline packs every argument in Python, which for a commit with its sixty
arguments takes longer than all that Redis does with it. It also takes a connection from the pool
for each exchange, gives it back, and reads it through a stream under a timer. Here many exchanges
may be under way, and replies go from the socket to their callers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError, NoScriptError

from sensestream_common.connections.exchanges import (
    CLOSED,
    FallbackExchanges,
    ReplyProtocol,
    open_exchanges,
)
from sensestream_common.connections.scripts import Script

__all__ = ["EncodedArgs", "PipelinedConnection", "encode_arg", "encode_args", "pack"]


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
        self._exchanges: ReplyProtocol | FallbackExchanges | None = None

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

    async def _open(self) -> ReplyProtocol | FallbackExchanges:
        times_closed = self._times_closed
        async with self._opening:
            if self._exchanges is None or self._exchanges.broken:
                self._exchanges = open_exchanges(self._pool, await self._pool.get_connection())
            if self._times_closed > times_closed:  # meanwhile
                await self._exchanges.close()
                raise RedisConnectionError(CLOSED)
            return self._exchanges
