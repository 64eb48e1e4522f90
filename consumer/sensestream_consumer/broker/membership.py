"""Membership of the consumer group: joining it and leaving it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import PipelineError
from sensestream_common.contract.keys import REQUESTS_GROUP

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import InFlight
from sensestream_consumer.broker.heartbeat import Heartbeat
from sensestream_consumer.broker.inbox import Inbox

__all__ = ["GroupIdentity", "Membership"]

_LEAVE = load_script("sensestream_consumer.broker.lua", "leave")
_RELEASE = load_script("sensestream_consumer.broker.lua", "release_key")


@dataclass(frozen=True, slots=True)
class GroupIdentity:
    """The group that a worker joins, and the recogniser that its members must share."""

    pipeline: str
    fingerprint: str
    model: str  # the recogniser's name, for the message of a refusal
    allow_mixed: bool  # join even where the others run another recogniser


class Membership:
    """One worker's place in the consumer group."""

    def __init__(
        self,
        broker: Broker,
        identity: GroupIdentity,
        inbox: Inbox,
        in_flight: InFlight,
        heartbeat: Heartbeat,
    ) -> None:
        self._broker = broker
        self._identity = identity
        self._inbox = inbox
        self._in_flight = in_flight
        self._heartbeat = heartbeat

    async def join(self) -> None:
        """Announce this worker, then look whether the group runs another recogniser.

        In this order: of two workers that start together at least one sees the other. Raises
        `PipelineError` where workers with another recogniser live.
        """
        await retry_until_available(
            lambda: asyncio.to_thread(self._heartbeat.beat), "first heartbeat"
        )
        ours = self._identity.fingerprint.encode()
        key = self._broker.keys.recogniser
        named = await retry_until_available(lambda: self._broker.commands("GET", key), "join")
        if named in (None, ours) or self._identity.allow_mixed:
            return  # none: a full Redis refused it, and will not when a beat next offers it
        if not await retry_until_available(self._others_alive, "join"):
            await self._broker.run(_RELEASE, [key], [named])
            await asyncio.to_thread(self._heartbeat.beat)
            named = await self._broker.commands("GET", key)
        if named not in (None, ours):
            await self.leave()
            raise PipelineError(
                f"the workers of pipeline {self._identity.pipeline!r} run another recogniser "
                f"({named.decode()[:12]}…) than this one ({ours.decode()[:12]}…, "
                f"{self._identity.model}), so they would share no results and give two answers: "
                "stop them first, use another SENSESTREAM_PIPELINE, or set "
                "SENSESTREAM_ALLOW_MIXED=1"
            )

    async def _others_alive(self) -> bool:
        keys = self._broker.keys
        for stream in (keys.requests, keys.requests_high):
            for row in await self._broker.commands("XINFO", "CONSUMERS", stream, REQUESTS_GROUP):
                name = dict(zip(row[::2], row[1::2], strict=True))[b"name"].decode()
                alive = await self._broker.commands("EXISTS", keys.worker(name))
                if alive and name != self._broker.consumer:
                    return True
        return False

    async def leave(self) -> int:
        """Hand back all that is in flight and leave the group.

        Returns how many entries could not be handed back.
        """
        deliveries, leases = self._in_flight.snapshot()
        await self._inbox.hand_back(deliveries)
        for lease in leases:  # the next worker of the entry would wait for its end
            await self._broker.run(_RELEASE, [lease.key], [lease.value])
        keys = self._broker.keys
        left: int = await self._broker.run(
            _LEAVE,
            [keys.requests_high, keys.requests, keys.worker(self._broker.consumer)],
            [REQUESTS_GROUP, self._broker.consumer],
        )
        return left
