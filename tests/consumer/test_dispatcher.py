"""How the task of a delivery ends, and what becomes of the delivery."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, cast

import pytest
from sensestream_common.contract.keys import HANDED_BACK
from sensestream_consumer.broker.deliveries import Delivery, DeliveryState
from sensestream_consumer.broker.outbox import CacheWrite, Commit
from sensestream_consumer.processing.attempts import DeliveryLost
from sensestream_consumer.processing.dispatcher import Dispatcher
from sensestream_consumer.processing.slots import AtCapacity, SlotPool, TooManyWaiters
from structlog.testing import capture_logs

from tests.consumer.conftest import Components, MakeParts, outcomes, submit, transcript_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

Work = Callable[[Delivery], Awaitable[None]]
LATER = 30.0  # seconds that a drain may take


class Scripted:
    """A handler and a flow control that do as the test says."""

    def __init__(self, work: Work) -> None:
        self.handle = work
        self.known: list[Commit] = []
        self.commit_known: Callable[[Sequence[Commit]], Awaitable[list[Delivery]]] | None = None
        self.handed_back: list[bool] = []

    def resolve_locally(
        self, deliveries: Iterable[Delivery]
    ) -> tuple[list[Commit], list[Delivery]]:
        known = [commit.delivery for commit in self.known]
        return self.known, [each for each in deliveries if each not in known]

    async def commit_hits(self, commits: Sequence[Commit]) -> list[Delivery]:
        assert self.commit_known is not None
        return await self.commit_known(commits)

    def on_handed_back(self, *, too_many_waiters: bool) -> None:
        self.handed_back.append(too_many_waiters)


class Dispatching:
    """A dispatcher on a real Redis, whose deliveries do the test's `work`."""

    def __init__(self, parts: Components, work: Work) -> None:
        self.parts = parts
        self.script = cast(Any, Scripted(work))
        self.hurry = asyncio.Event()
        self.dispatcher = Dispatcher(
            self.script, parts.inbox, parts.in_flight, SlotPool(4, lambda: None), self.script,
            on_ended=lambda: None,
        )  # fmt: skip

    async def begin(self, count: int = 1) -> list[Delivery]:
        """Deliveries with a task that is at work."""
        await self.parts.inbox.create_groups()
        for _ in range(count):
            await submit(self.parts.redis)
        deliveries = await self.parts.read(count)
        self.dispatcher.dispatch(deliveries)
        await asyncio.sleep(0)
        return deliveries

    async def ended(self) -> None:
        await wait_until(lambda: self.dispatcher.count == 0)

    async def drain(self, seconds: float = LATER) -> None:
        await self.dispatcher.drain(seconds, self.hurry)


async def for_ever(delivery: Delivery) -> None:
    await asyncio.sleep(3600)


