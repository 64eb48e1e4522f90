"""The clients' contract: the asyncio and the blocking client, on Redis and on the test double.

Only what a caller sees is asked for, so that the double is held to the same as the real thing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer import (
    BacklogFull,
    Client,
    DeadLetter,
    DeadLetterFilter,
    ErrorCode,
    FollowedOutcome,
    Gap,
    GapReason,
    Lane,
    Outcome,
    Receipt,
    Replay,
    RequestError,
    SensestreamError,
    Status,
    Submission,
    WaitTimeout,
    blocking,
)

from tests.producer.worlds import InMemory, OnRedis, World
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

AUDIO = "file:///data/a.wav"


@pytest.fixture(params=["redis-asyncio", "redis-blocking", "memory-asyncio", "memory-blocking"])
def world(request: pytest.FixtureRequest) -> World:
    place, kind = request.param.split("-")
    if place == "memory":
        return InMemory(blocking_client=kind == "blocking")
    redis: Redis = request.getfixturevalue("redis")
    client = blocking.Client if kind == "blocking" else Client
    return OnRedis(request.getfixturevalue("redis_url"), redis, Keys("sensestream"), client)


async def take(events: AsyncGenerator[Any], count: int) -> list[Any]:
    async with aclosing(events):
        return [await asyncio.wait_for(anext(events), 20) for _ in range(count)]


async def letters(client: Client, **conditions: Any) -> list[DeadLetter]:
    return [letter async for letter in client.dead.select(DeadLetterFilter(**conditions))]


async def backlog(client: Client) -> int:
    status = await client.pipeline_status()
    return status.backlog + status.backlog_high


# -- submitting -----------------------------------------------------------------------------------


async def test_a_receipt_names_entry_and_lane(world: World) -> None:
    async with world.client() as client:
        receipt = await client.submit(AUDIO, id="x", language="en", priority="high")
        status = await client.status("x")
        assert receipt == Receipt(id="x", entry=receipt.entry, lane=Lane.HIGH)
        assert status is not None
        assert (status.state, status.entry, status.lane) == ("queued", receipt.entry, Lane.HIGH)
        pipeline = await client.pipeline_status()
        assert (pipeline.backlog, pipeline.backlog_high) == (0, 1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"language": "klingon"}, "klingon"),
        ({"priority": "urgent"}, "urgent"),
        ({"metadata": "{not json"}, "metadata="),
        ({"deadline": timedelta(seconds=-5)}, "deadline="),
        ({"audio": "a.wav"}, r"a\.wav"),
    ],
)
async def test_a_bad_value_is_named_and_nothing_is_sent(
    world: World, options: dict[str, Any], named: str
) -> None:
    async with world.client() as client:
        with pytest.raises(RequestError, match=named):
            await client.submit(**{"audio": AUDIO, **options})
        assert await backlog(client) == 0


async def test_a_second_submit_of_a_queued_id_returns_the_first_entry(world: World) -> None:
    async with world.client() as client:
        first = await client.submit(AUDIO, id="x", priority="high")
        again = await client.submit(AUDIO, id="x")
        assert (again.duplicate, again.state, again.entry) == (True, "queued", first.entry)
        assert again.lane is Lane.HIGH
        assert await backlog(client) == 1


async def test_a_second_submit_of_a_completed_id_returns_its_outcome(world: World) -> None:
    async with world.client() as client:
        async with world.answering():
            await client.transcribe(AUDIO, id="x")
        again = await client.submit(AUDIO, id="x")
        [followed] = await take(client.follow("0"), 1)
        assert (again.duplicate, again.state, again.status) == (True, "done", Status.COMPLETED)
        assert again.outcome == followed.position


async def test_a_failed_id_is_accepted_again(world: World) -> None:
    async with world.client() as client:
        async with world.answering(error=ErrorCode.AUDIO_UNREADABLE):
            failed = await client.transcribe(AUDIO, id="x")
        again = await client.submit(AUDIO, id="x")
        assert (again.duplicate, again.state) == (False, "queued")
        assert again.entry != failed.entry


async def test_twenty_submits_of_one_id_at_once_add_one(world: World) -> None:
    async with world.client() as one, world.client() as other:
        receipts = await asyncio.gather(
            *(each.submit(AUDIO, id="x") for each in (one, other) for _ in range(10))
        )
        assert [receipt.duplicate for receipt in receipts].count(False) == 1
        assert await backlog(one) == 1


async def test_a_full_backlog_refuses_new_ids_and_recognises_duplicates(world: World) -> None:
    async with world.client(max_backlog=1) as client:
        await client.submit(AUDIO, id="x")
        with pytest.raises(BacklogFull, match="SENSESTREAM_MAX_BACKLOG"):
            await client.submit(AUDIO, id="y")
        assert await client.status("y") is None
        assert (await client.submit(AUDIO, id="x")).duplicate
        status = await client.pipeline_status()
        assert status.counters == {"submitted": 1, "refused": 1, "duplicates": 1}


async def test_many_are_taken_or_refused_one_by_one(world: World) -> None:
    async with world.client(max_backlog=2) as client:
        first, wrong, again, plain, over = await client.submit_many(
            [
                Submission(audio=AUDIO, id="a"),
                Submission(audio=AUDIO, language="klingon"),
                Submission(audio=AUDIO, id="a"),
                AUDIO,
                AUDIO,
            ]
        )
        assert isinstance(first, Receipt)
        assert isinstance(wrong, RequestError)
        assert isinstance(again, Receipt)
        assert isinstance(plain, Receipt)
        assert (first.duplicate, again.duplicate, plain.duplicate) == (False, True, False)
        assert isinstance(over, BacklogFull)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, ErrorCode.AUDIO_NOT_FOUND),
        (b"", ErrorCode.AUDIO_EMPTY),
        (b"." * 11, ErrorCode.AUDIO_TOO_LARGE),
    ],
)
async def test_a_file_that_cannot_be_uploaded_is_named_and_nothing_is_sent(
    world: World, tmp_path: Path, content: bytes | None, code: ErrorCode
) -> None:
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    async with world.client(max_upload_bytes=10) as client:
        with pytest.raises(RequestError, match=r"a\.wav") as raised:
            await client.submit_file(path)
        assert raised.value.code is code
        assert await backlog(client) == 0


# -- waiting --------------------------------------------------------------------------------------


async def test_an_outcome_has_the_text_and_the_fields_of_its_request(world: World) -> None:
    async with world.client() as client, world.answering(text="good morning"):
        outcome = await client.transcribe(AUDIO, id="x", metadata={"词": 1})
        assert (outcome.id, outcome.audio, outcome.metadata) == ("x", AUDIO, '{"词":1}')
        assert (outcome.status, outcome.text) == (Status.COMPLETED, "good morning")
        assert (await client.status("x")).outcome == outcome  # type: ignore[union-attr]


async def test_transcribe_returns_a_failed_outcome(world: World) -> None:
    async with world.client() as client, world.answering(error=ErrorCode.AUDIO_NOT_FOUND):
        outcome = await client.transcribe(AUDIO)
    assert (outcome.status, outcome.error) == (Status.FAILED, ErrorCode.AUDIO_NOT_FOUND)


async def test_an_existing_outcome_is_returned_at_once(world: World) -> None:
    async with world.client() as client:
        async with world.answering():
            first = await client.transcribe(AUDIO, id="x")
        assert await client.wait("x", timeout=5) == first
        assert await client.transcribe(AUDIO, id="x", timeout=5) == first


async def test_a_wait_for_a_trimmed_outcome_raises_wait_timeout(world: World) -> None:
    async with world.client() as client:
        async with world.answering():
            await client.transcribe(AUDIO, id="x")
        await world.forget_outcomes()
        with pytest.raises(WaitTimeout, match="no longer kept"):
            await client.transcribe(AUDIO, id="x", timeout=5)
        with pytest.raises(WaitTimeout, match="not kept"):
            await client.wait("x", timeout=5)


async def test_a_wait_timeout_leaves_the_request_queued(world: World) -> None:
    async with world.client() as client:
        with pytest.raises(WaitTimeout, match="'x'"):
            await client.transcribe(AUDIO, id="x", timeout=0.05)
        with pytest.raises(WaitTimeout, match="'x'"):
            await client.wait("x", timeout=0.05)
        assert await backlog(client) == 1


async def test_several_wait_for_one_request(world: World) -> None:
    async with world.client() as client:
        first = await client.submit(AUDIO, id="x")
        waits = [asyncio.create_task(client.wait("x", timeout=20)) for _ in range(4)]
        waits += [asyncio.create_task(client.transcribe(AUDIO, id="x", timeout=20))]
        async with world.answering():
            outcomes = await asyncio.gather(*waits)
        assert {outcome.entry for outcome in outcomes} == {first.entry}


async def test_closing_a_client_ends_its_waits(world: World) -> None:
    async with world.client() as client:
        waiting = asyncio.create_task(client.transcribe(AUDIO, id="x", timeout=None))

        async def submitted() -> bool:
            return await client.status("x") is not None

        await wait_until(submitted)
    with pytest.raises(SensestreamError, match="closed"):
        await waiting


# -- following ------------------------------------------------------------------------------------


async def test_a_follower_yields_all_outcomes_and_resumes_at_a_position(world: World) -> None:
    async with world.client() as client, world.answering():
        assert await client.position() == "0-0"
        for name in ("a", "b", "c"):
            await client.transcribe(AUDIO, id=name)
        events = await take(client.follow("0"), 3)
        assert [event.outcome.id for event in events] == ["a", "b", "c"]
        assert await client.position() == events[2].position
        rest = await take(client.follow(events[0].position), 2)
        assert rest == events[1:]


async def test_a_follower_waits_for_new_outcomes(world: World) -> None:
    async with world.client() as client:
        follower = asyncio.create_task(take(client.follow("0"), 1))
        receipt = await client.submit(AUDIO, id="x")
        async with world.answering():
            [event] = await follower
        assert (event.outcome.id, event.outcome.entry) == ("x", receipt.entry)


async def test_outcomes_trimmed_behind_a_position_are_reported_as_a_gap(world: World) -> None:
    async with world.client() as client, world.answering():
        for name in ("a", "b", "c"):
            await client.transcribe(AUDIO, id=name)
        first, _, third = await take(client.follow("0"), 3)
        await world.forget_outcomes()
        await client.transcribe(AUDIO, id="d")
        gap, followed = await take(client.follow(first.position), 2)
        assert gap == Gap(third.position, GapReason.TRIMMED, first.position, third.position)
        assert followed.outcome.id == "d"
        [oldest] = await take(client.follow("0"), 1)
        assert isinstance(oldest, FollowedOutcome)


async def test_a_position_beyond_the_last_is_a_gap(world: World) -> None:
    async with world.client() as client, world.answering():
        await client.transcribe(AUDIO, id="x")
        gap, followed = await take(client.follow("99999999999999-0"), 2)
        assert gap.reason is GapReason.REWOUND
        assert gap.lost_until == "99999999999999-0"
        assert followed.outcome.id == "x"


async def test_an_invalid_position_is_named(world: World) -> None:
    async with world.client() as client:
        with pytest.raises(SensestreamError, match="yesterday"):
            await take(client.follow("yesterday"), 1)


async def test_a_listener_yields_outcomes_published_while_it_listens(world: World) -> None:
    async with world.client() as client, world.answering():
        listener = asyncio.create_task(take(client.listen(), 1))

        async def yielded() -> bool:
            await client.transcribe(AUDIO, metadata=[1, 2])
            return listener.done()

        await wait_until(yielded)
        [outcome] = await listener
        assert isinstance(outcome, Outcome)
        assert outcome.metadata == "[1, 2]"


# -- dead letters and status ----------------------------------------------------------------------


async def test_a_fixable_failure_becomes_a_letter_and_is_replayed_once(
    world: World,
) -> None:
    async with world.client() as client:
        async with world.answering(error=ErrorCode.AUDIO_NOT_FOUND):
            await client.transcribe(AUDIO, id="x", language="en", priority="high")
            await client.transcribe(AUDIO, id="y")
        assert len(await letters(client)) == 2
        [letter] = await letters(client, ids=frozenset({"x"}), newer_than=timedelta(hours=1))
        assert (letter.error, letter.audio) == ("audio_not_found", AUDIO)
        assert letter.fields[b"language"] == b"en"
        assert await letters(client, errors=frozenset({"internal"})) == []
        assert await client.dead.find(letter.letter) == letter
        assert await client.dead.find("1-1") is None
        assert await client.dead.find("not an id") is None

        replayed = await client.dead.replay(letter)
        assert replayed.result is Replay.QUEUED
        assert (await client.dead.replay(letter)).result is Replay.NOT_FOUND
        status = await client.status("x")
        assert status is not None
        assert (status.state, status.entry) == ("queued", replayed.detail)
        async with world.answering(text="at last"):
            assert (await client.wait("x")).text == "at last"


async def test_a_letter_whose_id_was_submitted_again_is_not_replayed(world: World) -> None:
    async with world.client() as client:
        async with world.answering(error=ErrorCode.AUDIO_NOT_FOUND):
            await client.transcribe(AUDIO, id="x")
        receipt = await client.submit(AUDIO, id="x")
        [letter] = await letters(client)
        standing = await client.dead.replay(letter)
        assert (standing.result, standing.detail) == (Replay.ALREADY_QUEUED, receipt.entry)
        async with world.answering():
            await client.wait("x")
        assert (await client.dead.replay(letter)).result is Replay.ALREADY_COMPLETED
        assert await client.dead.purge(letter)
        assert not await client.dead.purge(letter)


async def test_a_letter_is_not_replayed_into_a_full_backlog(
    world: World,
) -> None:
    async with world.client(max_backlog=1) as client:
        async with world.answering(error=ErrorCode.INTERNAL):
            await client.transcribe(AUDIO, id="x")
        [letter] = await letters(client)
        await client.submit(AUDIO)
        assert (await client.dead.replay(letter)).result is Replay.FULL


async def test_a_failure_without_a_fix_leaves_no_letter(world: World) -> None:
    async with world.client() as client:
        async with world.answering(error=ErrorCode.AUDIO_EMPTY):
            await client.transcribe(AUDIO)
        assert await letters(client) == []


async def test_an_unknown_id_has_no_status(world: World) -> None:
    async with world.client() as client:
        await client.ping()
        assert await client.status("never") is None


async def test_an_empty_pipeline_has_a_status_too(world: World) -> None:
    async with world.client() as client:
        status = await client.pipeline_status()
        assert (status.backlog, status.pending, status.oldest_ms) == (0, 0, None)
        assert (status.transcripts, status.dead, status.counters) == (0, 0, {})
