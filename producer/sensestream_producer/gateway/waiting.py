"""Waiting for an outcome no longer than its caller can, or the gateway lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sensestream_producer.gateway.surroundings import Surroundings

__all__ = ["until_stopping"]

T = TypeVar("T")


async def until_stopping(here: Surroundings, work: Awaitable[T], *, grace: float) -> T | None:
    """The result of `work`; `None` when it is not there `grace` seconds after the gateway was told
    to stop. Work that is given up is cancelled.
    """
    task = asyncio.ensure_future(work)
    stopping = asyncio.create_task(here.stopping.wait(), name="gateway-stopping")
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and grace > 0:
            await asyncio.wait([task], timeout=grace)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stopping.cancel()
