"""The worker: read what there is room for, hand each entry to its handler, drain at the end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import structlog
from redis.exceptions import RedisError
from sensestream_common.connections.connection import redacted_url
from sensestream_common.contract.errors import PipelineError

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.deliveries import Delivery, DeliveryState
from sensestream_consumer.broker.membership import wait_for_redis
from sensestream_consumer.broker.outbox import Commit
from sensestream_consumer.cache.warm_up import warm_up
from sensestream_consumer.components import Components, build_components, open_connections
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.monitoring.readiness import Readiness
from sensestream_consumer.processing.attempts import DeliveryLost
from sensestream_consumer.processing.slots import AtCapacity, TooManyWaiters
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.telemetry.metrics import ENTRIES_LOST
from sensestream_consumer.warm_list import read_warm_list

__all__ = ["Worker"]

log = structlog.get_logger(__name__)

_GOODBYE = 5.0  # seconds that Redis is given to take back what a leaving worker holds
_ENGINE_CLOSE = 0.5  # seconds to wait for clips whose entries were handed back already
_FULL_PAUSE = 0.25  # seconds between looks at the stream while there is no room to read
# Milliseconds that a read blocks: an idle worker has nothing else to do, a busy one has places that
# come free, with work that was handed back to fill them.
_IDLE_BLOCK, _BUSY_BLOCK = 1000, 25
_TOGETHER = 32  # repeats in one commit: Redis does nothing else for so long


class Worker:
    """One consumer of the group. `run` returns after `stop` and the drain."""

    def __init__(
        self, settings: WorkerSettings, load: Callable[[], Recogniser], vitals: Readiness
    ) -> None:
        """`load` gives the model, in a thread; `vitals` are told how the worker does."""
        self.consumer = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._load = load
        self._vitals = vitals
        self._tasks: dict[asyncio.Task[None], tuple[Delivery, ...]] = {}
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()

    def stop(self, *, now: bool = False) -> None:
        """Read nothing more, finish what is started within the drain time, hand back the rest.

        `now` hands back what is started too, uncharged.
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
        janitor = asyncio.create_task(self._parts.janitor.run(), name="janitor")
        try:
            await self._main_loop()
            await self._drain()
        finally:
            await _cancel([janitor])
            await self._shut_down()

    # -- lifecycle ----------------------------------------------------------------------------

    async def _started(self) -> bool:
        """Start up, unless it is told to stop first: Redis may be away for long."""
        starting = asyncio.create_task(self._start_up(), name="start-up")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        await _cancel([stopping])
        if not starting.done():
            await _cancel([starting])
            return False
        await starting
        return True

    async def _start_up(self) -> None:
        settings = self._settings
        recogniser = await asyncio.to_thread(self._load)
        self._connections = open_connections(settings, self.consumer)
        self._vitals.hinder("Redis has not answered yet")
        await wait_for_redis(self._connections.pool, settings.redis_url)
        self._parts = parts = self._assemble(recogniser)
        self._vitals.put_together(parts)
        self._vitals.hinder("it has not joined the group yet")
        await retry_until_available(parts.inbox.create_groups, "create groups")
        await parts.membership.join()
        parts.heartbeat.start()
        await self._warm_up(recogniser)
        self._vitals.ready()
        log.info(
            "worker_ready", consumer=self.consumer, pipeline=settings.pipeline,
            redis=redacted_url(settings.redis_url), model=recogniser.name,
            device=recogniser.device, concurrency=parts.engine.capacity,
        )  # fmt: skip

    async def _warm_up(self, recogniser: Recogniser) -> None:
        if not self._settings.warm_list:
            return
        wanted = await asyncio.to_thread(read_warm_list, Path(self._settings.warm_list))
        keys, ttl = self._settings.keys, self._settings.result_ttl
        commands, fingerprint = self._parts.commands, recogniser.fingerprint
        await retry_until_available(
            lambda: warm_up(commands, keys, fingerprint, wanted, ttl), "warm up"
        )

    def _assemble(self, recogniser: Recogniser) -> Components:
        return build_components(
            self._settings, recogniser, self._connections, self.consumer,
            changed=self._changed.set, on_lost=self._drop,
        )  # fmt: skip

    async def _drain(self) -> None:
        """Finish what is started; what is not, anybody may take at once and uncharged."""
        self._vitals.hinder("it was told to stop")
        await _cancel([task for task, mine in self._tasks.items() if not mine[0].attempt])
        if self._tasks:
            await self._hand_back_idle()
            log.info("draining", started=len(self._tasks), seconds=self._settings.drain_timeout)
            finished = asyncio.ensure_future(asyncio.wait(list(self._tasks)))
            hurried = asyncio.ensure_future(self._hurry.wait())
            await asyncio.wait(
                (finished, hurried),
                timeout=self._settings.drain_timeout,
                return_when=asyncio.FIRST_COMPLETED,
            )
            finished.cancel()
            hurried.cancel()
        await _cancel(list(self._tasks))

    async def _hand_back_idle(self) -> None:
        """What waits for nothing of ours need not wait for the end of the drain."""
        started = [held for mine in self._tasks.values() for held in mine]
        idle = [held for held in self._parts.holding.snapshot()[0] if held not in started]
        try:
            await asyncio.wait_for(self._parts.membership.hand_back(idle), _GOODBYE)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("hand_back_postponed", entries=len(idle), error=repr(error))

    async def _shut_down(self) -> None:
        held = len(self._parts.holding)
        self._parts.heartbeat.stop()  # first, or it would renew what is being given up
        try:
            left = await asyncio.wait_for(self._parts.membership.leave(), _GOODBYE)
            log.info("worker_left", consumer=self.consumer, handed_back=held, left=left)
        except (RedisError, OSError, TimeoutError) as error:
            # Nothing is lost: others take the entries over after SENSESTREAM_RECLAIM_AFTER.
            log.warning("leave_failed", held=held, error=repr(error))
        self._parts.answers.close()
        with contextlib.suppress(TimeoutError):
            # A thread cannot be stopped: what still runs there is nobody's any more.
            await asyncio.wait_for(self._close(), _ENGINE_CLOSE)

    async def _close(self) -> None:
        await self._parts.engine.aclose()
        await self._parts.fetcher.aclose()
        await self._parts.commands.close()
        await self._connections.aclose()

    # -- the loop -----------------------------------------------------------------------------

    async def _main_loop(self) -> None:
        while not self._stopping.is_set():
            self._changed.clear()
            if not self._parts.heartbeat.alive:
                raise PipelineError("the heartbeat's thread has ended: nothing held is renewed")
            older = await self._parts.intake.take_over(self._held)
            for held in older or await self._begin_known(await self._read()):
                self._begin(held)

    @property
    def _held(self) -> int:
        return sum(map(len, self._tasks.values()))

    async def _read(self) -> list[Delivery]:
        """New entries, as many as there is room for; none after a moment without any."""
        count = await self._parts.intake.room(self._held)
        if not count:
            await self._pause(_FULL_PAUSE)
            return []
        entries = await self._parts.inbox.read(count)
        if entries or self._stopping.is_set():
            return entries
        return await self._parts.inbox.wait(count, _BUSY_BLOCK if self._tasks else _IDLE_BLOCK)

    async def _pause(self, seconds: float) -> None:
        """Until something has been answered, or a moment has passed."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    async def _begin_known(self, entries: list[Delivery]) -> list[Delivery]:
        """Begin with the repeats that are remembered, some at a time; the other entries.

        So Redis and the subscribers have the first ones while the next ones are put together.
        """
        others: list[Delivery] = []
        for start in range(0, len(entries), _TOGETHER):
            some = entries[start : start + _TOGETHER]
            known, unknown = self._parts.handler.recall(some)
            others += unknown
            if known:
                self._begin_task(self._repeat(known), *(commit.delivery for commit in known))
                await asyncio.sleep(0)
        return others

    def _begin(self, held: Delivery) -> None:
        self._begin_task(self._handle(held), held)

    def _begin_task(self, work: Coroutine[Any, Any, None], *mine: Delivery) -> None:
        for held in mine:
            self._parts.holding.add(held)
        task = asyncio.create_task(work, name=f"request {mine[0].entry}")
        self._tasks[task] = mine
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        mine = self._tasks.pop(task)
        self._changed.set()
        for held in mine:
            self._parts.places.let_go(held)
        if task.cancelled():
            # At the drain it is handed back; any other cancellation leaves it to be replayed,
            # and not to be renewed for ever.
            if not self._stopping.is_set():
                self._leave(mine)
        elif error := task.exception():
            self._leave(mine)
            for held in mine:
                log.error("request_task_failed", entry=held.entry, exc_info=error)

    def _leave(self, mine: tuple[Delivery, ...]) -> None:
        """Renewed no more, they are replayed after RECLAIM_AFTER."""
        for held in mine:
            self._parts.holding.discard(held)

    async def _repeat(self, batch: list[Commit]) -> None:
        try:
            left = await self._parts.handler.repeat(batch)
        except Exception:
            # One of them cannot be sent, or is refused: by themselves they harm no neighbour.
            log.exception("batch_commit_failed", entries=len(batch))
            left = [commit.delivery for commit in batch if commit.delivery in self._parts.holding]
            for held in left:
                if held.state is DeliveryState.SETTLING:
                    held.reopen()
        for held in left:
            if not self._stopping.is_set():  # else it is handed back with all that is held
                self._begin(held)

    async def _handle(self, held: Delivery) -> None:
        try:
            await self._parts.handler.handle(held)
        except AtCapacity as full:
            await self._return(held, crowd=isinstance(full, TooManyWaiters))
        except DeliveryLost:
            self._parts.holding.discard(held)

    async def _return(self, held: Delivery, *, crowd: bool) -> None:
        await retry_until_available(lambda: self._parts.membership.hand_back([held]), "hand back")
        self._parts.intake.returned(crowd=crowd)

    def _drop(self, held: Delivery) -> None:
        """Another worker owns it: stop working on it (a transcript already made still counts)."""
        if not self._parts.holding.can_lose(held):
            return  # answered, or on its way to be, since the heartbeat looked
        started = held.state is DeliveryState.STARTED
        held.lose()
        ENTRIES_LOST.inc()
        for task, mine in self._tasks.items():
            if mine == (held,) and not started:
                task.cancel()
        self._parts.holding.discard(held)
        if held.lease:
            # Renewed no more: whoever has the entry now would wait for us as long as we live.
            self._parts.holding.discard_lease(held.lease)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they are: before Python 3.12, `asyncio.wait_for` (which redis-py uses)
    swallows a cancellation that comes together with its result.
    """
    while tasks := [task for task in tasks if not task.done()]:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)
