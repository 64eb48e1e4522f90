"""Whether a worker is ready for work, and if not, why."""

from __future__ import annotations

from dataclasses import dataclass

from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.deliveries import InFlight
from sensestream_consumer.broker.heartbeat import Heartbeat
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.engine import Engine
from sensestream_consumer.processing.slots import SlotPool

__all__ = ["MonitoredParts", "Readiness"]


@dataclass(frozen=True, slots=True)
class MonitoredParts:
    """The parts of a worker that monitoring reads from."""

    pipeline: str
    broker: Broker
    inbox: Inbox
    heartbeat: Heartbeat
    in_flight: InFlight
    engine: Engine
    slots: SlotPool


class Readiness:
    """Written by the worker as it starts and stops, read by the HTTP server."""

    def __init__(self) -> None:
        self._reason = "the model is being loaded"
        self.parts: MonitoredParts | None = None

    def block(self, reason: str) -> None:
        """Not ready, for this reason."""
        self._reason = reason

    def observe(self, parts: MonitoredParts) -> None:
        """Read from these parts from now on."""
        self.parts = parts

    def ready(self) -> None:
        """It has joined the group and reads."""
        self._reason = ""

    def reason(self) -> str:
        """Why it is not ready for work, in a sentence; empty when it is."""
        if self._reason or self.parts is None:
            return self._reason
        away = self.redis_away_for()
        return f"Redis has not answered for {away:.1f} s" if away else ""

    def redis_away_for(self) -> float:
        """Seconds since Redis stopped answering; 0 while it answers."""
        parts = self.parts
        if parts is None:
            return 0.0
        users = (parts.broker.commands, parts.inbox, parts.heartbeat)
        away = max(user.connection_state.away_for for user in users)
        # A Redis that hangs fails nothing until a time-out: the heartbeat's silence tells sooner.
        silent = parts.heartbeat.silent_for()
        return max(away, silent if silent > 2 * parts.heartbeat.interval else 0.0)
