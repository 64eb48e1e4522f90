"""The worker: start, read as much as there is room for, drain, leave."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import structlog
from redis.exceptions import RedisError
from sensestream_common.connections.connection import redacted_url
from sensestream_common.contract.errors import PipelineError

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.cache.warm_up import warm_up
from sensestream_consumer.components import Components, build_components, open_connections
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.monitoring.readiness import MonitoredParts, Readiness
from sensestream_consumer.processing.dispatcher import cancel
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.startup.preflight import wait_for_redis
from sensestream_consumer.warm_list import read_warm_list

__all__ = ["Worker"]

log = structlog.get_logger(__name__)

_LEAVE_PATIENCE = 5.0  # seconds that Redis has to take back the entries of a leaving worker
_CLOSE_PATIENCE = 0.5  # seconds to wait for clips whose entries were handed back already
_FULL_PAUSE = 0.25  # seconds between looks at the stream while there is no room to read
# Milliseconds that a read blocks: an idle worker has nothing else to do; a busy one has slots that
# come free, and entries that were handed back to fill them.
_IDLE_BLOCK, _BUSY_BLOCK = 1000, 25


class Worker:
    """One consumer of the group. `run` returns after `stop` and the drain."""

    def __init__(
        self, settings: WorkerSettings, load: Callable[[], Recogniser], readiness: Readiness
    ) -> None:
        """`load` returns the model, and is called in a thread; `readiness` is kept up to date."""
        self.consumer = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._load = load
        self._readiness = readiness
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()  # there may be room again

    def stop(self, *, now: bool = False) -> None:
        """Read nothing more, finish the started requests within the drain time, hand back the rest.

        `now` hands back the started ones too, uncharged.
        """
        self._stopping.set()
        if now:
            self._hurry.set()
        self._changed.set()

    async def run(self) -> None:
        """Join the group, work until stopped, drain, leave.

        Raises what `load` does, and `PipelineError` when the group runs another recogniser.
        """
        if not await self._started():
            return
        parts = self._parts
        janitor = asyncio.create_task(parts.janitor.run(), name="janitor")
        try:
            await self._main_loop()
            self._readiness.block("it was told to stop")
            await parts.dispatcher.drain(self._settings.drain_timeout, self._hurry)
        finally:
            await cancel([janitor])
            await parts.dispatcher.close()
            await self._shut_down()

    # -- start --------------------------------------------------------------------------------

    async def _started(self) -> bool:
        """Start up, unless it is told to stop first: Redis may be away for long."""
        starting = asyncio.create_task(self._start_up(), name="start-up")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        await cancel([stopping])
        if not starting.done():
            await cancel([starting])
            return False
        await starting
        return True

    async def _start_up(self) -> None:
        settings = self._settings
        recogniser = await asyncio.to_thread(self._load)
        connections = open_connections(settings, self.consumer)
        self._readiness.block("Redis has not answered yet")
        await wait_for_redis(connections.pool, settings.redis_url)
        self._parts = parts = build_components(
            settings, recogniser, connections, self.consumer, on_changed=self._changed.set
        )
        self._readiness.observe(_monitored(settings.pipeline, parts))
        self._readiness.block("it has not joined the group yet")
        await retry_until_available(parts.inbox.create_groups, "create groups")
        await parts.membership.join()
        parts.heartbeat.start()
        await self._warm_up(recogniser)
        self._readiness.ready()
        log.info(
            "worker_ready",
            consumer=self.consumer,
            pipeline=settings.pipeline,
            redis=redacted_url(settings.redis_url),
            model=recogniser.name,
            device=recogniser.device,
            concurrency=parts.engine.capacity,
        )

    async def _warm_up(self, recogniser: Recogniser) -> None:
        if not self._settings.warm_list:
            return
        wanted = await asyncio.to_thread(read_warm_list, Path(self._settings.warm_list))
        broker, ttl = self._parts.broker, self._settings.result_ttl
        await retry_until_available(
            lambda: warm_up(broker, recogniser.fingerprint, wanted, ttl), "warm up"
        )

    # -- the loop -----------------------------------------------------------------------------

    async def _main_loop(self) -> None:
        parts = self._parts
        while not self._stopping.is_set():
            self._changed.clear()
            if not parts.heartbeat.alive:
                raise PipelineError("the heartbeat's thread has ended: nothing is renewed any more")
            if older := await parts.flow_control.reclaim(parts.dispatcher.count):
                parts.dispatcher.dispatch(older)
            else:
                await parts.dispatcher.dispatch_new(await self._read())

    async def _read(self) -> list[Delivery]:
        """New entries, as many as there is room for; none after a moment without any."""
        parts = self._parts
        count = await parts.flow_control.read_budget(parts.dispatcher.count)
        if not count:
            await self._pause(_FULL_PAUSE)
            return []
        entries = await parts.inbox.read(count)
        if entries or self._stopping.is_set():
            return entries
        block = _BUSY_BLOCK if parts.dispatcher.count else _IDLE_BLOCK
        return await parts.inbox.wait(count, block)

    async def _pause(self, seconds: float) -> None:
        """Return when there may be room again, or after some seconds."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    # -- end ----------------------------------------------------------------------------------

    async def _shut_down(self) -> None:
        parts = self._parts
        in_flight = len(parts.in_flight)
        parts.heartbeat.stop()  # first, or it would renew what is being handed back
        try:
            left = await asyncio.wait_for(parts.membership.leave(), _LEAVE_PATIENCE)
            log.info("worker_left", consumer=self.consumer, handed_back=in_flight, left=left)
        except (RedisError, OSError, TimeoutError) as error:
            # Nothing is lost: others take the entries over after SENSESTREAM_RECLAIM_AFTER.
            log.warning("leave_failed", in_flight=in_flight, error=repr(error))
        parts.transcribing.close()
        with contextlib.suppress(TimeoutError):
            # A thread cannot be stopped: nothing waits for the clips that still run there.
            await asyncio.wait_for(parts.aclose(), _CLOSE_PATIENCE)


def _monitored(pipeline: str, parts: Components) -> MonitoredParts:
    return MonitoredParts(
        pipeline=pipeline,
        broker=parts.broker,
        inbox=parts.inbox,
        heartbeat=parts.heartbeat,
        in_flight=parts.in_flight,
        engine=parts.engine,
        slots=parts.slots,
    )
