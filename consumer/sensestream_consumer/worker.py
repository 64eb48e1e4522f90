"""The worker: read what there is room for, hand each entry to its handler, drain at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError
from sensestream_common.connection import (
    connect,
    connect_blocking,
    redacted_url,
)
from sensestream_common.errors import PipelineError
from sensestream_common.keys import Keys

from sensestream_consumer.answers import Answers
from sensestream_consumer.audio import AudioPolicy, Fetcher
from sensestream_consumer.backoff import until_redis_answers
from sensestream_consumer.cache import Cache
from sensestream_consumer.commands import Commands
from sensestream_consumer.engine import Engine, Recogniser
from sensestream_consumer.handler import Handler
from sensestream_consumer.holding import Heartbeat, Held, Holding, Presence
from sensestream_consumer.inbox import HANDED_BACK_IDLE, Inbox
from sensestream_consumer.janitor import Janitor
from sensestream_consumer.membership import Membership, knock
from sensestream_consumer.outbox import Outbox
from sensestream_consumer.room import EngineRoom, NoRoom, Places
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.starts import EntryLost, Starts

__all__ = ["Worker"]

log = structlog.get_logger(__name__)

_PLACES_PER_SLOT = 4  # misses in hand for each that the engine runs: it never waits for a fetch
_TAKE_PERIOD = 0.5  # seconds between looks for entries to take over, while places are free
_GOODBYE = 5.0  # seconds that Redis is given to take back what a leaving worker holds
_ENGINE_CLOSE = 0.5  # seconds to wait for clips whose entries were handed back already
_FULL_PAUSE = 0.25  # seconds between looks at the stream while there is no room to read


class Worker:
    """One consumer of the group. `run` returns after `stop` and the drain."""

    def __init__(self, settings: WorkerSettings, recogniser: Recogniser) -> None:
        self.consumer = f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self._settings = settings
        self._recogniser = recogniser
        self._keys: Keys = settings.keys
        self._holding = Holding()
        self._tasks: dict[asyncio.Task[None], Held] = {}
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        self._next_take = 0.0

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

        Raises `PipelineError` when the group runs another recogniser.
        """
        if not await self._started():
            return
        janitor = asyncio.create_task(self._janitor.run(), name="janitor")
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
        settings, keys = self._settings, self._keys
        name = f"sensestream-worker:{self.consumer}"
        self._reader = connect(settings.redis_url, name=f"{name}:reader", connections=1)
        self._pool = connect(settings.redis_url, name=name)
        self._commands = Commands(self._pool)
        self._inbox = Inbox(self._reader, self._commands, keys, self.consumer)
        await knock(self._pool, settings.redis_url)
        await until_redis_answers(self._inbox.create_groups, "create groups")
        self._heartbeat = self._make_heartbeat(name)
        self._membership = Membership(
            settings, self._recogniser, self._commands, self._inbox, self._holding,
            self._heartbeat, self.consumer,
        )  # fmt: skip
        await self._membership.join()
        self._engine = Engine(self._recogniser, concurrency=settings.concurrency)
        self._places = Places(self._engine.capacity * _PLACES_PER_SLOT, self._changed.set)
        self._handler = self._make_handler()
        self._janitor = Janitor(
            self._commands, keys,
            transcripts_ttl=settings.transcripts_ttl,
            transcripts_max=settings.transcripts_max,
            dead_max=settings.dead_max,
        )  # fmt: skip
        self._heartbeat.start()
        log.info(
            "worker_ready", consumer=self.consumer, pipeline=settings.pipeline,
            redis=redacted_url(settings.redis_url), model=self._recogniser.name,
            device=self._recogniser.device, concurrency=self._engine.capacity,
        )  # fmt: skip

    def _make_heartbeat(self, name: str) -> Heartbeat:
        settings = self._settings
        timeout = max(1.0, settings.reclaim_after / 3)
        return Heartbeat(
            connect_blocking(settings.redis_url, name=f"{name}:heartbeat", timeout=timeout),
            self._keys,
            Presence(
                self.consumer,
                self._recogniser.fingerprint,
                {
                    "host": socket.gethostname(),
                    "pid": str(os.getpid()),
                    "model": self._recogniser.name,
                    "device": self._recogniser.device,
                    "since": str(int(time.time() * 1000)),
                },
            ),
            self._holding,
            reclaim_after=settings.reclaim_after,
            on_lost=self._drop,
        )

    def _make_handler(self) -> Handler:
        settings, keys = self._settings, self._keys
        policy = AudioPolicy(
            roots=settings.audio_roots,
            max_bytes=settings.max_audio_bytes,
            max_seconds=settings.max_audio_seconds,
            fetch_timeout=settings.fetch_timeout,
            allow_private_hosts=settings.allow_private_hosts,
            redis_prefixes=settings.redis_prefixes,
        )
        self._fetcher = Fetcher(policy, self._pool, keys.upload_prefix)
        cache = Cache(
            self._commands,
            keys,
            self._holding,
            self.consumer,
            self._recogniser.fingerprint,
            lease_ms=int(settings.reclaim_after * 1000),
        )
        self._answers = Answers(
            cache=cache,
            engine=self._engine,
            fetcher=self._fetcher,
            starts=Starts(
                self._commands, keys, EngineRoom(), self.consumer, most=settings.max_attempts
            ),
            places=self._places,
            # Half of what may be held: followers of one hot clip must not fill every place.
            following=Places(max(1, settings.read_ahead // 2), self._changed.set),
            policy=policy,
            clock=self._heartbeat.now_ms,
            result_ttl=settings.result_ttl,
            trust_digest=settings.trust_digest,
        )
        outbox = Outbox(
            self._commands, keys, self._holding, self.consumer, request_ttl=settings.request_ttl
        )
        return Handler(
            self._answers,
            outbox,
            cache,
            clock=self._heartbeat.now_ms,
            consumer=self.consumer,
            model=self._recogniser.name,
        )

    async def _drain(self) -> None:
        """Finish what is started; what is not, anybody may take at once and uncharged."""
        await _cancel([task for task, held in self._tasks.items() if not held.attempt])
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
        started = list(self._tasks.values())
        idle = [held for held in self._holding.snapshot()[0] if held not in started]
        try:
            await asyncio.wait_for(self._membership.hand_back(idle), _GOODBYE)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("hand_back_postponed", entries=len(idle), error=repr(error))

    async def _shut_down(self) -> None:
        held = len(self._holding)
        self._heartbeat.stop()  # first, or it would renew what is being given up
        try:
            left = await asyncio.wait_for(self._membership.leave(), _GOODBYE)
            log.info("worker_left", consumer=self.consumer, handed_back=held, left=left)
        except (RedisError, OSError, TimeoutError) as error:
            # Nothing is lost: others take the entries over after SENSESTREAM_RECLAIM_AFTER.
            log.warning("worker_left_without_redis", held=held, error=repr(error))
        self._answers.close()
        with contextlib.suppress(TimeoutError):
            # A thread cannot be stopped: what still runs there is nobody's any more.
            await asyncio.wait_for(self._close(), _ENGINE_CLOSE)

    async def _close(self) -> None:
        await self._engine.aclose()
        await self._fetcher.aclose()
        await self._reader.aclose()
        await self._pool.aclose()

    # -- the loop -----------------------------------------------------------------------------

    async def _main_loop(self) -> None:
        while not self._stopping.is_set():
            self._changed.clear()
            if not self._heartbeat.alive:
                raise PipelineError("the heartbeat's thread has ended: nothing held is renewed")
            entries = await self._take_over() or await self._read()
            for held in entries:
                self._begin(held)

    @property
    def _spare(self) -> int:
        """How many more entries this worker may hold."""
        return self._settings.read_ahead - len(self._tasks)

    async def _take_over(self) -> list[Held]:
        """Older work first: handed back by a worker without room, or left by one that died."""
        count = min(self._spare, self._places.free)
        now = time.monotonic()
        if count <= 0 or now < self._next_take:
            return []
        idle_ms = HANDED_BACK_IDLE
        if self._heartbeat.may_reclaim():
            idle_ms = int(self._settings.reclaim_after * 1000)
        taken = await self._inbox.take(count, idle_ms)
        if len(taken) < count:
            self._next_take = now + _TAKE_PERIOD
        return taken

    async def _read(self) -> list[Held]:
        count = self._spare
        if self._places.free <= 0 and count > 0:
            # Only hits can be answered now. Each miss read is handed back, so what lies there
            # already bounds how much more is read in search of hits.
            count = min(count, self._settings.read_ahead - await self._handed_back())
        if count <= 0:
            await self._pause(_FULL_PAUSE)
            return []
        entries = await self._inbox.read(count)
        if entries or self._stopping.is_set():
            return entries
        return await self._inbox.wait(count)

    async def _handed_back(self) -> int:
        return await self._inbox.handed_back(self._settings.read_ahead)

    async def _pause(self, seconds: float) -> None:
        """Until something has been answered, or a moment has passed."""
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except TimeoutError:
            return

    def _begin(self, held: Held) -> None:
        self._holding.add(held)
        task = asyncio.create_task(self._handle(held), name=f"request {held.entry}")
        self._tasks[task] = held
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        held = self._tasks.pop(task)
        self._changed.set()
        if task.cancelled():
            # At the drain it is handed back; any other cancellation leaves it to be replayed,
            # and not to be renewed for ever.
            if not self._stopping.is_set():
                self._holding.discard(held)
        elif error := task.exception():
            self._holding.discard(held)  # renewed no more: it is replayed after RECLAIM_AFTER
            log.error("request_left_behind", entry=held.entry, exc_info=error)

    async def _handle(self, held: Held) -> None:
        try:
            await self._handler.handle(held)
        except NoRoom:
            await self._return(held)
        except EntryLost:
            self._holding.discard(held)

    async def _return(self, held: Held) -> None:
        # Not at once again: where followers or leases are what it waits for, places are free, and
        # this worker would take it and hand it back without an end.
        self._next_take = time.monotonic() + _TAKE_PERIOD
        await until_redis_answers(lambda: self._membership.hand_back([held]), "hand back")

    def _drop(self, held: Held) -> None:
        """Somebody else holds it: stop working on it (a transcript already made still counts)."""
        held.lost = True
        for task, mine in self._tasks.items():
            if mine is held and not held.attempt:
                task.cancel()
        self._holding.discard(held)


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they are: before Python 3.12, `asyncio.wait_for` (which redis-py uses)
    swallows a cancellation that comes together with its result.
    """
    while tasks := [task for task in tasks if not task.done()]:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)
