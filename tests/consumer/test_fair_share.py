"""A ninth of what a worker reads or takes over is the normal lane's, however long the high one."""

from __future__ import annotations

import pytest
from sensestream_common.contract.keys import Lane
from sensestream_consumer.broker.deliveries import Delivery
from sensestream_consumer.broker.fair_share import FairShare

from tests.consumer.conftest import Components, MakeParts, submit

pytestmark = pytest.mark.anyio

HIGH, NORMAL = Lane.HIGH, Lane.NORMAL


def give(share: FairShare, count: int, *, waiting: int) -> tuple[int, int]:
    """How many high and normal entries are given out, when so many normal ones wait."""
    normal = min(share.reserved(count), waiting)
    lanes = [HIGH] * (count - normal) + [NORMAL] * normal
    share.record(Delivery(lane, "1-0", {}) for lane in lanes)
    return count - normal, normal


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 16, 128, 1000])
async def test_it_is_a_ninth_in_small_reads_as_in_large_ones(count: int) -> None:
    share = FairShare()
    given = [give(share, count, waiting=count) for _ in range(900)]
    assert sum(normal for _, normal in given) == pytest.approx(100 * count, abs=count / 9 + 1)


async def test_a_share_that_was_not_needed_is_not_made_up_for() -> None:
    share = FairShare()
    for _ in range(100):
        assert give(share, 8, waiting=0) == (8, 0)
    assert give(share, 8, waiting=100) == (7, 1)


async def test_more_than_its_share_leaves_the_normal_lane_no_debt() -> None:
    share = FairShare()
    share.record(Delivery(NORMAL, "1-0", {}) for _ in range(1000))
    assert give(share, 18, waiting=100) == (16, 2)


async def queues(make_parts: MakeParts, high: int, normal: int) -> Components:
    parts = make_parts("one")
    await parts.inbox.create_groups()
    for lane, entries in ((HIGH, high), (NORMAL, normal)):
        for _ in range(entries):
            await submit(parts.redis, lane=lane)
    return parts


async def test_reads_give_the_normal_lane_its_share_and_give_it_first(
    make_parts: MakeParts,
) -> None:
    parts = await queues(make_parts, 60, 60)
    # Behind the others its entries would find the slots taken each time.
    assert [each.lane for each in await parts.read(36)] == [NORMAL] * 4 + [HIGH] * 32
    one_by_one = [each.lane for _ in range(18) for each in await parts.read(1)]
    assert one_by_one == ([HIGH] * 8 + [NORMAL]) * 2


@pytest.mark.parametrize(("high", "normal"), [(60, 0), (60, 2), (3, 60), (0, 60)])
async def test_a_read_is_as_large_as_asked_for_while_enough_waits(
    make_parts: MakeParts, high: int, normal: int
) -> None:
    parts = await queues(make_parts, high, normal)
    lanes = [each.lane for each in await parts.read(36)]
    assert len(lanes) == 36
    assert lanes.count(NORMAL) == min(normal, max(4, 36 - high))


async def test_it_has_its_share_of_what_was_handed_back(make_parts: MakeParts) -> None:
    parts = await queues(make_parts, 60, 60)
    await parts.inbox.hand_back(await parts.read(120))
    taken = [each.lane for each in await parts.inbox.take(36, 60_000)]
    assert taken == [NORMAL] * 4 + [HIGH] * 32
    one_by_one = [each.lane for _ in range(18) for each in await parts.inbox.take(1, 60_000)]
    assert one_by_one == ([HIGH] * 8 + [NORMAL]) * 2
