"""Deadlines of requests: past it an answer is worthless, so no more work is begun for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.request import Request

__all__ = ["Deadlines", "expired"]


class Deadlines:
    """Deadlines on the clock of the pipeline: milliseconds since the epoch."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock

    def left(self, request: Request) -> float | None:
        """Seconds until the deadline, below 0 when it has passed; `None` without one."""
        return None if request.deadline is None else (request.deadline - self._clock()) / 1000

    def passed(self, request: Request) -> bool:
        """Whether the deadline has passed; false without one."""
        left = self.left(request)
        return left is not None and left < 0

    def check(self, request: Request) -> None:
        """Raise `expired` when the deadline has passed."""
        if self.passed(request):
            raise expired(request)

    @asynccontextmanager
    async def within(self, request: Request) -> AsyncIterator[None]:
        """Cut the block short at the deadline, with `expired`."""
        limit = asyncio.timeout(self.left(request))
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise expired(request) from None


def expired(request: Request) -> RequestError:
    """The error of a request whose deadline has passed."""
    return RequestError(
        ErrorCode.EXPIRED,
        f"deadline={request.deadline} had passed before it was transcribed: "
        "send it again with a later one, or add workers",
    )
