"""The time limit of a wait: as `asyncio.timeout`, and its end says of which request."""

from __future__ import annotations

import asyncio

import pytest
from sensestream_common.contract.errors import WaitTimeout
from sensestream_producer.outcomes.wait_limit import wait_limit

pytestmark = pytest.mark.anyio


async def test_what_takes_longer_is_ended_and_named() -> None:
    named = r"no outcome of 'a' within 0\.01 s"
    with pytest.raises(WaitTimeout, match=named):
        async with wait_limit("a", 0.01):
            await asyncio.Event().wait()
    await asyncio.sleep(0)  # the task itself has not been cancelled


@pytest.mark.parametrize("seconds", [None, 60])
async def test_what_ends_in_time_is_left_alone(seconds: float | None) -> None:
    async with wait_limit("a", seconds):
        await asyncio.sleep(0)


async def test_an_error_passes() -> None:
    with pytest.raises(LookupError):
        async with wait_limit("a", 60):
            raise LookupError


async def test_a_cancellation_from_elsewhere_is_one() -> None:
    async def wait() -> None:
        async with wait_limit("a", 60):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_of_two_cancellations_the_one_from_elsewhere_wins() -> None:
    async def wait() -> None:
        async with wait_limit("a", 0):
            await asyncio.Event().wait()

    waiting = asyncio.create_task(wait())
    # In the turn after the task's first: its limit is due then, and ends it in the same turn.
    asyncio.get_running_loop().call_soon(
        lambda: asyncio.get_running_loop().call_later(0, waiting.cancel)
    )
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_the_inner_of_two_limits_ends_the_inner_alone() -> None:
    async with wait_limit("outer", 60):
        with pytest.raises(WaitTimeout, match="inner"):
            async with wait_limit("inner", 0.01):
                await asyncio.Event().wait()
        await asyncio.sleep(0)
