"""Waits that end when the caller's time is over or the gateway stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from sensestream_common.contract.outcome import Outcome

from sensestream_producer.gateway.dependencies import AppState
from sensestream_producer.gateway.errors import STATUS_OF, ApiError
from sensestream_producer.submit.submission import Receipt

__all__ = ["completed_outcome", "until_stopping"]

T = TypeVar("T")


async def completed_outcome(state: AppState, receipt: Receipt) -> Outcome:
    """Wait for the completed outcome of a request.

    Raises `ApiError`: the status of a failed outcome, 504 after the gateway's `wait_timeout`, 503
    when the gateway stops first.
    """
    waiting = state.backend.outcome(receipt, timeout=state.settings.wait_timeout)
    # End a second before uvicorn closes the connection, so that the caller gets an answer.
    outcome = await until_stopping(state, waiting, grace=state.settings.drain_timeout - 1)
    if outcome is None and state.stopping.is_set():
        message = "this gateway is stopping: send the request again, to another gateway"
        raise ApiError(503, "stopping", message, retry_after=1)
    if outcome is None:
        raise ApiError(
            504,
            "timeout",
            f"no transcript within {state.settings.wait_timeout:g} s; it may still come, under "
            f"/v1/transcriptions/{receipt.id}",
        )
    if outcome.error is not None:
        raise ApiError(STATUS_OF[outcome.error], outcome.error.value, outcome.message, param="file")
    return outcome


async def until_stopping(state: AppState, work: Awaitable[T], *, grace: float) -> T | None:
    """The result of `work`; `None` if it is not there `grace` seconds after the gateway is told to
    stop. Unfinished work is cancelled.
    """
    task = asyncio.ensure_future(work)
    stopping = asyncio.create_task(state.stopping.wait(), name="gateway-stopping")
    try:
        await asyncio.wait([task, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and grace > 0:
            await asyncio.wait([task], timeout=grace)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        stopping.cancel()
