"""Attempts: charged once, in Redis, and to the culprit alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.processing.attempts import DeliveryLost

from tests.consumer.conftest import KEYS, Components, MakeParts, submit
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "a" * 64


async def first(make_parts: MakeParts) -> tuple[Components, Delivery]:
    parts = make_parts("worker-0")
    await parts.inbox.create_groups()
    await submit(parts.redis, id="a")
    [delivery] = await parts.read()
    return parts, delivery


async def begin(parts: Components, delivery: Delivery) -> None:
    async with parts.attempts.begin(delivery, "a", DIGEST):
        pass


async def test_attempts_that_end_in_crashes_are_counted_and_then_refused(
    make_parts: MakeParts,
) -> None:
    parts, delivery = await first(make_parts)
    for attempt in (1, 2, 3):
        await begin(parts, delivery)
        assert delivery.attempt == attempt
        assert delivery.suspect == (attempt > 1)
        parts = make_parts(f"worker-{attempt}")
        delivery = await parts.steal(delivery)
    with pytest.raises(RequestError, match="3 times") as refused:
        await begin(parts, delivery)
    assert refused.value.code is ErrorCode.ATTEMPTS_EXHAUSTED


async def test_a_delivery_without_a_start_is_charged_nothing(make_parts: MakeParts) -> None:
    parts, delivery = await first(make_parts)
    for n in range(10):
        parts = make_parts(f"later-{n}")
        delivery = await parts.steal(delivery)
    await begin(parts, delivery)
    assert delivery.attempt == 1
    assert not delivery.suspect


async def test_copies_of_bytes_that_killed_workers_are_refused_without_an_attempt(
    make_parts: MakeParts,
) -> None:
    parts, delivery = await first(make_parts)
    await parts.redis.set(KEYS.crashes(DIGEST), 3)
    with pytest.raises(RequestError, match="copies of it ended 3 workers"):
        await begin(parts, delivery)
    assert delivery.attempt == 0


async def test_a_lost_delivery_is_not_started(make_parts: MakeParts) -> None:
    parts, delivery = await first(make_parts)
    await make_parts("thief").steal(delivery)
    with pytest.raises(DeliveryLost):
        await begin(parts, delivery)


async def test_a_suspect_waits_until_it_is_alone_before_it_is_charged(
    make_parts: MakeParts,
) -> None:
    parts, delivery = await first(make_parts)
    await begin(parts, delivery)  # and its worker died
    await submit(parts.redis, id="b")
    [neighbour] = await parts.read()
    suspect = await parts.steal(delivery)
    leave = asyncio.Event()
    inside = asyncio.Event()

    async def work() -> None:
        async with parts.attempts.begin(neighbour, "b", "sha256:" + "b" * 64):
            inside.set()
            await leave.wait()

    working = asyncio.create_task(work())
    await inside.wait()
    alone = asyncio.create_task(begin(parts, suspect))
    await wait_until(lambda: suspect.suspect)
    [_, row] = sorted(
        await parts.redis.xpending_range(KEYS.requests, "workers", "-", "+", 10),
        key=lambda row: row["message_id"] == delivery.entry.encode(),
    )
    assert row["times_delivered"] == 2  # its first start only
    leave.set()
    await asyncio.gather(working, alone)
    assert suspect.attempt == 2


async def test_an_attempt_whose_reply_was_lost_is_charged_once(make_parts: MakeParts) -> None:
    parts, delivery = await first(make_parts)
    run = parts.broker.run
    lost: list[bool] = []

    async def lossy(*call: Any) -> Any:
        reply = await run(*call)
        if not lost:
            lost.append(True)
            raise RedisConnectionError("the reply was lost")
        return reply

    parts.broker.run = lossy  # type: ignore[method-assign,assignment]
    await begin(parts, delivery)
    assert delivery.attempt == 1
    assert not delivery.suspect
    assert await parts.redis.exists(KEYS.crashes(DIGEST)) == 0
