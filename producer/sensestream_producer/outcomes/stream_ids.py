"""Stream ids, and reads of streams."""

from __future__ import annotations

import re
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from sensestream_common.contract.errors import SensestreamError

__all__ = ["ORIGIN", "Entry", "StreamId", "entries", "id_text", "last_id", "parse_id"]

StreamId = tuple[int, int]  # milliseconds since the epoch, and a number within the millisecond
ORIGIN: StreamId = (0, 0)
Entry = tuple[bytes, dict[bytes, bytes]]

_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?")


def parse_id(text: str | bytes) -> StreamId:
    """Parse `1700000000000-0`, or `1700000000000` for the beginning of that millisecond.

    Raises `SensestreamError` for any other text.
    """
    value = text.decode("ascii", "replace") if isinstance(text, bytes) else text
    match = _ID.fullmatch(value)
    if match is None:
        raise SensestreamError(
            f"{value!r} is no position: use 0 (all that is kept), $ (from now on) or a position "
            "that a follower was given, such as 1700000000000-0"
        )
    return int(match[1]), int(match[2] or 0)


def id_text(stream_id: StreamId) -> str:
    """The id as Redis writes it."""
    return f"{stream_id[0]}-{stream_id[1]}"


async def entries(
    redis: Redis, stream: str, first: str = "-", last: str = "+", *, count: int | None = None
) -> list[Entry]:
    """XRANGE, typed as for a connection that does not decode replies."""
    found: Any = await redis.xrange(stream, first, last, count=count)
    return list(found)


async def last_id(redis: Redis, stream: str) -> StreamId:
    """The highest id that the stream has ever given; `ORIGIN` where there is no stream."""
    try:
        info: Any = await redis.xinfo_stream(stream)
    except ResponseError as error:
        if "no such key" in str(error):
            return ORIGIN
        raise
    return parse_id(info["last-generated-id"])
