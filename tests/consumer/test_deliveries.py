"""A delivery takes legal steps only, and the heartbeat can tell a loss from an answer under way."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sensestream_common.contract.keys import Lane
from sensestream_consumer.broker.deliveries import (
    Delivery,
    DeliveryState,
    IllegalStep,
    InFlight,
    Lease,
)

RECEIVED, STARTED, LOST, SETTLING, SETTLED = DeliveryState

STEPS: dict[str, Callable[[Delivery], None]] = {
    "start": lambda delivery: delivery.start(1),
    "refuse_start": lambda delivery: delivery.refuse_start(3),
    "lose": lambda delivery: delivery.lose(),
    "settle": lambda delivery: delivery.settle(),
    "reopen": lambda delivery: delivery.reopen(),
    "settled": lambda delivery: delivery.settled(),
}
# How to get into each state, and the state that each legal step leads to from there.
WAYS: dict[tuple[str, ...], dict[str, DeliveryState]] = {
    (): {"start": STARTED, "refuse_start": RECEIVED, "lose": LOST, "settle": SETTLING},
    ("start",): {"lose": LOST, "settle": SETTLING},
    ("lose",): {"settle": SETTLING},
    ("start", "lose"): {"settle": SETTLING},
    ("settle",): {"settle": SETTLING, "reopen": RECEIVED, "settled": SETTLED},
    ("start", "settle"): {"settle": SETTLING, "reopen": STARTED, "settled": SETTLED},
    ("lose", "settle"): {"settle": SETTLING, "reopen": LOST, "settled": SETTLED},
    ("settle", "settle"): {"settle": SETTLING, "reopen": RECEIVED, "settled": SETTLED},
    ("settle", "settled"): {},
}


def delivery_after(*steps: str) -> Delivery:
    delivery = Delivery(Lane.NORMAL, "1-0", {})
    for step in steps:
        STEPS[step](delivery)
    return delivery


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_each_step_is_taken_where_it_is_legal_and_refused_elsewhere(
    way: tuple[str, ...], step: str
) -> None:
    delivery = delivery_after(*way)
    before = delivery.state, delivery.attempt
    if step in WAYS[way]:
        STEPS[step](delivery)
        assert delivery.state is WAYS[way][step]
    else:
        with pytest.raises(IllegalStep, match=f"entry 1-0 is {before[0].value}"):
            STEPS[step](delivery)
        assert (delivery.state, delivery.attempt) == before


def test_every_state_is_reached() -> None:
    assert {delivery_after(*way).state for way in WAYS} == set(DeliveryState)


def test_a_refused_start_is_told_and_is_no_start() -> None:
    delivery = delivery_after("refuse_start")
    assert (delivery.state, delivery.attempt) == (RECEIVED, 3)


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_a_delivery_is_lost_only_while_it_is_in_flight_and_not_settling(
    way: tuple[str, ...],
) -> None:
    in_flight, delivery = InFlight(), delivery_after(*way)
    assert not in_flight.can_lose(delivery)
    in_flight.add(delivery)
    assert in_flight.can_lose(delivery) == ("lose" in WAYS[way])


def test_an_entry_that_comes_back_is_another_delivery() -> None:
    in_flight, first, second = InFlight(), delivery_after("lose"), delivery_after()
    in_flight.add(first)
    in_flight.add(second)
    assert first not in in_flight
    in_flight.discard(first)
    assert second in in_flight
    assert in_flight.snapshot() == ([second], [])


def test_a_lease_is_lost_unless_its_delivery_is_settling() -> None:
    in_flight, lease = InFlight(), Lease("key", "value")
    delivery = delivery_after("start")
    delivery.lease = lease
    in_flight.add(delivery)
    assert not in_flight.still_needs(lease)
    in_flight.add_lease(lease)
    assert in_flight.still_needs(lease)
    delivery.settle()
    assert not in_flight.still_needs(lease)
    delivery.reopen()
    assert in_flight.still_needs(lease)
    in_flight.discard_lease(lease)
    assert not in_flight.still_needs(lease)
