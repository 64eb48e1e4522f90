"""Single flight: followers share the leader's transcript, or the fault of the bytes."""

from __future__ import annotations

import asyncio

import pytest
from sensestream_common.contract.alias import Alias
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.processing.single_flight import FlightCall, FlightResult, SingleFlight

pytestmark = pytest.mark.anyio

KEY = ("sha256:0", "auto", True)
REFERENCE = "file:///a.wav"
RESULT = FlightResult(Transcript("a"), Alias("audio"))


async def test_followers_get_the_result_of_their_leader() -> None:
    flights = SingleFlight()
    with flights.lead(KEY, REFERENCE) as call:
        followers = [asyncio.create_task(follow(flights)) for _ in range(3)]
        await asyncio.sleep(0)
        call.set_result(RESULT)
    assert await asyncio.gather(*followers) == [RESULT] * 3


async def test_other_bytes_languages_and_itn_have_calls_of_their_own() -> None:
    flights = SingleFlight()
    with flights.lead(KEY, REFERENCE) as call:
        assert flights.get(KEY) is call
        assert flights.has_reference(REFERENCE)
        assert not flights.has_reference("file:///b.wav")
        for other in (("sha256:1", "auto", True), ("sha256:0", "en", True)):
            assert flights.get(other) is None
        assert flights.get(("sha256:0", "auto", False)) is None


async def test_a_call_that_has_ended_is_not_followed_any_more() -> None:
    flights = SingleFlight()
    with flights.lead(KEY, REFERENCE) as call:
        call.set_result(RESULT)
    assert flights.get(KEY) is None
    assert not flights.has_reference(REFERENCE)


@pytest.mark.parametrize(
    "code",
    [
        ErrorCode.AUDIO_EMPTY,
        ErrorCode.AUDIO_TOO_LONG,
        ErrorCode.AUDIO_UNREADABLE,
        ErrorCode.UNSUPPORTED_LANGUAGE,
    ],
)
async def test_a_fault_of_the_bytes_is_every_followers(code: ErrorCode) -> None:
    call = await ended_by(RequestError(code, "why"))
    for _ in range(2):
        with pytest.raises(RequestError, match="why") as raised:
            await call.wait()
        assert raised.value.code is code


@pytest.mark.parametrize(
    "error",
    [
        RequestError(ErrorCode.EXPIRED, "too late"),
        RequestError(ErrorCode.ATTEMPTS_EXHAUSTED, "too often"),
        RuntimeError("a fault of ours"),
        asyncio.CancelledError(),
    ],
)
async def test_after_a_fault_of_the_leaders_own_followers_retry(error: BaseException) -> None:
    assert await (await ended_by(error)).wait() is None


async def test_a_leader_without_a_result_lets_its_followers_retry() -> None:
    flights = SingleFlight()
    with flights.lead(KEY, REFERENCE) as call:
        pass
    assert await call.wait() is None


async def test_a_follower_that_gives_up_takes_the_result_from_no_other() -> None:
    flights = SingleFlight()
    with flights.lead(KEY, REFERENCE) as call:
        impatient, patient = [asyncio.create_task(call.wait()) for _ in range(2)]
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.wait([impatient])
        call.set_result(RESULT)
    assert await patient == RESULT


async def follow(flights: SingleFlight) -> FlightResult | None:
    call = flights.get(KEY)
    assert call is not None
    return await call.wait()


async def ended_by(error: BaseException) -> FlightCall:
    with pytest.raises(type(error)), SingleFlight().lead(KEY, REFERENCE) as call:
        raise error
    return call
