"""How a worker does at this moment: whether it is ready for work, and if not, why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sensestream_consumer.components import Components

__all__ = ["Readiness"]


class Readiness:
    """Written by the worker as it goes through its life, read by the endpoint."""

    def __init__(self) -> None:
        self._obstacle = "the model is being loaded"
        self.parts: Components | None = None

    def hinder(self, obstacle: str) -> None:
        """Not ready, for this reason."""
        self._obstacle = obstacle

    def put_together(self, parts: Components) -> None:
        """These parts may be looked at from here on."""
        self.parts = parts

    def ready(self) -> None:
        """It has joined the group and reads."""
        self._obstacle = ""

    def obstacle(self) -> str:
        """Why it is not ready for work, in a sentence; empty when it is."""
        if self._obstacle or self.parts is None:
            return self._obstacle
        away = self.redis_away_for()
        return f"Redis has not answered for {away:.1f} s" if away else ""

    def redis_away_for(self) -> float:
        """Seconds since Redis stopped answering; 0 while it answers."""
        if self.parts is None:
            return 0.0
        heartbeat = self.parts.heartbeat
        contacts = (self.parts.commands.contact, self.parts.inbox.contact, heartbeat.contact)
        away = max(contact.away_for for contact in contacts)
        # A Redis that hangs fails nothing until a time-out: the heartbeat's silence tells sooner.
        silent = heartbeat.silent_for()
        return max(away, silent if silent > 2 * heartbeat.interval else 0.0)
