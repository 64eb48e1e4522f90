"""The deliveries and leases that this worker has in flight, and the state of each delivery."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from sensestream_common.contract.keys import Lane

__all__ = ["Delivery", "DeliveryState", "IllegalStep", "InFlight", "Lease"]


class DeliveryState(Enum):
    """Where a delivery stands; `Delivery` draws the steps between the states."""

    RECEIVED = "received"  # read from the stream, or taken over; no start is charged
    STARTED = "started"  # a start is charged: the work may take the process down
    LOST = "lost"  # another worker owns the entry; a transcript already made still counts
    SETTLING = "settling"  # an outcome or a hand-back is sent; the reply has not come
    SETTLED = "settled"  # Redis has replied: the entry is answered or handed back


_RECEIVED, _STARTED, _LOST, _SETTLING, _SETTLED = DeliveryState


class IllegalStep(RuntimeError):
    """A step that a delivery cannot take from its state: a mistake in the code that asks for it."""


@dataclass(eq=False, slots=True)
class Delivery:
    """One entry of a request stream, as this worker has received it.

                   start
        RECEIVED ────────> STARTED
         │    │             │   │
         │    └─── lose ────┘   │
         │           v          │
         │          LOST        │
         │           v          │         settled
         └──────> SETTLING <────┘  ────────────────> SETTLED
                     │ settle (again, after a lost reply)
                     └─ reopen: nothing was written; back to the state before

    Only the event loop takes a step. The heartbeat's thread reads `state`, which is one reference
    and needs no lock; a step taken just after it has looked is harmless, because the event loop
    looks again before it calls `lose`. An illegal step raises `IllegalStep`.
    """

    lane: Lane
    entry: str
    fields: Mapping[bytes, bytes]
    starts: int = 0  # how often the entry had been started when this worker received it
    attempt: int = 0  # which start this is; 0 until it is started
    suspect: bool = False  # an earlier start, of this entry or of its bytes, ended in a crash
    digest: str = ""  # of the bytes that it refers to, once they are read
    lease: Lease | None = None  # on the recording, while it is transcribed for this delivery
    state: DeliveryState = DeliveryState.RECEIVED
    _before: DeliveryState = field(default=DeliveryState.RECEIVED, init=False, repr=False)

    def start(self, attempt: int) -> None:
        """Note that Redis has charged start number `attempt`."""
        if self.state is not _RECEIVED:
            raise self._illegal("start")
        self.state, self.attempt = _STARTED, attempt

    def refuse_start(self, starts: int) -> None:
        """Note the starts of an entry that has none left; it stays RECEIVED, to be failed."""
        if self.state is not _RECEIVED:
            raise self._illegal("refuse a start")
        self.attempt = starts

    def lose(self) -> None:
        """Note that another worker has taken the entry over."""
        if self.state is not _RECEIVED and self.state is not _STARTED:
            raise self._illegal("lose")
        self.state = _LOST

    def settle(self) -> None:
        """Note that an outcome or a hand-back is about to be sent, for the first time or again."""
        if self.state is _SETTLED:
            raise self._illegal("settle")
        if self.state is not _SETTLING:
            self._before, self.state = self.state, _SETTLING

    def reopen(self) -> None:
        """Go back to the state before `settle`: Redis has written nothing."""
        if self.state is not _SETTLING:
            raise self._illegal("reopen")
        self.state = self._before

    def settled(self) -> None:
        """Note that Redis has replied: nothing is left to be done."""
        if self.state is not _SETTLING:
            raise self._illegal("end")
        self.state = _SETTLED

    def _illegal(self, step: str) -> IllegalStep:
        return IllegalStep(f"entry {self.entry} is {self.state.value}: it cannot {step}")


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to transcribe one recording, as long as it is renewed."""

    key: str
    value: str


class InFlight:
    """Deliveries and leases in flight; the event loop changes them, the heartbeat reads them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._deliveries: dict[tuple[Lane, str], Delivery] = {}
        self._leases: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._deliveries)

    def __contains__(self, delivery: Delivery) -> bool:
        return self._deliveries.get((delivery.lane, delivery.entry)) is delivery

    def add(self, delivery: Delivery) -> None:
        """Renew this delivery from now on."""
        with self._lock:
            self._deliveries[delivery.lane, delivery.entry] = delivery

    def discard(self, delivery: Delivery) -> None:
        """Renew this delivery no more; nothing where it is not in flight."""
        with self._lock:
            if self._deliveries.get((delivery.lane, delivery.entry)) is delivery:
                del self._deliveries[delivery.lane, delivery.entry]

    def can_lose(self, delivery: Delivery) -> bool:
        """Whether a delivery that Redis says is not ours was lost, and is not just being settled.

        A commit or a hand-back takes the entry away before its reply comes back.
        """
        return delivery in self and delivery.state in (_RECEIVED, _STARTED)

    def add_lease(self, lease: Lease) -> None:
        """Renew this lease from now on."""
        with self._lock:
            self._leases[lease.key] = lease

    def discard_lease(self, lease: Lease) -> None:
        """Renew this lease no more; nothing where it is not in flight."""
        with self._lock:
            if self._leases.get(lease.key) == lease:
                del self._leases[lease.key]

    def still_needs(self, lease: Lease) -> bool:
        """Whether a lease that Redis says is not ours was lost: its delivery is not settling."""
        with self._lock:
            settling = any(
                each.state is _SETTLING and each.lease == lease
                for each in self._deliveries.values()
            )
            return self._leases.get(lease.key) == lease and not settling

    def snapshot(self) -> tuple[list[Delivery], list[Lease]]:
        """The deliveries and the leases to be renewed."""
        with self._lock:
            return list(self._deliveries.values()), list(self._leases.values())
