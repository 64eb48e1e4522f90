"""The share of the normal lane, so that a busy high lane does not starve it."""

from __future__ import annotations

from collections.abc import Iterable

from sensestream_common.contract.keys import Lane

from sensestream_consumer.broker.deliveries import Delivery

__all__ = ["FairShare"]

_HIGH_PER_NORMAL = 8  # entries of the high lane for each of the normal one, where both have plenty


class FairShare:
    """A ninth of all entries for the normal lane, however many wait in the high lane."""

    def __init__(self) -> None:
        # Entries of the high lane that the normal lane has not had its share for. Never more than
        # one share: a share that the normal lane had no entries for is not made up for.
        self._unpaid = 0

    def reserved(self, count: int) -> int:
        """How many of the next `count` entries are reserved for the normal lane."""
        return (self._unpaid + count) // (_HIGH_PER_NORMAL + 1)

    def record(self, deliveries: Iterable[Delivery]) -> None:
        """Note which entries were given out."""
        for delivery in deliveries:
            self._unpaid += 1 if delivery.lane is Lane.HIGH else -_HIGH_PER_NORMAL
        self._unpaid = max(0, min(self._unpaid, _HIGH_PER_NORMAL))
