"""Being one of the group: let in by Redis, agreeing with the others, and leaving nothing behind."""

from __future__ import annotations

import asyncio

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError
from sensestream_common.connections.connection import redacted_url
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import PipelineError
from sensestream_common.contract.keys import REQUESTS_GROUP

from sensestream_consumer.broker.autopipeline import AutoPipeline, retry_until_available
from sensestream_consumer.broker.deliveries import Delivery, InFlight
from sensestream_consumer.broker.heartbeat import Heartbeat
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.startup.preflight import look_at_redis

__all__ = ["Membership", "wait_for_redis"]

_LEAVE = load_script("sensestream_consumer.broker.lua", "leave")
_RELEASE = load_script("sensestream_consumer.broker.lua", "release_key")


async def wait_for_redis(redis: Redis, url: str) -> None:
    """Wait until Redis answers, and look at it.

    Raises `PipelineError` for a refused password, which no wait will cure.
    """

    async def ping() -> None:
        try:
            await redis.ping()
        except (AuthenticationError, AuthorizationError) as error:
            raise PipelineError(
                f"Redis at {redacted_url(url)} lets nobody in with this user and password: "
                f"{error} (setting SENSESTREAM_REDIS_URL)"
            ) from error

    await retry_until_available(ping, "connect")
    await retry_until_available(lambda: look_at_redis(redis), "look at Redis")


class Membership:
    """One worker's place in the consumer group."""

    def __init__(
        self,
        settings: WorkerSettings,
        recogniser: Recogniser,
        commands: AutoPipeline,
        inbox: Inbox,
        holding: InFlight,
        heartbeat: Heartbeat,
        consumer: str,
    ) -> None:
        self._settings = settings
        self._recogniser = recogniser
        self._commands = commands
        self._inbox = inbox
        self._holding = holding
        self._heartbeat = heartbeat
        self._consumer = consumer
        self._keys = settings.keys

    async def join(self) -> None:
        """Be seen, then refuse a group that runs another recogniser, unless nobody of it is left.

        In this order: of two workers that start together at least one sees the other.
        """
        await retry_until_available(
            lambda: asyncio.to_thread(self._heartbeat.beat), "first heartbeat"
        )
        ours = self._recogniser.fingerprint.encode()
        key = self._keys.recogniser
        named = await retry_until_available(lambda: self._commands("GET", key), "join")
        if named in (None, ours) or self._settings.allow_mixed:
            return  # none: a full Redis refused it, and will not when a beat next offers it
        if not await retry_until_available(self._others_alive, "join"):
            await self._commands.run(_RELEASE, [key], [named])
            await asyncio.to_thread(self._heartbeat.beat)
            named = await self._commands("GET", key)
        if named not in (None, ours):
            await self.leave()
            raise PipelineError(
                f"the workers of pipeline {self._settings.pipeline!r} run another recogniser "
                f"({named.decode()[:12]}…) than this one ({ours.decode()[:12]}…, "
                f"{self._recogniser.name}), so they would share no results and give two answers: "
                "stop them first, use another SENSESTREAM_PIPELINE, or set "
                "SENSESTREAM_ALLOW_MIXED=1"
            )

    async def _others_alive(self) -> bool:
        for stream in (self._keys.requests, self._keys.requests_high):
            for row in await self._commands("XINFO", "CONSUMERS", stream, REQUESTS_GROUP):
                name = dict(zip(row[::2], row[1::2], strict=True))[b"name"].decode()
                alive = await self._commands("EXISTS", self._keys.worker(name))
                if alive and name != self._consumer:
                    return True
        return False

    async def hand_back(self, entries: list[Delivery]) -> None:
        """For anybody to take at once."""
        for held in entries:
            held.settle()
        await self._inbox.hand_back(entries)
        for held in entries:
            held.settled()
            self._holding.discard(held)

    async def leave(self) -> int:
        """Give up all that is held and leave the group; how many entries it could not give up."""
        held, leases = self._holding.snapshot()
        await self.hand_back(held)
        for lease in leases:  # or whoever takes the entry would wait for its end
            await self._commands.run(_RELEASE, [lease.key], [lease.value])
        left: int = await self._commands.run(
            _LEAVE,
            [self._keys.requests_high, self._keys.requests, self._keys.worker(self._consumer)],
            [REQUESTS_GROUP, self._consumer],
        )
        return left
