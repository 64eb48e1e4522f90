"""Deadlines: checked against the clock of the pipeline, and cut short by a timeout."""

from __future__ import annotations

import asyncio

import pytest
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.processing.deadlines import Deadlines

from tests.consumer.processing.conftest import request

pytestmark = pytest.mark.anyio

NOW = 1_000_000
DEADLINES = Deadlines(lambda: NOW)


def test_a_deadline_is_told_in_seconds_from_now() -> None:
    assert DEADLINES.left(request(deadline=NOW + 1500)) == 1.5
    assert DEADLINES.left(request(deadline=NOW - 500)) == -0.5
    assert DEADLINES.left(request()) is None


@pytest.mark.parametrize(
    ("deadline", "passed"), [(None, False), (NOW + 1, False), (NOW, False), (NOW - 1, True)]
)
def test_a_deadline_has_passed_after_its_last_millisecond(
    deadline: int | None, passed: bool
) -> None:
    assert DEADLINES.passed(request(deadline=deadline)) is passed


def test_a_request_is_refused_after_its_deadline() -> None:
    DEADLINES.check(request(deadline=NOW))
    with pytest.raises(RequestError, match=f"deadline={NOW - 1} had passed") as refused:
        DEADLINES.check(request(deadline=NOW - 1))
    assert refused.value.code is ErrorCode.EXPIRED


async def test_work_is_cut_short_at_the_deadline() -> None:
    with pytest.raises(RequestError) as refused:
        async with DEADLINES.within(request(deadline=NOW + 10)):
            await asyncio.Event().wait()
    assert refused.value.code is ErrorCode.EXPIRED


async def test_work_without_a_deadline_goes_on_to_its_end() -> None:
    async with DEADLINES.within(request()):
        await asyncio.sleep(0)


async def test_a_timeout_of_the_work_itself_is_not_taken_for_the_deadline() -> None:
    with pytest.raises(TimeoutError, match="of the site"):
        async with DEADLINES.within(request(deadline=NOW + 60_000)):
            raise TimeoutError("of the site")
