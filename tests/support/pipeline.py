"""Answers without a worker process: chosen outcomes, by the worker's own commit script.

The requests are read in the workers' group, so that the script finds them as it does in production.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import chain
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys, Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.request import Request, decode_request
from sensestream_producer.transport import raise_if_cancelled

__all__ = ["answer", "answering", "dead_letter", "publish", "requests", "write_outcome"]

CONSUMER = "host-1"
_COMMIT = load_script("sensestream_consumer.broker.lua", "commit")
_REQUEST_TTL = 86_400  # seconds
_LETTER_BYTES_TTL = 7 * 86_400_000  # milliseconds


async def requests(redis: Redis, keys: Keys, lane: Lane = Lane.NORMAL) -> list[tuple[str, Request]]:
    """The unanswered requests of a lane, with their entries."""
    found: Any = await redis.xrange(keys.lane(lane))
    waiting = []
    for entry, raw in found:
        request = decode_request(entry.decode(), raw)
        assert isinstance(request, Request)
        waiting.append((entry.decode(), request))
    return waiting


async def write_outcome(redis: Redis, keys: Keys, outcome: Outcome, stream_id: str = "*") -> str:
    """Add any outcome to the stream; returns its stream id."""
    fields: Any = outcome.encode()
    written: Any = await redis.xadd(keys.transcripts, fields, id=stream_id)
    return str(written.decode())


async def publish(redis: Redis, keys: Keys, outcome: Outcome) -> int:
    return int(await redis.publish(keys.channel, outcome.dumps()))


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
    """Answer one request; returns the outcome's stream id."""
    await _deliver(redis, keys)
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
        attempt=3 if error else 1,
        worker=CONSUMER,
        finished_at=time.time_ns() // 1_000_000,
    )
    letter = _letter(request, outcome, lane) if error and error.dead_letter else {}
    upload = keys.upload(request.id)
    uploaded = request.audio == f"redis:{upload}"
    upload_ttl = (_LETTER_BYTES_TTL if letter else 0) if uploaded else ""
    none = keys.none
    names = [keys.transcripts, keys.dead, keys.webhooks, keys.stats]
    names += [keys.lane(lane), keys.request(request.id), upload if uploaded else none, *[none] * 4]
    arguments: list[Any] = [REQUESTS_GROUP, CONSUMER, _REQUEST_TTL]
    arguments += [entry, 0, outcome.dumps(), outcome.status.value, 1, upload_ttl, 0, "", "", 0, ""]
    arguments += [*_list(outcome.encode()), *_list(letter), *_list({}), *_list({})]
    counters = ["completed", "misses"] if not error else ["failed", *(["dead"] if letter else [])]
    arguments += [len(counters), *counters]
    [reply] = await _COMMIT(redis, names, arguments)
    assert reply[0] == 1, reply
    return str(reply[1].decode())


async def _deliver(redis: Redis, keys: Keys, *, block: int | None = None) -> None:
    """Read what is new in the workers' group, which is created where it is missing."""
    lanes: Any = {keys.requests: ">", keys.requests_high: ">"}
    try:
        await redis.xreadgroup(REQUESTS_GROUP, CONSUMER, lanes, block=block)
    except ResponseError as error:
        if "NOGROUP" not in str(error):
            raise
        for lane in lanes:
            try:
                await redis.xgroup_create(lane, REQUESTS_GROUP, "0", mkstream=True)
            except ResponseError as present:
                if "BUSYGROUP" not in str(present):
                    raise
        await redis.xreadgroup(REQUESTS_GROUP, CONSUMER, lanes)


def _letter(request: Request, outcome: Outcome, lane: Lane) -> dict[str, str]:
    return request.encode() | {
        "dead:entry": outcome.entry,
        "dead:lane": lane.value,
        "dead:error": str(outcome.error),
        "dead:message": outcome.message,
        "dead:attempt": str(outcome.attempt),
        "dead:worker": outcome.worker,
        "dead:at": str(outcome.finished_at),
    }


def _list(fields: Mapping[str, str]) -> list[Any]:
    return [2 * len(fields), *chain.from_iterable(fields.items())]


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
async def answering(
    redis: Redis, keys: Keys, *, text: str = "hello", error: ErrorCode | None = None
) -> AsyncIterator[None]:
    """While inside, every request that waits or is submitted is answered at once."""

    async def answer_all() -> None:
        while True:
            await raise_if_cancelled(_deliver(redis, keys, block=50))
            for lane in (Lane.HIGH, Lane.NORMAL):
                for entry, request in await raise_if_cancelled(requests(redis, keys, lane)):
                    await raise_if_cancelled(
                        answer(redis, keys, entry, request, lane=lane, text=text, error=error)
                    )

    task = asyncio.create_task(answer_all(), name="answering")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (failure := task.exception()):
            raise failure