async def test_a_commit_that_is_on_its_way_has_its_reply_within_the_drain(
    make_parts: MakeParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, its request was answered, and neither logged nor counted."""
    parts, told = make_parts("one"), []
    sent, reply_comes = asyncio.Event(), asyncio.Event()
    run = parts.broker.run

    async def slow(*call: Any) -> Any:
        reply = await run(*call)
        sent.set()
        await reply_comes.wait()
        return reply

    async def answer(delivery: Delivery) -> None:
        if await parts.outbox.commit(delivery, transcript_of(delivery)):
            told.append(delivery.entry)

    at_work = Dispatching(parts, answer)
    monkeypatch.setattr(parts.broker, "run", slow)
    await parts.inbox.create_groups()
    entry = await submit(parts.redis)
    reply_comes.set()
    [delivery] = await parts.read()
    reply_comes.clear()
    sent.clear()
    at_work.dispatcher.dispatch([delivery])
    await sent.wait()
    draining = asyncio.create_task(at_work.drain())
    reply_comes.set()
    await draining
    assert told == [entry]
    assert delivery.state is DeliveryState.SETTLED
    assert await outcomes(parts) == [b"completed"]


async def test_a_drain_waits_for_what_is_started_and_cancels_what_is_not(
    make_parts: MakeParts,
) -> None:
    finish, ended = asyncio.Event(), []

    async def work(delivery: Delivery) -> None:
        await finish.wait()
        ended.append(delivery)

    at_work = Dispatching(make_parts("one"), work)
    started, received = await at_work.begin(2)
    started.start(1)
    draining = asyncio.create_task(at_work.drain())
    await wait_until(lambda: at_work.dispatcher.count == 1)
    finish.set()
    await draining
    assert ended == [started]
    # The other one is not waited for: any worker may take it, even while this one drains.
    assert received.state is DeliveryState.SETTLED
    assert await at_work.parts.owner(received) == HANDED_BACK


@pytest.mark.parametrize("hurried", [False, True])
async def test_a_drain_ends_with_its_time_or_when_it_is_hurried(
    make_parts: MakeParts, hurried: bool
) -> None:
    at_work = Dispatching(make_parts("one"), for_ever)
    [started] = await at_work.begin()
    started.start(1)
    if hurried:
        at_work.hurry.set()
    await asyncio.wait_for(at_work.drain(LATER if hurried else 0.01), 10)
    assert at_work.dispatcher.count == 0
    assert started in at_work.parts.in_flight  # it is handed back as the worker leaves


async def test_a_worker_that_ends_without_a_drain_hands_back_what_it_was_about_to_answer(
    make_parts: MakeParts,
) -> None:
    async def answer(delivery: Delivery) -> None:
        delivery.settle()
        await asyncio.sleep(3600)

    at_work = Dispatching(make_parts("one"), answer)
    deliveries = await at_work.begin(2)
    await at_work.dispatcher.close()
    assert at_work.dispatcher.count == 0
    await at_work.parts.inbox.hand_back(at_work.parts.in_flight.snapshot()[0])
    assert [await at_work.parts.owner(each) for each in deliveries] == [HANDED_BACK] * 2


@pytest.mark.parametrize("refusal", [AtCapacity, TooManyWaiters])
async def test_a_delivery_without_room_is_handed_back(
    make_parts: MakeParts, refusal: type[AtCapacity]
) -> None:
    async def refuse(delivery: Delivery) -> None:
        raise refusal

    at_work = Dispatching(make_parts("one"), refuse)
    [delivery] = await at_work.begin()
    await at_work.ended()
    assert await at_work.parts.owner(delivery) == HANDED_BACK
    assert delivery not in at_work.parts.in_flight
    assert at_work.script.handed_back == [refusal is TooManyWaiters]


async def test_a_delivery_that_fails_or_is_lost_is_renewed_no_more(make_parts: MakeParts) -> None:
    errors: list[Exception] = [DeliveryLost(), ValueError("nobody foresaw it")]

    async def fail(delivery: Delivery) -> None:
        raise errors.pop()

    at_work = Dispatching(make_parts("one"), fail)
    with capture_logs() as logs:
        failed, lost = await at_work.begin(2)
        await at_work.ended()
    assert failed not in at_work.parts.in_flight
    assert lost not in at_work.parts.in_flight
    assert [line["entry"] for line in logs if line["event"] == "request_task_failed"] == [
        failed.entry
    ]


async def test_a_delivery_that_another_worker_owns_is_given_up_unless_it_is_started(
    make_parts: MakeParts,
) -> None:
    at_work = Dispatching(make_parts("one"), for_ever)
    received, started = await at_work.begin(2)
    started.start(1)
    for delivery in (received, started):
        at_work.dispatcher.on_lost(delivery)
        at_work.dispatcher.on_lost(delivery)  # two beats may find it before it is told
        assert delivery.state is DeliveryState.LOST
        assert delivery not in at_work.parts.in_flight
    await wait_until(lambda: at_work.dispatcher.count == 1)
    await at_work.drain(0)


async def test_a_loss_that_comes_after_the_commit_was_sent_is_none(make_parts: MakeParts) -> None:
    at_work = Dispatching(make_parts("one"), for_ever)
    [delivery] = await at_work.begin()
    delivery.settle()
    at_work.dispatcher.on_lost(delivery)
    assert delivery.state is DeliveryState.SETTLING
    assert delivery in at_work.parts.in_flight
    await at_work.drain(0)


@pytest.mark.parametrize("how", ["left over", "failed before", "failed after it was sent"])
async def test_cache_hits_that_could_not_be_answered_together_are_begun_one_by_one(
    make_parts: MakeParts, how: str
) -> None:
    begun = []

    async def work(delivery: Delivery) -> None:
        begun.append(delivery)

    async def commit(commits: Sequence[Commit]) -> list[Delivery]:
        if how == "left over":
            return [each.delivery for each in commits]
        if how == "failed after it was sent":
            for each in commits:
                each.delivery.settle()
        raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")

    at_work = Dispatching(make_parts("one"), work)
    at_work.script.commit_known = commit
    await at_work.parts.inbox.create_groups()
    for _ in range(3):
        await submit(at_work.parts.redis)
    first, second, other = await at_work.parts.read()
    at_work.script.known = [
        Commit(each, transcript_of(each), CacheWrite()) for each in (first, second)
    ]
    with capture_logs():
        await at_work.dispatcher.dispatch_new([first, second, other])
        await at_work.ended()
    assert {each.entry for each in begun} == {first.entry, second.entry, other.entry}
    assert {each.state for each in begun} == {DeliveryState.RECEIVED}
