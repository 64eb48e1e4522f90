"""What this worker holds: entries, and leases on what they are transcribed from."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from sensestream_common.contract.keys import Lane

__all__ = ["Delivery", "InFlight", "Lease"]


@dataclass(eq=False, slots=True)
class Delivery:
    """A request entry that this worker holds; `lost` once somebody else does."""

    lane: Lane
    entry: str
    fields: Mapping[bytes, bytes]
    starts: int = 0  # how often it had been started when this worker took it
    attempt: int = 0  # which start this is; 0 until it is started
    digest: str = ""  # of the bytes it refers to, once they are read
    suspect: bool = False  # its earlier start, or its bytes', ended in a crash
    lost: bool = False
    # Its outcome, or its way back, has been sent: until the reply comes a beat may find it gone.
    settling: bool = False
    lease: Lease | None = None  # on what it is transcribed from, while it is


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to transcribe one recording, as long as it is renewed."""

    key: str
    value: str


class InFlight:
    """The entries and leases in hand. Changed by the event loop, read by the heartbeat's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[Lane, str], Delivery] = {}
        self._leases: dict[str, Lease] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, held: Delivery) -> None:
        with self._lock:
            self._entries[held.lane, held.entry] = held

    def discard(self, held: Delivery) -> None:
        with self._lock:
            if self._entries.get((held.lane, held.entry)) is held:
                del self._entries[held.lane, held.entry]

    def __contains__(self, held: Delivery) -> bool:
        return (held.lane, held.entry) in self._entries

    def add_lease(self, lease: Lease) -> None:
        with self._lock:
            self._leases[lease.key] = lease

    def discard_lease(self, lease: Lease) -> None:
        with self._lock:
            if self._leases.get(lease.key) == lease:
                del self._leases[lease.key]

    def still_needs(self, lease: Lease) -> bool:
        """Whether it is held for something that is not on its way out, and its lease with it."""
        with self._lock:
            settling = any(held.settling and held.lease == lease for held in self._entries.values())
            return self._leases.get(lease.key) == lease and not settling

    def snapshot(self) -> tuple[list[Delivery], list[Lease]]:
        with self._lock:
            return list(self._entries.values()), list(self._leases.values())
