"""The time limit of a wait for an outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sensestream_common.contract.errors import WaitTimeout

__all__ = ["wait_limit"]


@asynccontextmanager
async def wait_limit(request_id: str, seconds: float | None) -> AsyncIterator[None]:
    """End a block that takes longer than `seconds` with a `WaitTimeout`; `None` is no limit."""
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise WaitTimeout(
            f"no outcome of {request_id!r} within {seconds} s; it may still come: "
            "wait again, or look at `sensestream status`"
        ) from None
