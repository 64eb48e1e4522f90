"""Following outcomes from the stream: resumable, with every loss reported as a gap.

Each batch is read in one MULTI with the ids trimmed so far, so that no outcome can be trimmed
unnoticed between the check and the read. The blocking read only tells when to read a batch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from enum import StrEnum

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sensestream_common.connections.connection import BLOCK_SECONDS
from sensestream_common.connections.retry import Backoff
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome, outcome_from_entry

from sensestream_producer.outcomes.stream_ids import (
    ORIGIN,
    Entry,
    StreamId,
    id_text,
    last_id,
    parse_id,
)
from sensestream_producer.transport import (
    RedisTransport,
    cancellations,
    is_retryable,
    raise_if_cancelled,
)

__all__ = ["FollowedOutcome", "Follower", "Gap", "GapReason", "follow"]

_COUNT = 128
_REWIND_MS = 60_000  # beyond any replication lag that a failover may take back
_REMEMBERED = 65_536  # delivered entries kept, to skip those that come again after a rewind

log = structlog.get_logger("sensestream.client")


@dataclass(frozen=True, slots=True)
class FollowedOutcome:
    """One outcome, and the position from which a follower goes on behind it."""

    position: str
    outcome: Outcome


class GapReason(StrEnum):
    """The reason why outcomes may be missing."""

    TRIMMED = "trimmed"  # the follower came back after the outcomes' retention
    REWOUND = "rewound"  # Redis lost its latest writes: a failover, a restart, a FLUSHALL


@dataclass(frozen=True, slots=True)
class Gap:
    """Outcomes after `lost_after` may be missing, up to `lost_until`.

    The follower goes on behind `position`. After `REWOUND` some outcomes may come again that an
    earlier follower was given: recognise them by their `entry`.
    """

    position: str
    reason: GapReason
    lost_after: str
    lost_until: str


async def follow(
    link: RedisTransport, keys: Keys, position: str
) -> AsyncGenerator[FollowedOutcome | Gap]:
    """Yield the outcomes behind `position`, for ever: `0` all that are kept, `$` only new ones.

    Goes on across lost connections and restarts of Redis. Raises `SensestreamError` for an
    invalid position, and `RedisUnavailable` when Redis cannot be reached at the start.
    """
    before = cancellations()
    follower = Follower(link, keys, await _start(link, keys, position))
    redis = link.reader("follow")
    backoff = Backoff()
    away = False
    try:
        while True:
            try:
                events = await raise_if_cancelled(follower.read(redis), before)
                if not events:
                    await raise_if_cancelled(follower.wait(redis), before)
            except (RedisError, OSError) as error:
                if not is_retryable(error):
                    raise link.translate(error) from error
                if not away:
                    log.warning("redis_away", reason=str(error))
                away = True
                await backoff.wait()
                continue
            away = False
            backoff.reset()
            for event in events:
                yield event
    finally:
        await redis.aclose()


async def _start(link: RedisTransport, keys: Keys, position: str) -> StreamId:
    start = None if position == "$" else parse_id(position)
    last = await link.run(lambda: last_id(link.redis, keys.transcripts))
    return last if start is None else start


class Follower:
    """The state of one follow; `position` is the last entry that was yielded or skipped."""

    def __init__(self, link: RedisTransport, keys: Keys, position: StreamId) -> None:
        self._link = link
        self._keys = keys
        self.position = position
        self._delivered: OrderedDict[StreamId, bytes] = OrderedDict()

    async def wait(self, redis: Redis) -> None:
        """Return when an entry comes behind the position, or after `BLOCK_SECONDS`."""
        await redis.xread(
            {self._keys.transcripts: id_text(self.position)},
            count=1,
            block=round(BLOCK_SECONDS * 1000),
        )

    async def read(self, redis: Redis) -> list[FollowedOutcome | Gap]:
        """The next events; empty when no entry is behind the position."""
        trimmed, last, entries = await self._batch(redis)
        if last < self.position:
            return [self._rewind(last)]
        events: list[FollowedOutcome | Gap] = []
        if ORIGIN < self.position < trimmed:
            events.append(self._skip(trimmed))
        events += [event for entry in entries if (event := self._event(entry))]
        return events

    async def _batch(self, redis: Redis) -> tuple[StreamId, StreamId, list[Entry]]:
        """The highest trimmed id, the highest id ever given, and the next entries."""
        async with redis.pipeline(transaction=True) as pipe:
            pipe.get(self._keys.trimmed)
            pipe.xinfo_stream(self._keys.transcripts)
            pipe.xread({self._keys.transcripts: id_text(self.position)}, count=_COUNT)
            trimmed, info, read = await pipe.execute(raise_on_error=False)
        for answer in (trimmed, read):
            if isinstance(answer, Exception):
                raise answer
        if isinstance(info, Exception):
            if not isinstance(info, ResponseError) or "no such key" not in str(info):
                raise info
            info = {"last-generated-id": b"0-0"}
        deleted = info.get("max-deleted-entry-id", b"0-0")  # Redis 7: by XDEL
        lost = max(parse_id(trimmed or b"0-0"), parse_id(deleted))
        return lost, parse_id(info["last-generated-id"]), read[0][1] if read else []

    def _skip(self, trimmed: StreamId) -> Gap:
        before, self.position = self.position, trimmed
        return Gap(id_text(trimmed), GapReason.TRIMMED, id_text(before), id_text(trimmed))

    def _rewind(self, last: StreamId) -> Gap:
        before, self.position = self.position, (max(0, last[0] - _REWIND_MS), 0)
        return Gap(id_text(self.position), GapReason.REWOUND, id_text(last), id_text(before))

    def _event(self, entry: Entry) -> FollowedOutcome | None:
        stream_id, raw = parse_id(entry[0]), entry[1]
        self.position = max(self.position, stream_id)
        request = raw.get(b"entry", b"")
        if self._delivered.get(stream_id) == request:
            return None  # yielded before a rewind
        try:
            followed = FollowedOutcome(id_text(stream_id), outcome_from_entry(raw))
        except SensestreamError as error:
            log.warning("foreign entry skipped", entry=id_text(stream_id), reason=str(error))
            return None
        self._delivered[stream_id] = request
        if len(self._delivered) > _REMEMBERED:
            self._delivered.popitem(last=False)
        return followed
