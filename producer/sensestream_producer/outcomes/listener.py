"""Listening to outcomes on the channel: live, and at most once."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError
from sensestream_common.connections.connection import BLOCK_SECONDS
from sensestream_common.connections.retry import Backoff
from sensestream_common.contract.errors import PipelineError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome, outcome_from_json

from sensestream_producer.transport import (
    RedisTransport,
    cancellations,
    is_retryable,
    raise_if_cancelled,
)

__all__ = ["listen"]

log = structlog.get_logger("sensestream.client")


async def listen(link: RedisTransport, keys: Keys) -> AsyncGenerator[Outcome]:
    """Yield outcomes from now on, for ever; those of a lost connection's time are missed.

    Raises `RedisUnavailable` when Redis cannot be reached at the start.
    """
    await link.run(link.redis.ping)
    before = cancellations()
    backoff = Backoff()
    while True:
        redis = link.reader("listen")
        try:
            async for message in _messages(redis, keys.channel, before):
                backoff.reset()
                if outcome := _outcome(message):
                    yield outcome
        except (RedisError, OSError) as error:
            if not is_retryable(error):
                raise link.translate(error) from error
            await backoff.wait()
        finally:
            await redis.aclose()


async def _messages(redis: Redis, channel: str, before: int) -> AsyncGenerator[bytes]:
    async with redis.pubsub(ignore_subscribe_messages=True) as subscriber:
        await raise_if_cancelled(subscriber.subscribe(channel), before)
        while True:
            message: Any = await raise_if_cancelled(
                subscriber.get_message(timeout=BLOCK_SECONDS), before
            )
            if message is not None:
                yield message["data"]


def _outcome(message: bytes) -> Outcome | None:
    try:
        return outcome_from_json(message)
    except PipelineError as error:
        log.warning("foreign message skipped", reason=str(error))
        return None
