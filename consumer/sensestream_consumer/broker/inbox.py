"""The worker's side of the request streams: reading, taking over, handing back.

A read is never cancelled: its reply may have claimed entries, which would then belong to a worker
that does not know of them.
"""

from __future__ import annotations

from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sensestream_common.connections.connection import is_out_of_memory, is_outage
from sensestream_common.connections.retry import Backoff
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import PipelineError
from sensestream_common.contract.keys import (
    HANDED_BACK,
    HANDED_BACK_IDLE,
    REQUESTS_GROUP,
    Lane,
)

from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, InFlight
from sensestream_consumer.broker.fair_share import FairShare
from sensestream_consumer.telemetry.connection_state import ConnectionState
from sensestream_consumer.telemetry.metrics import (
    DELIVERIES,
    ENTRIES_HANDED_BACK,
    GROUPS_RECREATED,
    RETRIES,
)

__all__ = ["Inbox"]

log = structlog.get_logger(__name__)

_READ = load_script("sensestream_consumer.broker.lua", "read")
_TAKE = load_script("sensestream_consumer.broker.lua", "take")
_HAND_BACK = load_script("sensestream_consumer.broker.lua", "hand_back")

_LANES = (Lane.HIGH, Lane.NORMAL)


class Inbox:
    """Deliveries in: new entries, handed-back ones and those of workers that died."""

    def __init__(self, reader: Redis, broker: Broker, in_flight: InFlight) -> None:
        self._reader = reader
        self._broker = broker
        self._in_flight = in_flight
        self._streams = [broker.keys.lane(lane) for lane in _LANES]
        self._backoff = Backoff()
        self._reading, self._taking = FairShare(), FairShare()
        self.connection_state = ConnectionState("reader")

    async def create_groups(self) -> int:
        """Make the group of both lanes, from the first entry on, and join it; may be repeated.

        Returns how many groups there were not.

        Joining at once, and not with the first entry, makes the group's list of consumers the
        list of its workers.
        """
        created = 0
        for stream in self._streams:
            if not await self._has_group(stream):
                created += await self._create_group(stream)
            try:
                await self._reader.xgroup_createconsumer(
                    stream, REQUESTS_GROUP, self._broker.consumer
                )
            except ResponseError as error:
                # A full Redis refuses it, and lets the first XREADGROUP do the same.
                if not is_out_of_memory(error):
                    raise
        return created

    async def _has_group(self, stream: str) -> bool:
        """Looked up first: where memory is full, making it again is refused as if it were new."""
        try:
            groups = await self._reader.xinfo_groups(stream)
        except ResponseError as error:
            if "WRONGTYPE" in str(error):
                raise PipelineError(
                    f"{stream} holds something that is no stream: rename or delete that key, "
                    "or use another SENSESTREAM_PIPELINE"
                ) from error
            return False  # no such key
        return any(group["name"] == REQUESTS_GROUP.encode() for group in groups)

    async def _create_group(self, stream: str) -> bool:
        try:
            await self._reader.xgroup_create(stream, REQUESTS_GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):  # another worker was faster
                raise
            return False
        log.info("group_created", stream=stream)
        await self._broker.commands("HINCRBY", self._broker.keys.stats, "groups_created", 1)
        return True

    async def read(self, count: int) -> list[Delivery]:
        """At most `count` new entries, the high lane first but for its share; none if none wait."""
        normal_quota = self._reading.reserved(count)
        reply = await self._guarded(
            self._broker.run(
                _READ,
                self._streams,
                [REQUESTS_GROUP, self._broker.consumer, count, normal_quota],
            )
        )
        if not reply:
            return []
        high, normal, more = (
            [_delivery(lane, entry, fields) for entry, fields in entries]
            for lane, entries in zip((*_LANES, Lane.HIGH), reply, strict=True)
        )
        # The reserved ones first: behind a batch of the high lane they would find the slots taken
        # each time, and be handed back.
        deliveries = [*normal[:normal_quota], *high, *normal[normal_quota:], *more]
        self._reading.record(deliveries)
        return _delivered(deliveries)

    async def wait(self, count: int, block_ms: int) -> list[Delivery]:
        """The next new entries, or none after `block_ms`."""
        reply = await self._guarded(
            self._reader.execute_command(  # type: ignore[no-untyped-call]
                "XREADGROUP", "GROUP", REQUESTS_GROUP, self._broker.consumer,
                "COUNT", max(1, count // 2), "BLOCK", block_ms,
                "STREAMS", *self._streams, ">", ">",
            ),
            self.connection_state,
        )  # fmt: skip
        lanes = {stream.encode(): lane for stream, lane in zip(self._streams, _LANES, strict=True)}
        return _delivered(
            [
                Delivery(lanes[stream], entry.decode(), fields)
                for stream, entries in reply or ()
                for entry, fields in entries
            ]
        )

    async def take(self, count: int, min_idle_ms: int) -> list[Delivery]:
        """At most `count` entries that no worker has renewed for `min_idle_ms`."""
        # The fair share applies here too, or a busy high lane starves the normal lane's requests
        # that were handed back.
        turns = [
            (Lane.NORMAL, self._taking.reserved(count)),
            (Lane.HIGH, count),
            (Lane.NORMAL, count),
        ]
        taken: list[Delivery] = []
        for lane, most in turns:
            taken += await self._take(lane, min(most, count - len(taken)), min_idle_ms)
        self._taking.record(taken)
        return taken

    async def _take(self, lane: Lane, count: int, min_idle_ms: int) -> list[Delivery]:
        if count <= 0:
            return []
        reply = await self._guarded(
            self._broker.run(
                _TAKE,
                [self._broker.keys.lane(lane), self._broker.keys.stats],
                [REQUESTS_GROUP, self._broker.consumer, min_idle_ms, count, HANDED_BACK],
            )
        )
        entries, reclaimed = reply or ((), 0)
        DELIVERIES.labels("handed_back").inc(len(entries) - reclaimed)
        DELIVERIES.labels("reclaimed").inc(reclaimed)
        if reclaimed:
            log.warning("entries_reclaimed", lane=lane.value, count=reclaimed)
        return [
            _delivery(lane, entry, fields, deliveries - 1) for entry, fields, deliveries in entries
        ]

    async def hand_back(self, deliveries: list[Delivery]) -> None:
        """Let any worker take these at once, as they were: starts of ours are not charged.

        May be repeated after a lost reply.
        """
        for delivery in deliveries:
            delivery.settle()
        for lane in _LANES:
            await self._hand_back(lane, [each for each in deliveries if each.lane is lane])
        for delivery in deliveries:
            delivery.settled()
            self._in_flight.discard(delivery)

    async def _hand_back(self, lane: Lane, deliveries: list[Delivery]) -> None:
        if deliveries:
            pairs = [part for each in deliveries for part in (each.entry, each.starts + 1)]
            given = await self._broker.run(
                _HAND_BACK,
                [self._broker.keys.lane(lane)],
                [REQUESTS_GROUP, self._broker.consumer, HANDED_BACK, HANDED_BACK_IDLE, *pairs],
            )
            ENTRIES_HANDED_BACK.inc(given)

    async def handed_back(self, most: int) -> int:
        """How many handed-back entries wait for a worker with room, counted up to `most`."""
        count = 0
        for stream in self._streams:
            rows = await self._guarded(
                self._broker.commands(
                    "XPENDING", stream, REQUESTS_GROUP, "-", "+", most, HANDED_BACK
                )
            )
            count += len(rows or ())
        return count

    async def _guarded(self, reply: Any, state: ConnectionState | None = None) -> Any:
        """The reply; `None` after having waited a little where Redis cannot give one now."""
        try:
            answer = await reply
        except (RedisError, OSError) as error:
            if is_outage(error):
                if state:
                    state.failed()
                log.warning("redis_away", error=str(error))
                RETRIES.labels("redis").inc()
                await self._backoff.wait()
            else:
                await self._repair(error)
            return None
        if state:
            state.answered()
        self._backoff.reset()
        return answer

    async def _repair(self, error: Exception) -> None:
        text = str(error)
        # A reader whose group is gone fails at once and ignores BLOCK: without the wait this
        # would be a hot loop. The group is lost with FLUSHALL, DEL or a lost data set.
        await self._backoff.wait()
        if "NOGROUP" in text or "UNBLOCKED" in text:
            try:
                GROUPS_RECREATED.inc(await self.create_groups())
            except (RedisError, OSError, PipelineError) as failure:
                log.warning("group_not_created", error=str(failure))
        elif "WRONGTYPE" in text:
            log.error(
                "requests_key_is_no_stream",
                streams=self._streams,
                fix="rename or delete the key: the worker goes on by itself",
            )
        else:
            log.error("redis_refused", error=text)


def _delivered(deliveries: list[Delivery]) -> list[Delivery]:
    DELIVERIES.labels("new").inc(len(deliveries))
    return deliveries


def _delivery(lane: Lane, entry: bytes, fields: list[bytes], starts: int = 0) -> Delivery:
    return Delivery(
        lane, entry.decode(), dict(zip(fields[::2], fields[1::2], strict=True)), starts=starts
    )
