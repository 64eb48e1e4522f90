"""Flow control: the number of deliveries that are read or taken over, by slots and read-ahead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from sensestream_consumer.processing.flow_control import FlowControl
from sensestream_consumer.processing.slots import SlotPool

from tests.consumer.conftest import Components, MakeParts, submit

pytestmark = pytest.mark.anyio

READ_AHEAD = 6
RECLAIM_AFTER = 60.0  # seconds


@dataclass
class World:
    """The parts of one worker; its clock and the judgement of its heartbeat are fakes."""

    parts: Components
    slots: SlotPool = field(default_factory=lambda: SlotPool(3, lambda: None))
    now: float = 100.0
    reclaims: bool = False

    def __post_init__(self) -> None:
        heartbeat: Any = self
        self.flow_control = FlowControl(
            self.parts.inbox, self.slots, heartbeat, READ_AHEAD, RECLAIM_AFTER
        )

    def may_reclaim(self) -> bool:
        return self.reclaims

    async def hand_back(self, count: int) -> None:
        for _ in range(count):
            await submit(self.parts.redis)
        await self.parts.inbox.hand_back(await self.parts.read(count))


@pytest.fixture
async def world(make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(make_parts("me"))
    await world.parts.inbox.create_groups()
    monkeypatch.setattr(
        "sensestream_consumer.processing.flow_control.time.monotonic", lambda: world.now
    )
    return world


async def test_new_entries_are_read_up_to_the_read_ahead(world: World) -> None:
    assert await world.flow_control.read_budget(0) == READ_AHEAD
    assert await world.flow_control.read_budget(4) == READ_AHEAD - 4
    assert await world.flow_control.read_budget(READ_AHEAD + 1) == 0


async def test_without_a_slot_fewer_are_read_for_each_that_was_handed_back(world: World) -> None:
    world.slots.in_use = 3
    assert await world.flow_control.read_budget(0) == READ_AHEAD
    await world.hand_back(4)
    assert await world.flow_control.read_budget(0) == READ_AHEAD - 4
    assert await world.flow_control.read_budget(3) == READ_AHEAD - 4
    assert await world.flow_control.read_budget(5) == 1
    await world.hand_back(4)
    assert await world.flow_control.read_budget(0) == 0


async def test_with_a_slot_entries_that_were_handed_back_do_not_count(world: World) -> None:
    world.slots.in_use = 2
    await world.hand_back(4)
    assert await world.flow_control.read_budget(0) == READ_AHEAD


async def test_as_many_are_taken_over_as_slots_are_available_and_each_is_reserved_one(
    world: World,
) -> None:
    await world.hand_back(5)
    world.slots.in_use = 1
    taken = await world.flow_control.reclaim(0)
    assert len(taken) == 2
    assert world.slots.available == 0
    assert await world.flow_control.reclaim(2) == []
    world.slots.cancel_reservation(taken[0])
    assert len(await world.flow_control.reclaim(2)) == 1


async def test_no_more_are_taken_over_than_the_read_ahead_leaves(world: World) -> None:
    await world.hand_back(5)
    assert len(await world.flow_control.reclaim(READ_AHEAD - 1)) == 1
    assert await world.flow_control.reclaim(READ_AHEAD) == []


async def test_after_a_look_that_found_too_few_the_next_one_waits_half_a_second(
    world: World,
) -> None:
    assert await world.flow_control.reclaim(0) == []
    await world.hand_back(1)
    world.now += 0.4
    assert await world.flow_control.reclaim(0) == []
    world.now += 0.2
    assert len(await world.flow_control.reclaim(0)) == 1


@pytest.mark.parametrize(("too_many_waiters", "taken"), [(False, 1), (True, 0)])
async def test_a_delivery_that_was_handed_back_is_looked_for_at_once_unless_many_wait(
    world: World, too_many_waiters: bool, taken: int
) -> None:
    assert await world.flow_control.reclaim(0) == []
    await world.hand_back(1)
    world.flow_control.on_handed_back(too_many_waiters=too_many_waiters)
    assert len(await world.flow_control.reclaim(0)) == taken


@pytest.mark.parametrize(("reclaims", "taken"), [(True, 1), (False, 0)])
async def test_the_entries_of_a_silent_worker_are_taken_over_by_one_that_was_not_silent(
    world: World, make_parts: MakeParts, reclaims: bool, taken: int
) -> None:
    silent = make_parts("silent")
    await submit(silent.redis)
    [delivery] = await silent.read()
    await silent.redis.xclaim(
        "{sensestream}:requests",
        "workers",
        "silent",
        0,
        [delivery.entry],
        idle=120_000,
        justid=True,
    )
    world.reclaims = reclaims
    assert len(await world.flow_control.reclaim(0)) == taken
