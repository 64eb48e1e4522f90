"""Transcribing: one slot, one attempt, one lease, one engine; and who gives them up, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sensestream_common.contract.alias import Alias
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.cache.results import Cached, LeasedElsewhere
from sensestream_consumer.engine import NotStarted
from sensestream_consumer.processing.slots import AtCapacity
from sensestream_consumer.processing.transcribing import Transcribed

from tests.consumer.conftest import KEYS
from tests.consumer.processing.conftest import NOW, Way

pytestmark = pytest.mark.anyio

NO_MEMORY = TransientError(ErrorCode.INTERNAL, "the device has no memory left")


async def transcribe(way: Way, audio: str, **fields: Any) -> tuple[Alias, Any]:
    delivery, request = await way.request(audio, **fields)
    with await way.fetching.fetch(request) as fetched:
        return await way.transcribing.transcribe(delivery, request, fetched)


@asynccontextmanager
async def transcription_in(way: Way, audio: str) -> AsyncIterator[asyncio.Task[tuple[Alias, Any]]]:
    """A transcription that is in the engine."""
    way.engine.hold()
    task = asyncio.create_task(transcribe(way, audio))
    await way.engine.entered.wait()
    yield task


async def test_a_new_recording_is_transcribed_and_its_lease_handed_over(way: Way) -> None:
    alias, end = await transcribe(way, way.clip(1))
    assert isinstance(end, Transcribed)
    assert end.transcript.text == "transcript 1"
    assert end.lease is not None
    assert end.lease.key == KEYS.lease(way.parts.cache.identity(alias.audio, "auto", True))
    assert await way.leases() == [end.lease.key]
    assert (way.slots.in_use, len(way.parts.in_flight.snapshot()[1])) == (0, 1)


async def test_the_slot_and_the_lease_are_held_while_the_engine_works(way: Way) -> None:
    async with transcription_in(way, way.clip(1)) as task:
        [delivery] = way.parts.in_flight.snapshot()[0]
        assert (way.slots.in_use, delivery.attempt) == (1, 1)
        assert [delivery.lease] == way.parts.in_flight.snapshot()[1]
        way.engine.go.set()
        await task
    assert way.slots.in_use == 0


async def test_a_recording_is_handed_back_where_no_slot_is_available(way: Way) -> None:
    way.slots.in_use = way.slots.capacity
    with pytest.raises(AtCapacity):
        await transcribe(way, way.clip(1))
    [delivery] = way.parts.in_flight.snapshot()[0]
    assert (delivery.attempt, way.engine.calls, await way.leases()) == (0, 0, [])


async def test_audio_that_is_known_by_its_samples_is_not_transcribed_again(way: Way) -> None:
    clip = way.clip(1)
    alias, end = await transcribe(way, clip)
    key = KEYS.result(way.parts.cache.identity(alias.audio, "auto", True))
    await way.parts.redis.hset(key, "transcript", end.transcript.dumps())
    await way.parts.cache.release(end.lease)
    for fields in ({}, {"ttl": "0"}):
        assert await transcribe(way, clip, **fields) == (alias, Cached(end.transcript))
    assert (way.engine.calls, await way.leases()) == (1, [])


async def test_audio_that_another_worker_transcribes_leaves_slot_and_engine_at_once(
    way: Way, other_way: Way
) -> None:
    clip = way.clip(1)
    async with transcription_in(other_way, clip) as task:
        alias, end = await transcribe(way, clip)
        assert end == LeasedElsewhere()
        assert (way.slots.in_use, way.engine.calls) == (0, 0)
        other_way.engine.go.set()
        assert (await task)[0] == alias


async def test_a_request_that_stores_nothing_takes_no_lease(way: Way) -> None:
    _, end = await transcribe(way, way.clip(1), ttl="0")
    assert end == Transcribed(Transcript("transcript 1", "auto", duration=0.5), None)
    assert await way.leases() == []


async def test_an_engine_that_fails_gives_up_slot_and_lease(way: Way) -> None:
    way.engine.errors = [RuntimeError("axis out of range")]
    with pytest.raises(RuntimeError):
        await transcribe(way, way.clip(1))
    assert (way.engine.calls, way.slots.in_use, await way.leases()) == (1, 0, [])


async def test_a_transcription_that_is_cancelled_gives_up_slot_and_lease(way: Way) -> None:
    async with transcription_in(way, way.clip(1)) as task:
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert (way.slots.in_use, await way.leases()) == (0, [])


async def test_bytes_that_are_no_audio_fail_before_a_lease_is_taken(way: Way) -> None:
    path = way.folder / "text.wav"
    path.write_text("no audio")
    with pytest.raises(RequestError) as refused:
        await transcribe(way, path.as_uri())
    assert refused.value.code is ErrorCode.AUDIO_UNREADABLE
    assert (way.engine.calls, way.slots.in_use, await way.leases()) == (0, 0, [])


async def test_a_device_without_memory_is_tried_five_times(way: Way, waits: list[float]) -> None:
    way.engine.errors = [NO_MEMORY] * 4
    _, end = await transcribe(way, way.clip(1))
    assert end.transcript.text == "transcript 5"
    assert len(waits) == 4
    way.engine.errors = [NO_MEMORY] * 5
    with pytest.raises(TransientError):
        await transcribe(way, way.clip(2))
    assert way.engine.calls == 10


async def test_the_engine_is_told_how_long_a_request_may_wait_for_it(way: Way) -> None:
    await transcribe(way, way.clip(1), deadline=NOW + 1500)
    await transcribe(way, way.clip(2))
    assert way.engine.start_within == [1.5, None]


async def test_a_request_that_the_engine_had_no_time_for_has_expired(way: Way) -> None:
    way.engine.errors = [NotStarted()]
    with pytest.raises(RequestError) as refused:
        await transcribe(way, way.clip(1))
    assert refused.value.code is ErrorCode.EXPIRED


async def test_a_request_whose_deadline_passes_at_the_gate_is_not_decoded(way: Way) -> None:
    path = way.folder / "text.wav"
    path.write_text("decoding this would fail the request for another reason")
    delivery, request = await way.request(path.as_uri(), deadline=NOW + 1000)
    with await way.fetching.fetch(request) as fetched:
        async with way.parts.attempts._gate.exclusive():
            task = asyncio.create_task(way.transcribing.transcribe(delivery, request, fetched))
            await asyncio.sleep(0)
            way.now += 2000
        with pytest.raises(RequestError) as refused:
            await task
    assert refused.value.code is ErrorCode.EXPIRED
    assert (way.engine.calls, await way.leases()) == (0, [])
