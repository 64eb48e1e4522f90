"""The parts of a worker, put together from its settings and its recogniser."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from redis.asyncio import Redis
from sensestream_common.connections.connection import connect, connect_blocking
from sensestream_common.contract.keys import Keys

from sensestream_consumer.audio import AudioPolicy, Fetcher
from sensestream_consumer.broker.autopipeline import AutoPipeline
from sensestream_consumer.broker.deliveries import Delivery, InFlight
from sensestream_consumer.broker.heartbeat import Heartbeat, WorkerInfo
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.broker.janitor import Janitor
from sensestream_consumer.broker.membership import Membership
from sensestream_consumer.broker.outbox import Outbox
from sensestream_consumer.cache.monitor import CacheMonitor
from sensestream_consumer.cache.results import Cache
from sensestream_consumer.engine import Engine, Recogniser
from sensestream_consumer.processing.attempts import Attempts
from sensestream_consumer.processing.flow_control import FlowControl
from sensestream_consumer.processing.handler import Handler
from sensestream_consumer.processing.resolver import Resolver
from sensestream_consumer.processing.slots import SharedExclusiveGate, SlotPool, TooManyWaiters
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.telemetry.tracing import Tracing

__all__ = ["Components", "Connections", "build_components", "open_connections"]

_PLACES_PER_SLOT = 4  # misses in hand for each that the engine runs: it never waits for a fetch


@dataclass(frozen=True, slots=True)
class Connections:
    """To Redis, from the event loop. The heartbeat has one of its own, for its thread."""

    name: str  # in Redis's CLIENT LIST
    reader: Redis  # one, for blocking reads
    pool: Redis  # for everything else

    async def aclose(self) -> None:
        await self.reader.aclose()
        await self.pool.aclose()


@dataclass(frozen=True, slots=True)
class Components:
    """What a worker is made of. Nothing here has spoken to Redis, and no thread beats yet."""

    pipeline: str
    consumer: str
    keys: Keys
    commands: AutoPipeline
    inbox: Inbox
    intake: FlowControl
    holding: InFlight
    heartbeat: Heartbeat
    membership: Membership
    engine: Engine
    places: SlotPool
    fetcher: Fetcher
    answers: Resolver
    handler: Handler
    janitor: Janitor


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
    changed: Callable[[], None],
    on_lost: Callable[[Delivery], None],
) -> Components:
    """All parts of the worker called `consumer`.

    `changed` is called when there is room again, `on_lost` with an entry that somebody else has
    taken over. Call it once Redis answers, in the event loop: a newcomer's grace begins here.
    """
    keys = settings.keys
    holding = InFlight()
    commands = AutoPipeline(connections.pool)
    inbox = Inbox(connections.reader, commands, keys, consumer)
    heartbeat = _heartbeat(settings, recogniser, connections.name, consumer, holding, on_lost)
    engine = Engine(recogniser, concurrency=settings.concurrency)
    places = SlotPool(engine.capacity * _PLACES_PER_SLOT, changed)
    policy = _audio_policy(settings)
    fetcher = Fetcher(policy, connections.pool, keys.upload_prefix)
    cache = Cache(
        commands, keys, holding, consumer, recogniser.fingerprint,
        lease_ms=int(settings.reclaim_after * 1000),
    )  # fmt: skip
    answers = Resolver(
        cache=cache,
        engine=engine,
        fetcher=fetcher,
        starts=Attempts(
            commands, keys, SharedExclusiveGate(), consumer, most=settings.max_attempts
        ),
        places=places,
        # Half of what may be held: followers of one hot clip must not fill every place.
        following=SlotPool(max(1, settings.read_ahead // 2), changed, refusal=TooManyWaiters),
        policy=policy,
        clock=heartbeat.now_ms,
        result_ttl=settings.result_ttl,
        trust_digest=settings.trust_digest,
    )
    outbox = Outbox(commands, keys, holding, consumer, request_ttl=settings.request_ttl)
    return Components(
        pipeline=settings.pipeline,
        consumer=consumer,
        keys=keys,
        commands=commands,
        inbox=inbox,
        intake=FlowControl(inbox, places, heartbeat, settings.read_ahead, settings.reclaim_after),
        holding=holding,
        heartbeat=heartbeat,
        membership=Membership(
            settings, recogniser, commands, inbox, holding, heartbeat, consumer
        ),
        engine=engine,
        places=places,
        fetcher=fetcher,
        answers=answers,
        handler=Handler(
            answers, outbox, cache,
            clock=heartbeat.now_ms, consumer=consumer, model=recogniser.name,
            tracing=Tracing(keys, consumer),
        ),
        janitor=_janitor(settings, commands),
    )  # fmt: skip


def _heartbeat(
    settings: WorkerSettings, recogniser: Recogniser, name: str, consumer: str,
    holding: InFlight, on_lost: Callable[[Delivery], None],
) -> Heartbeat:  # fmt: skip
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
            consumer, recogniser.fingerprint, facts,
            trust_digest=settings.trust_digest, result_ttl=settings.result_ttl,
            request_ttl=settings.request_ttl,
        ),
        holding,
        reclaim_after=settings.reclaim_after,
        on_lost=on_lost,
    )  # fmt: skip


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


def _janitor(settings: WorkerSettings, commands: AutoPipeline) -> Janitor:
    return Janitor(
        commands,
        settings.keys,
        transcripts_ttl=settings.transcripts_ttl,
        transcripts_max=settings.transcripts_max,
        dead_max=settings.dead_max,
        watch=CacheMonitor(
            commands, settings.keys,
            warn_hit_rate_below=settings.warn_hit_rate_below,
            warn_results_above=settings.warn_results_above,
        ),
    )  # fmt: skip
