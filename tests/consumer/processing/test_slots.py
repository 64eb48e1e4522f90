"""Slots are acquired or refused at once; the gate lets many pass together, or one alone."""

from __future__ import annotations

import asyncio

import pytest
from sensestream_common.contract.keys import Lane
from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.processing.slots import (
    AtCapacity,
    SharedExclusiveGate,
    SlotPool,
    TooManyWaiters,
)

pytestmark = pytest.mark.anyio


def delivery(entry: str) -> Delivery:
    return Delivery(Lane.NORMAL, entry, {})


class Pool(SlotPool):
    """A pool that counts how often a slot may have become available."""

    def __init__(self, capacity: int, refusal: type[AtCapacity] = AtCapacity) -> None:
        self.freed = 0
        super().__init__(capacity, self.count, refusal)

    def count(self) -> None:
        self.freed += 1


def test_a_slot_is_acquired_or_refused_at_once() -> None:
    slots = Pool(1)
    with slots.acquire():
        assert (slots.in_use, slots.available) == (1, 0)
        with pytest.raises(AtCapacity), slots.acquire():
            pass
    assert (slots.in_use, slots.available, slots.freed) == (0, 1, 1)


def test_a_pool_refuses_in_its_own_way() -> None:
    waiters = Pool(0, TooManyWaiters)
    with pytest.raises(TooManyWaiters), waiters.acquire():
        pass


def test_a_slot_becomes_available_after_a_block_that_fails() -> None:
    slots = Pool(1)
    with pytest.raises(RuntimeError), slots.acquire():
        raise RuntimeError
    assert (slots.available, slots.freed) == (1, 1)


def test_a_reserved_slot_is_acquired_by_its_own_delivery_only() -> None:
    slots, ours = Pool(1), delivery("1-0")
    slots.reserve(ours)
    assert (slots.in_use, slots.available) == (0, 0)
    with pytest.raises(AtCapacity), slots.acquire(delivery("2-0")):
        pass
    with slots.acquire(ours):
        assert (slots.in_use, slots.available) == (1, 0)
    assert slots.available == 1


def test_a_cancelled_reservation_frees_its_slot_and_no_other() -> None:
    slots, ours = Pool(1), delivery("1-0")
    slots.reserve(ours)
    slots.cancel_reservation(delivery("2-0"))
    assert (slots.available, slots.freed) == (0, 0)
    slots.cancel_reservation(ours)
    assert (slots.available, slots.freed) == (1, 1)


def test_a_reservation_that_was_used_is_not_cancelled_again() -> None:
    slots, ours = Pool(2), delivery("1-0")
    slots.reserve(ours)
    with slots.acquire(ours):
        slots.cancel_reservation(ours)
        assert (slots.available, slots.freed) == (1, 0)


def test_a_slot_stays_reserved_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("sensestream_consumer.processing.slots.time.monotonic", lambda: now)
    slots, held_up = Pool(1), delivery("1-0")
    slots.reserve(held_up)
    now += 0.9
    assert slots.available == 0
    now += 0.2
    with slots.acquire(delivery("2-0")), pytest.raises(AtCapacity), slots.acquire(held_up):
        pass


class Visitors:
    """Tasks at a gate, and the order in which they passed it."""

    def __init__(self) -> None:
        self.gate = SharedExclusiveGate()
        self.passed: list[str] = []
        self.leave = {name: asyncio.Event() for name in ("a", "b", "alone", "late")}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, *, alone: bool = False) -> None:
        """Come to the gate; returns when the visitor has passed, or waits there."""
        self.tasks[name] = asyncio.create_task(self._visit(name, alone=alone))
        await settle()

    async def _visit(self, name: str, *, alone: bool) -> None:
        async with self.gate.exclusive() if alone else self.gate.shared():
            self.passed.append(name)
            await self.leave[name].wait()

    async def go(self, name: str) -> None:
        self.leave[name].set()
        await self.tasks[name]
        await settle()


async def settle() -> None:
    """Let all tasks run until each of them waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_many_pass_the_gate_together_and_one_alone_after_them() -> None:
    visitors = Visitors()
    await visitors.come("a")
    await visitors.come("b")
    await visitors.come("alone", alone=True)
    assert visitors.passed == ["a", "b"]
    await visitors.go("a")
    assert visitors.passed == ["a", "b"]
    await visitors.go("b")
    assert visitors.passed == ["a", "b", "alone"]
    await visitors.go("alone")


async def test_no_visitor_passes_one_that_waits_to_be_alone() -> None:
    visitors = Visitors()
    await visitors.come("a")
    await visitors.come("alone", alone=True)
    await visitors.come("late")
    assert visitors.passed == ["a"]
    await visitors.go("a")
    assert visitors.passed == ["a", "alone"]
    await visitors.go("alone")
    assert visitors.passed == ["a", "alone", "late"]
    await visitors.go("late")


async def test_a_visitor_that_stops_waiting_to_be_alone_holds_up_no_other() -> None:
    visitors = Visitors()
    await visitors.come("a")
    await visitors.come("alone", alone=True)
    await visitors.come("late")
    visitors.tasks["alone"].cancel()
    await settle()
    assert visitors.passed == ["a", "late"]
    await visitors.go("a")
    await visitors.go("late")
