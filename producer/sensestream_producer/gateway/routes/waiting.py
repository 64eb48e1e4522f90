"""Waiting for an outcome no longer than its caller can, or the gateway lives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sensestream_common.contract.outcome import Outcome

from sensestream_producer.gateway.dependencies import AppState
from sensestream_producer.gateway.errors import STATUS_OF, ApiError
from sensestream_producer.submit.submission import Receipt

__all__ = ["awaited", "until_stopping"]

T = TypeVar("T")


async def awaited(here: AppState, receipt: Receipt) -> Outcome:
    """The completed outcome of a job whose caller stays on the line.

    Raises `ApiError` for a failed one, and when it takes too long.
    """
    waiting = here.pipeline.outcome(receipt, timeout=here.settings.wait_timeout)
    # A second before uvicorn would cut it off: its caller is told, and asks another gateway.
    outcome = await until_stopping(here, waiting, grace=here.settings.drain_timeout - 1)
    if outcome is None and here.stopping.is_set():
        raise ApiError(
            503, "stopping", "this gateway is stopping: send it again, to be answered by another",
            retry_after=1,
        )  # fmt: skip
    if outcome is None:
        raise ApiError(
            504, "timeout",
            f"no transcript within {here.settings.wait_timeout:g} s; it may still come, under "
            f"/v1/transcriptions/{receipt.id}",
        )  # fmt: skip
    if outcome.error is not None:
        raise ApiError(STATUS_OF[outcome.error], outcome.error.value, outcome.message, param="file")
    return outcome


async def until_stopping(here: AppState, work: Awaitable[T], *, grace: float) -> T | None:
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
