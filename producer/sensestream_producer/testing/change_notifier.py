"""Notification of changes: wakes every waiting task, each on its own event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["ChangeNotifier"]


class ChangeNotifier:
    """Sets the event of every subscriber when `notify` is called, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Event, asyncio.AbstractEventLoop] = {}

    @contextmanager
    def subscribe(self) -> Iterator[asyncio.Event]:
        """Yield an event of the running loop that every `notify` sets; the subscriber clears it."""
        event = asyncio.Event()
        with self._lock:
            self._waiting[event] = asyncio.get_running_loop()
        try:
            yield event
        finally:
            with self._lock:
                del self._waiting[event]

    def notify(self) -> None:
        """Set the events of all subscribers."""
        with self._lock:
            waiting = list(self._waiting.items())
        for event, loop in waiting:
            with suppress(RuntimeError):  # its loop has been closed
                loop.call_soon_threadsafe(event.set)
