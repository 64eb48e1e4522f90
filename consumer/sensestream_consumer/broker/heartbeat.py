"""The heartbeat that keeps what is held: in a thread and connection of its own, so that neither a
busy event loop nor a full connection pool lets a living worker look dead.
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
_SHOW = load_script("sensestream_consumer.broker.lua", "show")
_STOP_TIMEOUT = 0.5  # seconds: a beat that hangs in a hung Redis is not waited for
_RENEW_BATCH = 500  # entries renewed by one script: a script blocks Redis while it runs


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """How a worker shows itself: its key, the group's recogniser that it runs, and by what
    whoever submits may answer repeats itself.
    """

    consumer: str
    fingerprint: str
    facts: dict[str, str]
    trust_digest: bool
    result_ttl: int  # seconds
    request_ttl: int  # seconds


class Heartbeat:
    """Renews at `interval` what is held; tells the event loop what was lost.

    `silent_for` is how long ago Redis last answered it: a worker that was silent must not reclaim,
    because all that the living hold looks idle then, and the first to reconnect would take it.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        presence: WorkerInfo,
        holding: InFlight,
        *,
        reclaim_after: float,
        on_lost: Callable[[Delivery], None],
    ) -> None:
        self.interval = min(5.0, reclaim_after / 4)
        self.contact = ConnectionState("heartbeat")
        self._redis = redis
        self._keys = keys
        self._presence = presence
        self._holding = holding
        self._reclaim_after = reclaim_after
        self._expiry = int(reclaim_after * 1000)
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._last_beat = time.monotonic()
        # A newcomer cannot know whether all that looks idle is the end of an outage.
        self._no_reclaim_before = self._last_beat + reclaim_after
        self._clock_offset = time.time() * 1000 - time.monotonic() * 1000

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        """Go on beating in the thread. The first beat is the caller's, before it reads."""
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=_STOP_TIMEOUT)

    def now_ms(self) -> int:
        """Milliseconds since the epoch by Redis's clock, which all workers share.

        Counted on from the last beat by a clock that nobody sets; right to half a round trip.
        """
        return int(time.monotonic() * 1000 + self._clock_offset)

    def silent_for(self) -> float:
        """Seconds since Redis last answered a beat."""
        return time.monotonic() - self._last_beat

    def may_reclaim(self) -> bool:
        """Whether idle entries are another's silence, and not the end of our own."""
        now = time.monotonic()
        return now - self._last_beat < 2 * self.interval and now >= self._no_reclaim_before

    def _run(self) -> None:
        wait = self.interval
        while not self._stop.wait(wait):
            try:
                self.beat()
                wait = self.interval
            except Exception as error:  # whatever it was: without this thread nothing is renewed
                self.contact.failed()
                wait = min(1.0, self.interval)  # soon, because the others count our silence
                log.warning("heartbeat_failed", error=repr(error))
                with contextlib.suppress(Exception):
                    self._redis.connection_pool.disconnect()

    def beat(self) -> None:
        """Renew everything in one round trip: on a slow connection several would take too long."""
        entries, leases = self._holding.snapshot()
        batches = [
            [(lane, held) for held in part]
            for lane in Lane
            for part in _batches([held for held in entries if held.lane is lane])
        ]
        before = time.monotonic()
        replies = self._exchange(batches, leases)
        middle = (before + time.monotonic()) / 2  # when Redis looked, to half a round trip
        self._note_silence()
        for batch, lost in zip(batches, replies, strict=False):
            by_id = {held.entry: held for _, held in batch}
            for entry in lost:
                self._report(by_id[entry.decode()])
        for lease, renewed in zip(leases, replies[len(batches) :], strict=False):
            if not renewed and self._holding.still_needs(lease):
                LEASES_LOST.inc()
                log.warning("lease_lost", lease=lease.key)
                self._holding.discard_lease(lease)
        seconds, microseconds = replies[-1]
        self._clock_offset = seconds * 1000 + microseconds / 1000 - middle * 1000
        self.contact.answered()

    def _note_silence(self) -> None:
        now = time.monotonic()
        if now - self._last_beat > 2 * self.interval:
            self._no_reclaim_before = now + self._reclaim_after
            log.info("reclaim_postponed", seconds=self._reclaim_after, reason="was silent")
        self._last_beat = now

    def _exchange(
        self, batches: list[list[tuple[Lane, Delivery]]], leases: list[Lease]
    ) -> list[Any]:
        """The replies of one beat: of each batch, of each lease, of what is shown, and the time."""
        replies = self._send(batches, leases)
        if any(isinstance(reply, NoScriptError) for reply in replies):
            replies = self._send(batches, leases, whole=True)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    def _send(
        self,
        batches: list[list[tuple[Lane, Delivery]]],
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

        for batch in batches:
            [(lane, _), *_] = batch
            entries = [held.entry for _, held in batch]
            arguments = [REQUESTS_GROUP, self._presence.consumer, *entries]
            run(_RENEW, [self._keys.lane(lane)], arguments)
        for lease in leases:
            run(_RENEW_KEY, [lease.key], [lease.value, self._expiry])
        keys = self._keys
        names = [keys.worker(self._presence.consumer), keys.recogniser, keys.reuse_policy]
        run(_SHOW, names, self._facts())
        pipe.time()
        return list(pipe.execute(raise_on_error=False))

    def _report(self, held: Delivery) -> None:
        # Committed or handed back since the snapshot: not lost, just no longer ours.
        if self._holding.can_lose(held):
            log.warning("entry_lost", entry=held.entry)
            self._loop.call_soon_threadsafe(self._on_lost, held)

    def _facts(self) -> list[Any]:
        """How the worker shows itself, as its script takes it."""
        shown = self._presence
        facts = {**shown.facts, "in_flight": str(len(self._holding))}
        pairs = [part for fact in facts.items() for part in fact]
        trust = 1 if shown.trust_digest else 0
        terms = [shown.fingerprint, trust, shown.result_ttl, shown.request_ttl]
        return [self._expiry, 2 * self._expiry, *terms, *pairs]


def _batches(entries: list[Delivery]) -> list[list[Delivery]]:
    return [entries[at : at + _RENEW_BATCH] for at in range(0, len(entries), _RENEW_BATCH)]
