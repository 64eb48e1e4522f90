"""Attempts: the starts of a request, charged in Redis before work that could crash the worker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.keys import REQUESTS_GROUP

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import Delivery, DeliveryState
from sensestream_consumer.processing.slots import SharedExclusiveGate

__all__ = ["Attempts", "DeliveryLost"]

log = structlog.get_logger(__name__)

_START = load_script("sensestream_consumer.processing", "start")
_CRASH_TTL_MS = 86_400_000  # how long bytes that killed a worker stay suspect


class DeliveryLost(Exception):
    """Another worker owns the entry now: drop the work, write nothing."""


class Attempts:
    """Charges the attempts of one worker, and keeps suspects alone at the engine."""

    def __init__(self, broker: Broker, gate: SharedExclusiveGate, *, most: int) -> None:
        """`most` is how many attempts a request has."""
        self._broker = broker
        self._gate = gate
        self._most = most

    @asynccontextmanager
    async def begin(self, delivery: Delivery, request_id: str, digest: str) -> AsyncIterator[None]:
        """Pass the gate for the block, with an attempt charged (once for each delivery).

        A suspect, whose earlier start or whose bytes' start ended in a crash, passes it alone.
        Raises `DeliveryLost`, or `RequestError` (attempts_exhausted) with nothing charged.
        """
        if not delivery.suspect:
            async with self._gate.shared():
                if await self._charge(delivery, request_id, digest, alone=False):
                    yield
                    return
            delivery.suspect = True
        async with self._gate.exclusive():
            await self._charge(delivery, request_id, digest, alone=True)
            yield

    async def _charge(
        self, delivery: Delivery, request_id: str, digest: str, *, alone: bool
    ) -> bool:
        """Whether the attempt may go on; false for a suspect that is not alone."""
        _raise_if_lost(delivery)
        if delivery.state is DeliveryState.STARTED:
            return True
        names = self._broker.keys
        keys = [names.lane(delivery.lane), names.request(request_id), names.crashes(digest)]
        arguments = [
            REQUESTS_GROUP,
            self._broker.consumer,
            delivery.entry,
            self._most,
            _CRASH_TTL_MS,
            int(alone),
            delivery.starts,
        ]
        verdict, starts, crashes = await retry_until_available(
            lambda: self._broker.run(_START, keys, arguments), "start"
        )
        _raise_if_lost(delivery)
        if verdict == b"lost":
            raise DeliveryLost
        if verdict == b"suspect":
            return False
        if verdict == b"exhausted":
            delivery.refuse_start(starts)
            raise _exhausted(starts, crashes, self._most)
        delivery.start(starts)
        if alone:
            log.warning("suspect_started", attempt=starts, crashes=crashes)
        return True


def _raise_if_lost(delivery: Delivery) -> None:
    if delivery.state is DeliveryState.LOST:
        raise DeliveryLost


def _exhausted(starts: int, crashes: int, most: int) -> RequestError:
    if starts >= most:
        reason = f"it was started {starts} times and its worker ended each time before it answered"
    else:
        reason = f"copies of it ended {crashes} workers"
    return RequestError(
        ErrorCode.ATTEMPTS_EXHAUSTED,
        f"{reason} (SENSESTREAM_MAX_ATTEMPTS={most}): look at the recording, "
        "then replay the dead letter",
    )
