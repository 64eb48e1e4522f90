"""The tasks of a worker: one for each delivery, or for a batch of cache hits that it remembers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError

from sensestream_consumer.broker.autopipeline import retry_until_available
from sensestream_consumer.broker.deliveries import Delivery, DeliveryState, InFlight
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.broker.outbox import Commit
from sensestream_consumer.processing.attempts import DeliveryLost
from sensestream_consumer.processing.flow_control import FlowControl
from sensestream_consumer.processing.handler import Handler
from sensestream_consumer.processing.slots import AtCapacity, SlotPool, TooManyWaiters
from sensestream_consumer.telemetry.metrics import ENTRIES_LOST

__all__ = ["Dispatcher", "cancel"]

log = structlog.get_logger(__name__)

_BATCH = 32  # cache hits in one commit: Redis does nothing else for so long
_HAND_BACK_PATIENCE = 5.0  # seconds that a drain waits for Redis to take idle entries back


class Dispatcher:
    """Begins a task for each delivery, and ends the delivery with its task.

    The task of a delivery                     The delivery afterwards
    -----------------------------------------  ------------------------------------------------
    returns                                    settled: the outbox has its reply
    raises `AtCapacity`                        handed back for another worker
    raises `DeliveryLost`                      renewed no more: another worker owns it
    is cancelled by `on_lost`                  the same; once started it is finished all the same
    is cancelled by `drain` or `close`         in flight, until `Membership.leave` hands it back
    is cancelled otherwise, or fails           renewed no more: replayed after RECLAIM_AFTER
    was one of a batch, and is not answered    begun again, in a task of its own
    """

    def __init__(
        self,
        handler: Handler,
        inbox: Inbox,
        in_flight: InFlight,
        slots: SlotPool,
        flow_control: FlowControl,
        *,
        on_ended: Callable[[], None],
    ) -> None:
        """`on_ended` is called at the end of each task: there is room for more."""
        self._handler = handler
        self._inbox = inbox
        self._in_flight = in_flight
        self._slots = slots
        self._flow_control = flow_control
        self._on_ended = on_ended
        self._draining = False
        self._tasks: dict[asyncio.Task[None], tuple[Delivery, ...]] = {}

    @property
    def count(self) -> int:
        """How many deliveries have a task."""
        return sum(map(len, self._tasks.values()))

    def dispatch(self, deliveries: Iterable[Delivery]) -> None:
        """Begin with each delivery, in a task of its own."""
        for delivery in deliveries:
            self._begin(self._handle(delivery), delivery)

    async def dispatch_new(self, deliveries: list[Delivery]) -> None:
        """Begin with the cache hits that this worker remembers, in batches, then with the others.

        In batches, because Redis and the subscribers have the first ones while the next ones are
        put together.
        """
        others: list[Delivery] = []
        for start in range(0, len(deliveries), _BATCH):
            commits, unknown = self._handler.resolve_locally(deliveries[start : start + _BATCH])
            others += unknown
            if commits:
                self._begin(self._commit(commits), *(commit.delivery for commit in commits))
                await asyncio.sleep(0)
        self.dispatch(others)

    def on_lost(self, delivery: Delivery) -> None:
        """Give up a delivery that the heartbeat has found to be another worker's.

        A delivery that is started is finished all the same: the first transcript counts, from the
        entry's owner or not.
        """
        if not self._in_flight.can_lose(delivery):
            return  # answered, or about to be, since the heartbeat looked
        started = delivery.state is DeliveryState.STARTED
        delivery.lose()
        ENTRIES_LOST.inc()
        for task, deliveries in self._tasks.items():
            if deliveries == (delivery,) and not started:
                task.cancel()
        self._in_flight.discard(delivery)
        if delivery.lease:
            # If it were renewed, the new owner would wait for it as long as this worker lives.
            self._in_flight.discard_lease(delivery.lease)

    async def drain(self, seconds: float, hurry: asyncio.Event) -> None:
        """Finish the deliveries that are started or settling; cancel the tasks of the others.

        For some `seconds`, or until `hurry` is set; then the rest is cancelled too.
        """
        self._draining = True
        await cancel([task for task, mine in self._tasks.items() if _can_wait(mine)])
        if tasks := list(self._tasks):
            await self._hand_back_idle()
            log.info("draining", started=len(tasks), seconds=seconds)
            finished = asyncio.ensure_future(asyncio.wait(tasks))
            hurried = asyncio.ensure_future(hurry.wait())
            await asyncio.wait(
                (finished, hurried), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
            finished.cancel()
            hurried.cancel()
        await self.close()

    async def close(self) -> None:
        """Cancel all tasks; their deliveries stay in flight."""
        self._draining = True
        await cancel(list(self._tasks))

    async def _hand_back_idle(self) -> None:
        """Hand back the deliveries without a task: they need not wait for the end of the drain."""
        busy = [delivery for mine in self._tasks.values() for delivery in mine]
        idle = [each for each in self._in_flight.snapshot()[0] if each not in busy]
        try:
            await asyncio.wait_for(self._inbox.hand_back(idle), _HAND_BACK_PATIENCE)
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("hand_back_postponed", entries=len(idle), error=repr(error))

    def _begin(self, work: Coroutine[Any, Any, None], *deliveries: Delivery) -> None:
        for delivery in deliveries:
            self._in_flight.add(delivery)
        task = asyncio.create_task(work, name=f"request {deliveries[0].entry}")
        self._tasks[task] = deliveries
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        deliveries = self._tasks.pop(task)
        self._on_ended()
        for delivery in deliveries:
            self._slots.cancel_reservation(delivery)
        error = None if task.cancelled() else task.exception()
        if error or (task.cancelled() and not self._draining):
            for delivery in deliveries:
                self._in_flight.discard(delivery)
                if error:
                    log.error("request_task_failed", entry=delivery.entry, exc_info=error)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            await self._handler.handle(delivery)
        except AtCapacity as full:
            await retry_until_available(lambda: self._inbox.hand_back([delivery]), "hand back")
            self._flow_control.on_handed_back(too_many_waiters=isinstance(full, TooManyWaiters))
        except DeliveryLost:
            self._in_flight.discard(delivery)

    async def _commit(self, batch: Sequence[Commit]) -> None:
        """Answer cache hits together; those that cannot be, each by itself."""
        try:
            unanswered = await self._handler.commit_hits(batch)
        except Exception:
            # One of them cannot be sent, or is refused: by themselves they harm no neighbour.
            log.exception("batch_commit_failed", entries=len(batch))
            unanswered = [each.delivery for each in batch if each.delivery in self._in_flight]
            for delivery in unanswered:
                if delivery.state is DeliveryState.SETTLING:
                    delivery.reopen()
        if not self._draining:  # else they are handed back with all that is in flight
            self.dispatch(unanswered)


def _can_wait(deliveries: Iterable[Delivery]) -> bool:
    """Whether nothing is started for them, nor sent: another worker may have them."""
    return all(delivery.state is DeliveryState.RECEIVED for delivery in deliveries)


async def cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancel tasks, again and again until they have ended.

    Before Python 3.12 `asyncio.wait_for`, which redis-py uses, swallows a cancellation that comes
    together with its result.
    """
    while tasks := [task for task in tasks if not task.done()]:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.1)
