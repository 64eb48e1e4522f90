"""Attempts are starts: charged once, in Redis, and to the culprit alone."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.processing.attempts import DeliveryLost
from sensestream_consumer.processing.slots import AtCapacity, SharedExclusiveGate, SlotPool

from tests.consumer.conftest import KEYS, Components, MakeParts, submit
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "a" * 64


async def first(make_parts: MakeParts) -> tuple[Components, Delivery]:
    parts = make_parts("worker-0")
    await parts.inbox.create_groups()
    await submit(parts.redis, id="a")
    [held] = await parts.read()
    return parts, held


async def start(parts: Components, held: Delivery) -> None:
    async with parts.starts.start(held, "a", DIGEST):
        pass


async def test_starts_that_end_in_crashes_are_counted_and_then_refused(
    make_parts: MakeParts,
) -> None:
    parts, held = await first(make_parts)
    for attempt in (1, 2, 3):
        await start(parts, held)
        assert held.attempt == attempt
        assert held.suspect == (attempt > 1)
        parts = make_parts(f"worker-{attempt}")
        held = await parts.steal(held)
    with pytest.raises(RequestError, match="3 times") as refused:
        await start(parts, held)
    assert refused.value.code is ErrorCode.ATTEMPTS_EXHAUSTED


async def test_merely_holding_an_entry_charges_nothing(make_parts: MakeParts) -> None:
    parts, held = await first(make_parts)
    for n in range(10):
        parts = make_parts(f"later-{n}")
        held = await parts.steal(held)
    await start(parts, held)
    assert held.attempt == 1
    assert not held.suspect


async def test_copies_of_bytes_that_killed_workers_are_refused_without_a_start(
    make_parts: MakeParts,
) -> None:
    parts, held = await first(make_parts)
    await parts.redis.set(KEYS.crashes(DIGEST), 3)
    with pytest.raises(RequestError, match="copies of it ended 3 workers"):
        await start(parts, held)
    assert held.attempt == 0


async def test_an_entry_that_is_anothers_now_is_not_started(make_parts: MakeParts) -> None:
    parts, held = await first(make_parts)
    await make_parts("thief").steal(held)
    with pytest.raises(DeliveryLost):
        await start(parts, held)


async def test_a_suspect_waits_until_it_is_alone_before_it_is_charged(
    make_parts: MakeParts,
) -> None:
    parts, held = await first(make_parts)
    await start(parts, held)  # and its worker died
    await submit(parts.redis, id="b")
    [neighbour] = await parts.read()
    suspect = await parts.steal(held)
    leave = asyncio.Event()
    inside = asyncio.Event()

    async def work() -> None:
        async with parts.starts.start(neighbour, "b", "sha256:" + "b" * 64):
            inside.set()
            await leave.wait()

    working = asyncio.create_task(work())
    await inside.wait()
    alone = asyncio.create_task(start(parts, suspect))
    await wait_until(lambda: suspect.suspect)
    [_, row] = sorted(
        await parts.redis.xpending_range(KEYS.requests, "workers", "-", "+", 10),
        key=lambda row: row["message_id"] == held.entry.encode(),
    )
    assert row["times_delivered"] == 2  # its first start only
    leave.set()
    await asyncio.gather(working, alone)
    assert suspect.attempt == 2


async def test_a_room_admits_many_or_one_alone() -> None:
    room = SharedExclusiveGate()
    order: list[str] = []

    async def visit(name: str, leave: asyncio.Event, *, alone: bool) -> None:
        async with room.enter(alone=alone):
            order.append(name)
            await leave.wait()

    go = asyncio.Event()
    stay = asyncio.Event()
    tasks = [asyncio.create_task(visit("a", go, alone=False)),
             asyncio.create_task(visit("b", go, alone=False))]  # fmt: skip
    await wait_until(lambda: len(order) == 2)
    tasks.append(asyncio.create_task(visit("alone", stay, alone=True)))
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(visit("c", go, alone=False)))
    go.set()
    await wait_until(lambda: "alone" in order)
    assert order == ["a", "b", "alone"]
    stay.set()
    await asyncio.gather(*tasks)
    assert order[-1] == "c"


async def test_a_place_is_taken_or_refused_at_once() -> None:
    freed: list[bool] = []
    places = SlotPool(1, lambda: freed.append(True))
    with places.place():
        with pytest.raises(AtCapacity), places.place():
            pass
        assert places.free == 0
    assert places.free == 1
    assert freed == [True]


async def test_a_place_that_is_kept_is_nobody_elses() -> None:
    freed: list[bool] = []
    places = SlotPool(1, lambda: freed.append(True))
    places.keep("a")
    assert places.free == 0
    with pytest.raises(AtCapacity), places.place("b"):
        pass
    with places.place("a"):
        assert places.free == 0
    assert places.free == 1
    places.keep("c")
    places.let_go("a")  # needed none any more
    assert places.free == 0
    places.let_go("c")
    assert places.free == 1
    assert freed == [True, True]


async def test_a_place_is_kept_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("sensestream_consumer.processing.slots.time.monotonic", lambda: now)
    places = SlotPool(1, lambda: None)
    places.keep("held up by a slow site")
    assert places.free == 0
    now += 5
    with places.place("another"), pytest.raises(AtCapacity), places.place("held up by a slow site"):
        pass


async def test_a_start_whose_reply_was_lost_is_charged_once(make_parts: MakeParts) -> None:
    parts, held = await first(make_parts)
    run = parts.broker.run
    lost: list[bool] = []

    async def lossy(*call: Any) -> Any:
        reply = await run(*call)
        if not lost:
            lost.append(True)
            raise RedisConnectionError("the reply was lost")
        return reply

    parts.broker.run = lossy  # type: ignore[method-assign,assignment]
    await start(parts, held)
    assert held.attempt == 1
    assert not held.suspect
    assert await parts.redis.exists(KEYS.crashes(DIGEST)) == 0
