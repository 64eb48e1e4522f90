"""Many commands in one go, packed in C.

redis-py's asyncio pipeline packs every argument in Python, which for a commit with its sixty
arguments takes longer than all that Redis does with it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ResponseError, TimeoutError as RedisTimeoutError

__all__ = ["exchange", "pack"]


def pack(*command: str | bytes | int) -> bytes:
    """A command as Redis reads it; `UnicodeEncodeError` for text that no UTF-8 can hold."""
    return bytes(hiredis.pack_command(command))  # type: ignore[arg-type]  # a tuple of any length


async def exchange(redis: Redis, packed: Sequence[bytes]) -> list[Any]:
    """The replies to packed commands, in order, as Redis gives them; a refusal is an element.

    Anything else that redis-py raises (the connection, a time-out) fails the whole, and nothing is
    tried again. Which of the commands Redis has run is not known then.
    """
    pool: Any = redis.connection_pool  # its methods have no types
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(packed)
        return await _replies(connection, len(packed))
    except BaseException:
        # Replies that nobody has read would answer the next command on this connection.
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)


async def _replies(connection: Any, count: int) -> list[Any]:
    # One limit for all of them: redis-py would set up a timer for each reply, which takes a tenth
    # of a worker's time.
    try:
        async with asyncio.timeout(connection.socket_timeout):
            return [await _reply(connection) for _ in range(count)]
    except TimeoutError as error:
        raise RedisTimeoutError(f"no reply within {connection.socket_timeout} s") from error


async def _reply(connection: Any) -> Any:
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as error:
        return error
