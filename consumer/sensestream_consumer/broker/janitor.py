"""Keeps streams within their retention: one worker at a time, once a minute, on Redis's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from redis.exceptions import RedisError
from sensestream_common.connections.connection import is_out_of_memory
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.keys import (
    HANDED_BACK,
    HANDED_BACK_IDLE,
    REQUESTS_GROUP,
    Lane,
)

from sensestream_consumer.broker.broker import Broker

__all__ = ["Janitor"]

log = structlog.get_logger(__name__)

_TRIM = load_script("sensestream_consumer.broker.lua", "trim")
_LEAVE = load_script("sensestream_consumer.broker.lua", "leave")
_ADOPT = load_script("sensestream_consumer.broker.lua", "adopt")
_PERIOD = 60.0  # seconds
_ORPHAN_TTL_MS = 3_600_000  # an upload without its request: an hour's grace, then it is gone
_MOST_ADOPTED = 2000  # entries looked at in one step, which takes some milliseconds of Redis
_CONSUMER_IDLE_MS = 3_600_000  # a dead worker's consumer that holds nothing


class Janitor:
    """Trims outcomes and dead letters, and sweeps the remains of crashes."""

    def __init__(
        self,
        broker: Broker,
        *,
        transcripts_ttl: int,
        transcripts_max: int,
        dead_max: int,
        chores: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        """`transcripts_ttl` is in seconds; `chores` are called at the end of each sweep."""
        self._broker = broker
        self._limits = [transcripts_ttl * 1000, transcripts_max, dead_max]
        self._chores = chores

    async def run(self) -> None:
        """Sweep once a minute, if no other worker of the pipeline does."""
        while True:
            try:
                if await self._is_mine():
                    await self.sweep()
            except (RedisError, OSError) as error:
                log.warning("janitor_failed", error=str(error))
            await asyncio.sleep(_PERIOD)

    async def sweep(self) -> None:
        """Trim the streams, sweep the remains of crashes, and do the chores, once."""
        names = self._broker.keys
        trimmed = await self._broker.run(
            _TRIM, [names.transcripts, names.trimmed, names.dead, names.webhooks], self._limits
        )
        if any(trimmed):
            log.info(
                "streams_trimmed", transcripts=trimmed[0], dead=trimmed[1], webhooks=trimmed[2]
            )
        await self._adopt_requests()
        await self._sweep_uploads()
        await self._sweep_consumers()
        for chore in self._chores:
            await chore()

    async def _is_mine(self) -> bool:
        lock = self._broker.keys.janitor
        # A little less than the period, so that the lock never outlives the turn it guards.
        try:
            reply = await self._broker.commands(
                "SET", lock, "1", "NX", "PX", int((_PERIOD - 1) * 1000)
            )
        except RedisError as error:
            if not is_out_of_memory(error):
                raise
            # A full Redis is the one to trim, and two workers that do it harm nothing.
            return True
        return reply is not None

    async def _adopt_requests(self) -> None:
        """Let any worker take the entries of a consumer that was removed by hand."""
        for lane in Lane:
            adopted = await self._broker.run(
                _ADOPT,
                [self._broker.keys.lane(lane)],
                [REQUESTS_GROUP, HANDED_BACK, HANDED_BACK_IDLE, _MOST_ADOPTED],
            )
            if adopted:
                log.warning("requests_adopted", lane=lane.value, count=len(adopted))

    async def _sweep_uploads(self) -> None:
        """Give a TTL to uploads whose request was deleted by hand."""
        cursor = b"0"
        while True:
            cursor, found = await self._broker.commands(
                "SCAN", cursor, "MATCH", _glob(self._broker.keys.upload_prefix), "COUNT", 500
            )
            for key in found:
                await self._sweep_upload(key.decode("utf-8", "replace"))
            if cursor == b"0":
                return

    async def _sweep_upload(self, key: str) -> None:
        if await self._broker.commands("PTTL", key) != -1:
            return
        request = self._broker.keys.request(key.removeprefix(self._broker.keys.upload_prefix))
        entry = await self._broker.commands("HGET", request, "entry")
        for lane in Lane:
            stream = self._broker.keys.lane(lane)
            # Without a request key it may belong to any entry that still waits (a plain XADD).
            if entry is None and await self._broker.commands("XLEN", stream):
                return
            if entry is not None and await self._broker.commands("XRANGE", stream, entry, entry):
                return
        await self._broker.commands("PEXPIRE", key, _ORPHAN_TTL_MS)
        log.info("orphaned_upload", key=key)

    async def _sweep_consumers(self) -> None:
        """Remove the consumers of dead workers whose entries others have taken over."""
        lanes = [self._broker.keys.lane(lane) for lane in (Lane.HIGH, Lane.NORMAL)]
        for lane in lanes:
            for row in await self._broker.commands("XINFO", "CONSUMERS", lane, REQUESTS_GROUP):
                facts = dict(zip(row[::2], row[1::2], strict=True))
                name = facts[b"name"].decode("utf-8", "replace")
                if name == HANDED_BACK or facts[b"idle"] < _CONSUMER_IDLE_MS:
                    continue
                if facts[b"pending"] or await self._broker.commands(
                    "EXISTS", self._broker.keys.worker(name)
                ):
                    continue
                await self._broker.run(
                    _LEAVE, [*lanes, self._broker.keys.worker(name)], [REQUESTS_GROUP, name]
                )


def _glob(prefix: str) -> str:
    """A SCAN pattern for a prefix taken literally (`{` and `}` mean nothing to Redis's globs)."""
    return "".join("\\" + char if char in "*?[]\\" else char for char in prefix) + "*"
