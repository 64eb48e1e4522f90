"""The components of a worker, built from its settings and its recogniser."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis
from sensestream_common.connections.connection import connect, connect_blocking

from sensestream_consumer.audio import AudioPolicy, Fetcher, decode_revision
from sensestream_consumer.broker.autopipeline import AutoPipeline
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, InFlight
from sensestream_consumer.broker.heartbeat import Heartbeat, WorkerInfo
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.broker.janitor import Janitor
from sensestream_consumer.broker.membership import GroupIdentity, Membership
from sensestream_consumer.broker.outbox import Outbox
from sensestream_consumer.cache.monitor import CacheMonitor
from sensestream_consumer.cache.results import Cache
from sensestream_consumer.engine import Engine, Recogniser
from sensestream_consumer.processing.attempts import Attempts
from sensestream_consumer.processing.deadlines import Deadlines
from sensestream_consumer.processing.dispatcher import Dispatcher
from sensestream_consumer.processing.fetching import Fetching
from sensestream_consumer.processing.flow_control import FlowControl
from sensestream_consumer.processing.handler import Handler
from sensestream_consumer.processing.resolver import Resolver
from sensestream_consumer.processing.slots import SharedExclusiveGate, SlotPool, TooManyWaiters
from sensestream_consumer.processing.transcribing import Transcribing
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.telemetry.tracing import Tracing

__all__ = ["Components", "Connections", "build_components", "open_connections"]

_SLOTS_PER_CLIP = 4  # misses in flight for each clip that the engine runs: it waits for no fetch


@dataclass(frozen=True, slots=True)
class Connections:
    """To Redis, from the event loop. The heartbeat has one of its own, for its thread."""

    name: str  # in Redis's CLIENT LIST
    reader: Redis  # one, for blocking reads
    pool: Redis  # for everything else

    async def aclose(self) -> None:
        """Close both."""
        await self.reader.aclose()
        await self.pool.aclose()


@dataclass(frozen=True, slots=True)
class Components:
    """What a worker is made of. Nothing here has spoken to Redis, and no thread beats yet."""

    connections: Connections
    broker: Broker
    in_flight: InFlight
    inbox: Inbox
    heartbeat: Heartbeat
    membership: Membership
    janitor: Janitor
    engine: Engine
    fetcher: Fetcher
    slots: SlotPool
    flow_control: FlowControl
    transcribing: Transcribing
    dispatcher: Dispatcher

    async def aclose(self) -> None:
        """Close engine, fetcher and connections."""
        await self.engine.aclose()
        await self.fetcher.aclose()
        await self.broker.commands.close()
        await self.connections.aclose()


def open_connections(settings: WorkerSettings, consumer: str) -> Connections:
    """The connections of one worker; the network is not touched yet."""
    name = f"sensestream-worker:{consumer}"
    return Connections(
        name,
        reader=connect(settings.redis_url, name=f"{name}:reader", connections=1),
        pool=connect(settings.redis_url, name=name),
    )


def build_components(
    settings: WorkerSettings,
    recogniser: Recogniser,
    connections: Connections,
    consumer: str,
    *,
    on_changed: Callable[[], None],
) -> Components:
    """All components of the worker called `consumer`.

    `on_changed` is called when there may be room again. Call it once Redis answers, in the event
    loop: a newcomer's grace begins here.
    """
    # The broker's side.
    broker = Broker(AutoPipeline(connections.pool), settings.keys, consumer)
    in_flight = InFlight()
    inbox = Inbox(connections.reader, broker, in_flight)
    outbox = Outbox(
        broker, in_flight, request_ttl=settings.request_ttl, decode_revision=decode_revision()
    )
    heartbeat = _heartbeat(
        settings,
        recogniser,
        connections.name,
        consumer,
        in_flight,
        on_lost=lambda delivery: dispatcher.on_lost(delivery),  # which is built last
    )
    identity = GroupIdentity(
        settings.pipeline, recogniser.fingerprint, recogniser.name, settings.allow_mixed
    )
    cache_monitor = CacheMonitor(
        broker,
        warn_hit_rate_below=settings.warn_hit_rate_below,
        warn_results_above=settings.warn_results_above,
    )
    # The way of a request.
    engine = Engine(recogniser, concurrency=settings.concurrency)
    slots = SlotPool(engine.capacity * _SLOTS_PER_CLIP, on_changed)
    policy = _audio_policy(settings)
    fetcher = Fetcher(policy, connections.pool, settings.keys.upload_prefix)
    cache = Cache(
        broker,
        in_flight,
        recogniser.fingerprint,
        decode_revision(),
        lease_ms=int(settings.reclaim_after * 1000),
    )
    deadlines = Deadlines(heartbeat.now_ms)
    transcribing = Transcribing(
        engine=engine,
        cache=cache,
        attempts=Attempts(broker, SharedExclusiveGate(), most=settings.max_attempts),
        slots=slots,
        policy=policy,
        deadlines=deadlines,
    )
    resolver = Resolver(
        cache=cache,
        fetching=Fetching(fetcher, deadlines),
        transcribing=transcribing,
        slots=slots,
        # Half of the read-ahead: the followers of one hot clip must not fill all of it.
        waiters=SlotPool(max(1, settings.read_ahead // 2), on_changed, refusal=TooManyWaiters),
        deadlines=deadlines,
        result_ttl=settings.result_ttl,
        trust_digest=settings.trust_digest,
    )
    handler = Handler(
        resolver,
        outbox,
        cache,
        clock=heartbeat.now_ms,
        consumer=consumer,
        model=recogniser.name,
        tracing=Tracing(settings.keys, consumer),
    )
    flow_control = FlowControl(inbox, slots, heartbeat, settings.read_ahead, settings.reclaim_after)
    dispatcher = Dispatcher(handler, inbox, in_flight, slots, flow_control, on_ended=on_changed)
    return Components(
        connections=connections,
        broker=broker,
        in_flight=in_flight,
        inbox=inbox,
        heartbeat=heartbeat,
        membership=Membership(broker, identity, inbox, in_flight, heartbeat),
        janitor=Janitor(
            broker,
            transcripts_ttl=settings.transcripts_ttl,
            transcripts_max=settings.transcripts_max,
            dead_max=settings.dead_max,
            chores=[cache_monitor.check],
        ),
        engine=engine,
        fetcher=fetcher,
        slots=slots,
        flow_control=flow_control,
        transcribing=transcribing,
        dispatcher=dispatcher,
    )


def _heartbeat(
    settings: WorkerSettings,
    recogniser: Recogniser,
    name: str,
    consumer: str,
    in_flight: InFlight,
    on_lost: Callable[[Delivery], None],
) -> Heartbeat:
    facts = {
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "model": recogniser.name,
        "device": recogniser.device,
        "since": str(int(time.time() * 1000)),
    }
    timeout = max(1.0, settings.reclaim_after / 3)
    return Heartbeat(
        connect_blocking(settings.redis_url, name=f"{name}:heartbeat", timeout=timeout),
        settings.keys,
        WorkerInfo(
            consumer,
            recogniser.fingerprint,
            decode_revision(),
            facts,
            trust_digest=settings.trust_digest,
            result_ttl=settings.result_ttl,
            request_ttl=settings.request_ttl,
        ),
        in_flight,
        reclaim_after=settings.reclaim_after,
        on_lost=on_lost,
    )


def _audio_policy(settings: WorkerSettings) -> AudioPolicy:
    return AudioPolicy(
        roots=settings.audio_roots,
        max_bytes=settings.max_audio_bytes,
        max_seconds=settings.max_audio_seconds,
        fetch_timeout=settings.fetch_timeout,
        allow_private_hosts=settings.allow_private_hosts,
        redis_prefixes=settings.redis_prefixes,
        s3_buckets=settings.s3_buckets,
    )
