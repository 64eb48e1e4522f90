"""Sends webhooks: each at least once, whichever gateway dies meanwhile.

All gateways read `{name}:webhooks` as one consumer of the group `senders`. Whoever gets an entry
tries to deliver it; an entry that was not delivered stays pending, and its delivery count and idle
time are all there is to know of it: how often it was tried, and when last. So any gateway takes it
up when it is due again, and one that died in the middle of a try is made good by the others. XCLAIM
resets the idle time, so of two that want the same entry one gets it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
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
from sensestream_common.contract.keys import WEBHOOKS_GROUP, Keys
from sensestream_common.contract.outcome import Outcome, outcome_from_entry
from sensestream_common.redaction import redacted

from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.signing import signed_headers
from sensestream_producer.gateway.webhooks.client import Attempt, WebhookClient
from sensestream_producer.outcomes.stream_ids import entries, id_text, parse_id
from sensestream_producer.transport import RedisTransport

__all__ = ["WebhookSender"]

log = structlog.get_logger("sensestream.gateway")

_SETTLE = load_script("sensestream_producer.gateway.webhooks", "settle")
_CONSUMER = "gateway"  # one for all: what it holds belongs to whoever claims it
_AT_ONCE = 32  # deliveries under way in one gateway
_LONGEST_PAUSE = 3600.0  # seconds between two tries
_PAGE = 256  # pending entries looked at together
_LOOK_SECONDS = 1.0  # between two looks for what is due again


@dataclass(frozen=True, slots=True)
class _Webhook:
    entry: str
    outcome: str  # its stream id
    url: str
    tries: int  # this one included


class WebhookSender:
    """The webhooks' sender of one gateway; it runs until `stopping` is set."""

    def __init__(
        self,
        settings: GatewaySettings,
        link: RedisTransport,
        keys: Keys,
        stopping: asyncio.Event,
        present: Callable[[Outcome], Outcome],
    ) -> None:
        self._settings = settings
        self._link = link
        self._keys = keys
        self._postman = WebhookClient(
            timeout=settings.webhook_timeout, allow_private=settings.webhook_allow_private
        )
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._under_way: set[asyncio.Task[None]] = set()
        self._stopping = stopping
        self._present = present

    async def run(self) -> None:
        """Deliver what comes and what is due again; then finish what is under way."""
        reader = self._link.reader("webhooks")
        try:
            await asyncio.gather(
                self._forever(self._read, reader), self._forever(self._retry, reader)
            )
        finally:
            if self._under_way:
                await asyncio.wait(self._under_way)
            await reader.aclose()
            await self._postman.close()

    async def _forever(self, step: Any, reader: Redis) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            try:
                await step(reader)
                backoff.reset()
            except (RedisError, OSError, SensestreamError) as error:
                if "NOGROUP" in str(error):
                    await self._make_group()
                    continue
                log.warning("webhooks_wait_for_redis", error=str(error))
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), backoff.next())

    async def _make_group(self) -> None:
        """From the beginning: what was written before the first gateway came is delivered too."""
        with suppress(ResponseError, RedisError, OSError):
            await self._link.redis.xgroup_create(
                self._keys.webhooks, WEBHOOKS_GROUP, id="0", mkstream=True
            )

    async def _read(self, reader: Redis) -> None:
        """Begin one delivery of what nobody has tried yet, if there is any."""
        async with self._free:  # read only what there is room for
            pass
        news: Any = await reader.xreadgroup(
            WEBHOOKS_GROUP, _CONSUMER, {self._keys.webhooks: ">"},
            count=max(1, self._room()), block=round(BLOCK_SECONDS * 500),
        )  # fmt: skip
        for entry, fields in news[0][1] if news else ():
            await self._begin(entry, fields, 1)

    async def _retry(self, _reader: Redis) -> None:
        """Begin the deliveries that are due again."""
        start = "-"
        while rows := await self._pending(start):
            for row in rows:
                pause = round(self._pause(row["times_delivered"]) * 1000)
                if row["time_since_delivered"] >= pause and not self._stopping.is_set():
                    await self._claim(row, pause)
            milliseconds, number = parse_id(rows[-1]["message_id"])
            start = id_text((milliseconds, number + 1))
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), min(_LOOK_SECONDS, self._pause(1)))

    async def _pending(self, start: str) -> list[Any]:
        """The next of those that no living gateway can be at."""
        rows: Any = await self._link.redis.xpending_range(
            self._keys.webhooks, WEBHOOKS_GROUP, start, "+", count=_PAGE,
            idle=round(self._pause(1) * 1000),
        )  # fmt: skip
        return list(rows)

    async def _claim(self, row: Any, pause: int) -> None:
        claimed: Any = await self._link.redis.xclaim(
            self._keys.webhooks, WEBHOOKS_GROUP, _CONSUMER, min_idle_time=pause,
            message_ids=[row["message_id"]],
        )  # fmt: skip
        for entry, fields in claimed:
            # Trimmed with its outcome: Redis 6.2 keeps an id without a body, and it is settled.
            await self._begin(entry or row["message_id"], fields or {}, row["times_delivered"] + 1)

    def _pause(self, tries: int) -> float:
        """Seconds from one try's beginning to the next; above what a try may take."""
        doubled = self._settings.webhook_retry_after * 2.0 ** min(tries - 1, 20)
        return self._settings.webhook_timeout + min(doubled, _LONGEST_PAUSE)

    def _room(self) -> int:
        return _AT_ONCE - len(self._under_way)

    async def _begin(self, entry: bytes, fields: dict[bytes, bytes], tries: int) -> None:
        def text(name: bytes) -> str:
            return fields.get(name, b"").decode("utf-8", "replace")

        webhook = _Webhook(entry.decode(), text(b"outcome"), text(b"url"), tries)
        await self._free.acquire()
        task = asyncio.create_task(self._deliver(webhook), name=f"webhook-{webhook.entry}")
        self._under_way.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        self._free.release()
        if not task.cancelled() and (error := task.exception()):
            # It stays pending, and is tried again.
            log.error("webhook_failed_inside", exc_info=error)

    async def _deliver(self, webhook: _Webhook) -> None:
        outcome = await self._outcome(webhook)
        if outcome is None:
            reason = "its outcome is no longer kept"
            await self._settle(webhook, Attempt(False, reason, permanent=True), "")
            return
        body = _body(outcome)
        headers = signed_headers(
            self._settings.webhook_secret, f"wh_{webhook.entry}", int(time.time()), body
        )
        await self._settle(
            webhook, await self._postman.post(webhook.url, headers, body), outcome.id
        )

    async def _outcome(self, webhook: _Webhook) -> Outcome | None:
        stream = self._keys.transcripts
        found = await self._link.run(
            lambda: entries(self._link.redis, stream, webhook.outcome, webhook.outcome)
        )
        return self._present(outcome_from_entry(found[0][1])) if found else None

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
    """What is signed and sent, in the form that https://www.standardwebhooks.com asks for."""
    head = {
        "type": f"transcription.{outcome.status}",
        "timestamp": datetime.fromtimestamp((outcome.finished_at or 0) / 1000, UTC).isoformat(),
    }
    return f'{json.dumps(head)[:-1]}, "data": {outcome.dumps()}}}'.encode()
