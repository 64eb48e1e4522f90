"""Sends webhooks, each at least once, even when gateways die meanwhile.

All gateways read `{name}:webhooks` as one consumer of the group `senders`. The gateway that reads
an entry tries to deliver it. An entry that was not delivered stays pending: its delivery count says
how often it was tried, and its idle time says when last. Any gateway claims it when it is due
again, and so takes over from a gateway that died within a try. XCLAIM resets the idle time, so
only one of two gateways gets an entry.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from sensestream_common.connections.connection import BLOCK_SECONDS
from sensestream_common.connections.retry import Backoff
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import WEBHOOKS_GROUP
from sensestream_common.contract.outcome import Outcome
from sensestream_common.redaction import redacted

from sensestream_producer.gateway.backend import Backend
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.signing import signed_headers
from sensestream_producer.gateway.webhooks.client import Attempt, WebhookClient
from sensestream_producer.outcomes.stream_ids import id_text, parse_id

__all__ = ["WebhookSender"]

log = structlog.get_logger("sensestream.gateway")

_SETTLE = load_script("sensestream_producer.gateway.webhooks", "settle")
_CONSUMER = "gateway"  # of all gateways, so that any of them can claim an entry
_MAX_DELIVERIES = 32  # under way at once in one gateway
_MAX_PAUSE = 3600.0  # seconds between two tries
_PAGE = 256  # pending entries in one reply of Redis
_RETRY_INTERVAL = 1.0  # seconds between two searches for entries that are due


@dataclass(frozen=True, slots=True)
class _Webhook:
    entry: str
    outcome: str  # its stream id
    url: str
    tries: int  # this try included


class WebhookSender:
    """Sends webhooks from one gateway until `stopping` is set."""

    def __init__(
        self, settings: GatewaySettings, backend: Backend, stopping: asyncio.Event
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._link = backend.link
        self._keys = backend.keys
        self._client = WebhookClient(
            timeout=settings.webhook_timeout, allow_private=settings.webhook_allow_private
        )
        self._slots = asyncio.Semaphore(_MAX_DELIVERIES)
        self._deliveries: set[asyncio.Task[None]] = set()
        self._stopping = stopping

    async def run(self) -> None:
        """Deliver new webhooks and those due again; then finish the deliveries under way."""
        reader = self._link.reader("webhooks")
        try:
            await asyncio.gather(
                self._until_stopping(lambda: self._read(reader)),
                self._until_stopping(self._retry),
            )
        finally:
            if self._deliveries:
                await asyncio.wait(self._deliveries)
            await reader.aclose()
            await self._client.close()

    async def _until_stopping(self, step: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                await step()
                backoff.reset()
            except (RedisError, OSError, SensestreamError) as error:
                if "NOGROUP" in str(error):
                    await self._make_group()
                    continue
                log.warning("webhooks_redis_retrying", error=str(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), backoff.next())

    async def _make_group(self) -> None:
        """Create the group at the stream's beginning, so that older entries are delivered too."""
        with suppress(ResponseError, RedisError, OSError):
            await self._link.redis.xgroup_create(
                self._keys.webhooks, WEBHOOKS_GROUP, id="0", mkstream=True
            )

    async def _read(self, reader: Redis) -> None:
        """Begin to deliver entries that no gateway has tried yet, as many as there are slots."""
        async with self._slots:  # wait for a free one
            pass
        news: Any = await reader.xreadgroup(
            WEBHOOKS_GROUP,
            _CONSUMER,
            {self._keys.webhooks: ">"},
            count=max(1, _MAX_DELIVERIES - len(self._deliveries)),
            block=round(BLOCK_SECONDS * 500),
        )
        for entry, fields in news[0][1] if news else ():
            await self._begin(entry, fields, 1)

    async def _retry(self) -> None:
        """Begin to deliver entries that are due again."""
        start = "-"
        while rows := await self._pending(start):
            for row in rows:
                pause = round(self._pause(row["times_delivered"]) * 1000)
                if row["time_since_delivered"] >= pause and not self._stopping.is_set():
                    await self._claim(row, pause)
            milliseconds, number = parse_id(rows[-1]["message_id"])
            start = id_text((milliseconds, number + 1))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), min(_RETRY_INTERVAL, self._pause(1)))

    async def _pending(self, start: str) -> list[Any]:
        """The next page of entries that no living gateway is trying to deliver."""
        idle = round(self._pause(1) * 1000)
        rows: Any = await self._link.redis.xpending_range(
            self._keys.webhooks, WEBHOOKS_GROUP, start, "+", count=_PAGE, idle=idle
        )
        return list(rows)

    async def _claim(self, row: Any, pause: int) -> None:
        entry_ids = [row["message_id"]]
        claimed: Any = await self._link.redis.xclaim(
            self._keys.webhooks, WEBHOOKS_GROUP, _CONSUMER, pause, entry_ids
        )
        for entry, fields in claimed:
            # Redis 6.2 keeps the id of an entry that was trimmed; without a body it is settled.
            await self._begin(entry or row["message_id"], fields or {}, row["times_delivered"] + 1)

    def _pause(self, tries: int) -> float:
        """Seconds from the start of a try to the next one; longer than a try can take."""
        doubled = self._settings.webhook_retry_after * 2.0 ** min(tries - 1, 20)
        return self._settings.webhook_timeout + min(doubled, _MAX_PAUSE)

    async def _begin(self, entry: bytes, fields: dict[bytes, bytes], tries: int) -> None:
        def text(name: bytes) -> str:
            return fields.get(name, b"").decode("utf-8", "replace")

        webhook = _Webhook(entry.decode(), text(b"outcome"), text(b"url"), tries)
        await self._slots.acquire()
        task = asyncio.create_task(self._deliver(webhook), name=f"webhook-{webhook.entry}")
        self._deliveries.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        self._slots.release()
        if not task.cancelled() and (error := task.exception()):
            # The entry stays pending, and is tried again.
            log.error("webhook_internal_error", exc_info=error)

    async def _deliver(self, webhook: _Webhook) -> None:
        outcome = await self._backend.read_outcome(webhook.outcome)
        if outcome is None:
            reason = "its outcome is no longer kept"
            await self._settle(webhook, Attempt(False, reason, permanent=True), "")
            return
        body = _body(outcome)
        headers = signed_headers(
            self._settings.webhook_secret, f"wh_{webhook.entry}", int(time.time()), body
        )
        attempt = await self._client.post(webhook.url, headers, body)
        await self._settle(webhook, attempt, outcome.id)

    async def _settle(self, webhook: _Webhook, attempt: Attempt, request_id: str) -> None:
        over = attempt.permanent or webhook.tries >= self._settings.webhook_tries
        about = {"id": request_id, "url": redacted(webhook.url), "tries": webhook.tries}
        if attempt.delivered:
            log.info("webhook_delivered", **about)
        else:
            event = "webhook_given_up" if over else "webhook_not_delivered"
            log.warning(event, reason=attempt.reason, **about)
        if attempt.delivered or over:
            counter = "webhooks_delivered" if attempt.delivered else "webhooks_given_up"
            keys = [self._keys.webhooks, self._keys.stats]
            arguments = [WEBHOOKS_GROUP, webhook.entry, counter]
            await self._link.run(lambda: _SETTLE(self._link.redis, keys, arguments))


def _body(outcome: Outcome) -> bytes:
    """The body of a webhook, as https://www.standardwebhooks.com recommends it."""
    head = {
        "type": f"transcription.{outcome.status}",
        "timestamp": datetime.fromtimestamp((outcome.finished_at or 0) / 1000, UTC).isoformat(),
    }
    return f'{json.dumps(head)[:-1]}, "data": {outcome.dumps()}}}'.encode()
