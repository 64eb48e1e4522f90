"""Whether Redis answers, on each of a worker's connections; kept by the code that uses it."""

from __future__ import annotations

import time

from sensestream_consumer.telemetry.metrics import REDIS_RECONNECTS

__all__ = ["ConnectionState"]


class ConnectionState:
    """Whether Redis answers on one connection, which `connection` names in the metrics."""

    def __init__(self, connection: str) -> None:
        self._connection = connection
        self._away_since: float | None = None

    def answered(self) -> None:
        """Note that Redis has replied."""
        if self._away_since is not None:
            self._away_since = None
            REDIS_RECONNECTS.labels(self._connection).inc()

    def failed(self) -> None:
        """Note that a call got no reply."""
        if self._away_since is None:
            self._away_since = time.monotonic()

    @property
    def away_for(self) -> float:
        """Seconds since Redis stopped answering; 0 while it answers."""
        since = self._away_since
        return 0.0 if since is None else max(0.001, time.monotonic() - since)
