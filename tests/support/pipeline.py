"""What a worker leaves in Redis, written by hand: for tests of the client without a worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.request import Request, decode_request
from sensestream_producer.transport import raise_if_cancelled

__all__ = ["answer", "answering", "dead_letter", "publish", "requests", "write_outcome"]


async def requests(redis: Redis, keys: Keys, lane: Lane = Lane.NORMAL) -> list[tuple[str, Request]]:
    """The requests that wait, with their entries."""
    found: Any = await redis.xrange(keys.lane(lane))
    waiting = []
    for entry, raw in found:
        request = decode_request(entry.decode(), raw)
        assert isinstance(request, Request)
        waiting.append((entry.decode(), request))
    return waiting


async def write_outcome(redis: Redis, keys: Keys, outcome: Outcome, stream_id: str = "*") -> str:
    """Add an outcome to the stream, as the commit does; its stream id."""
    fields: Any = outcome.encode()
    written: Any = await redis.xadd(keys.transcripts, fields, id=stream_id)
    return str(written.decode())


async def publish(redis: Redis, keys: Keys, outcome: Outcome) -> int:
    return int(await redis.publish(keys.channel, outcome.dumps()))


_COMMIT = """
local outcome = redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3))
redis.call('XDEL', KEYS[2], ARGV[1])
redis.call('HSET', KEYS[3], 'state', 'done', 'status', ARGV[2], 'outcome', outcome,
  'entry', ARGV[1])
redis.call('EXPIRE', KEYS[3], 86400)
return outcome
"""


async def answer(
    redis: Redis,
    keys: Keys,
    entry: str,
    request: Request,
    *,
    lane: Lane = Lane.NORMAL,
    error: ErrorCode | None = None,
    text: str = "hello",
) -> str:
    """What the commit does for one request; the outcome's stream id."""
    outcome = Outcome(
        id=request.id,
        entry=entry,
        audio=request.audio,
        status=Status.FAILED if error else Status.COMPLETED,
        text="" if error else text,
        cache=None if error else CacheUse.MISS,
        error=error,
        message="it cannot be read" if error else "",
        metadata=request.metadata,
    )
    # In one step, as in the commit: whoever sees the outcome sees an empty backlog, and a submit of
    # the same id finds it queued or done.
    fields = [part for field in outcome.encode().items() for part in field]
    arguments: list[Any] = [entry, outcome.status.value, *fields]
    names = [keys.transcripts, keys.lane(lane), keys.request(request.id)]
    reply: Any = await redis.eval(_COMMIT, len(names), *names, *arguments)
    written = str(reply.decode())
    await publish(redis, keys, outcome)
    return written


async def dead_letter(
    redis: Redis,
    keys: Keys,
    fields: dict[str, str],
    *,
    error: ErrorCode,
    letter: str = "*",
    at: int,
) -> str:
    """A request given up on; the letter's id."""
    about = {
        "dead:entry": "1-0",
        "dead:lane": "normal",
        "dead:error": error.value,
        "dead:message": "it cannot be read",
        "dead:attempt": "3",
        "dead:worker": "host-1",
        "dead:at": str(at),
    }
    mapping: Any = {**fields, **about}
    written: Any = await redis.xadd(keys.dead, mapping, id=letter)
    return str(written.decode())


@asynccontextmanager
async def answering(redis: Redis, keys: Keys, *, text: str = "hello") -> AsyncIterator[None]:
    """Everything submitted inside is answered at once."""

    async def answer_all() -> None:
        group = {keys.requests: "0-0", keys.requests_high: "0-0"}
        while True:
            streams: Any = group
            news: Any = await raise_if_cancelled(redis.xread(streams, block=100))
            for stream, entries in news or ():
                group[stream.decode()] = entries[-1][0].decode()
                lane = Lane.HIGH if stream.decode() == keys.requests_high else Lane.NORMAL
                for entry, raw in entries:
                    request = decode_request(entry.decode(), raw)
                    assert isinstance(request, Request)
                    await raise_if_cancelled(
                        answer(redis, keys, entry.decode(), request, lane=lane, text=text)
                    )

    task = asyncio.create_task(answer_all(), name="answering")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            raise error
