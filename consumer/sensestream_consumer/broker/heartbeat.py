"""The heartbeat that renews the deliveries and leases in flight.

It has a thread and a connection of its own, so that neither a busy event loop nor a full connection
pool lets a living worker look dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from redis import Redis
from redis.exceptions import NoScriptError, RedisError
from sensestream_common.connections.scripts import Script, load_script
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys, Lane

from sensestream_consumer.broker.deliveries import Delivery, InFlight, Lease
from sensestream_consumer.telemetry.connection_state import ConnectionState
from sensestream_consumer.telemetry.metrics import LEASES_LOST

__all__ = ["Heartbeat", "WorkerInfo"]

log = structlog.get_logger(__name__)

_RENEW = load_script("sensestream_consumer.broker.lua", "renew")
_RENEW_KEY = load_script("sensestream_consumer.broker.lua", "renew_key")
_ANNOUNCE = load_script("sensestream_consumer.broker.lua", "announce")
_STOP_TIMEOUT = 0.5  # seconds: a beat that hangs in a hung Redis is not waited for
_RENEW_BATCH = 500  # entries renewed by one script: a script blocks Redis while it runs


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker announces: itself, its recogniser, its decoders, and terms of cached answers.

    Clients and gateways answer cache hits themselves, on these terms.
    """

    consumer: str
    fingerprint: str
    decode_revision: str
    facts: dict[str, str]
    trust_digest: bool
    result_ttl: int  # seconds
    request_ttl: int  # seconds


class Heartbeat:
    """Renews deliveries and leases every `interval` seconds, and reports the lost ones.

    A worker that Redis did not answer for a while must not reclaim: the entries of all living
    workers look idle then, and the first worker to reconnect would take them.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        info: WorkerInfo,
        in_flight: InFlight,
        *,
        reclaim_after: float,
        on_lost: Callable[[Delivery], None],
    ) -> None:
        self.interval = min(5.0, reclaim_after / 4)
        self.connection_state = ConnectionState("heartbeat")
        self._redis = redis
        self._keys = keys
        self._info = info
        self._in_flight = in_flight
        self._reclaim_after = reclaim_after
        self._expiry = int(reclaim_after * 1000)
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._last_beat = time.monotonic()
        # To a newcomer all entries may look idle because an outage has just ended.
        self._no_reclaim_before = self._last_beat + reclaim_after
        self._clock_offset = time.time() * 1000 - time.monotonic() * 1000

    @property
    def alive(self) -> bool:
        """Whether the thread runs: without it nothing is renewed."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Go on beating in the thread. The first beat is the caller's, before it reads."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a beat that hangs is not waited for."""
        self._stop.set()
        self._thread.join(timeout=_STOP_TIMEOUT)

    def now_ms(self) -> int:
        """Milliseconds since the epoch by Redis's clock, which all workers share.

        Counted on from the last beat by the monotonic clock; right to half a round trip.
        """
        return int(time.monotonic() * 1000 + self._clock_offset)

    def silent_for(self) -> float:
        """Seconds since Redis last answered a beat."""
        return time.monotonic() - self._last_beat

    def may_reclaim(self) -> bool:
        """Whether idle entries mean a silent worker, and not an outage that this one had too."""
        now = time.monotonic()
        return now - self._last_beat < 2 * self.interval and now >= self._no_reclaim_before

    def _run(self) -> None:
        wait = self.interval
        while not self._stop.wait(wait):
            try:
                self.beat()
                wait = self.interval
            except Exception as error:  # any fault: without this thread nothing is renewed
                self.connection_state.failed()
                wait = min(1.0, self.interval)  # soon: the others reclaim from a silent worker
                log.warning("heartbeat_failed", error=repr(error))
                with contextlib.suppress(Exception):
                    self._redis.connection_pool.disconnect()

    def beat(self) -> None:
        """Renew and announce in one round trip: on a slow connection several take too long."""
        deliveries, leases = self._in_flight.snapshot()
        batches = [
            (lane, part)
            for lane in Lane
            for part in _batches([each for each in deliveries if each.lane is lane])
        ]
        before = time.monotonic()
        replies = self._exchange(batches, leases)
        middle = (before + time.monotonic()) / 2  # when Redis looked, to half a round trip
        self._record_gap()
        for (_, batch), lost in zip(batches, replies, strict=False):
            by_id = {delivery.entry: delivery for delivery in batch}
            for entry in lost:
                self._report(by_id[entry.decode()])
        for lease, renewed in zip(leases, replies[len(batches) :], strict=False):
            if not renewed and self._in_flight.still_needs(lease):
                LEASES_LOST.inc()
                log.warning("lease_lost", lease=lease.key)
                self._in_flight.discard_lease(lease)
        seconds, microseconds = replies[-1]
        self._clock_offset = seconds * 1000 + microseconds / 1000 - middle * 1000
        self.connection_state.answered()

    def _record_gap(self) -> None:
        now = time.monotonic()
        if now - self._last_beat > 2 * self.interval:
            self._no_reclaim_before = now + self._reclaim_after
            log.info("reclaim_postponed", seconds=self._reclaim_after, reason="was silent")
        self._last_beat = now

    def _exchange(
        self, batches: list[tuple[Lane, list[Delivery]]], leases: list[Lease]
    ) -> list[Any]:
        """The replies of one beat: to batches, to leases, to the announcement, and the time."""
        replies = self._send(batches, leases)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            replies = self._send(batches, leases, whole=True)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    def _send(
        self,
        batches: list[tuple[Lane, list[Delivery]]],
        leases: list[Lease],
        *,
        whole: bool = False,
    ) -> list[Any]:
        """Scripts go by their digests; `whole` where Redis does not know them (any more)."""
        pipe = self._redis.pipeline(transaction=False)

        def run(script: Script, keys: list[str], arguments: list[Any]) -> None:
            if whole:
                pipe.eval(script.source, len(keys), *keys, *arguments)
            else:
                pipe.evalsha(script.sha, len(keys), *keys, *arguments)

        for lane, batch in batches:
            entries = [delivery.entry for delivery in batch]
            arguments = [REQUESTS_GROUP, self._info.consumer, *entries]
            run(_RENEW, [self._keys.lane(lane)], arguments)
        for lease in leases:
            run(_RENEW_KEY, [lease.key], [lease.value, self._expiry])
        keys = self._keys
        names = [keys.worker(self._info.consumer), keys.recogniser, keys.reuse_policy]
        run(_ANNOUNCE, names, self._announcement())
        pipe.time()
        return list(pipe.execute(raise_on_error=False))

    def _report(self, delivery: Delivery) -> None:
        # Committed or handed back since the snapshot: not lost, just no longer ours.
        if self._in_flight.can_lose(delivery):
            log.warning("entry_lost", entry=delivery.entry)
            self._loop.call_soon_threadsafe(self._on_lost, delivery)

    def _announcement(self) -> list[Any]:
        """The arguments of the script that announces this worker."""
        info = self._info
        facts = {**info.facts, "in_flight": str(len(self._in_flight))}
        pairs = [part for fact in facts.items() for part in fact]
        trust = 1 if info.trust_digest else 0
        joining = 1 if self._thread.ident is None else 0
        terms = [info.fingerprint, trust, info.result_ttl, info.request_ttl]
        terms += [info.decode_revision, joining]
        return [self._expiry, 2 * self._expiry, *terms, *pairs]


def _batches(deliveries: list[Delivery]) -> list[list[Delivery]]:
    return [deliveries[at : at + _RENEW_BATCH] for at in range(0, len(deliveries), _RENEW_BATCH)]
