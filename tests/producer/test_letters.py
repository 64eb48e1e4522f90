"""Dead letters: found, replayed whole and at most once, purged with their bytes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.contract.errors import ErrorCode, PipelineError
from sensestream_common.contract.keys import Keys
from sensestream_producer import Client, DeadLetter, DeadLetterFilter, Replay
from sensestream_producer.outcomes.stream_ids import entries

from tests.support.pipeline import dead_letter, requests

pytestmark = pytest.mark.anyio

AUDIO = "file:///data/a.wav"


def now() -> int:
    return time.time_ns() // 1_000_000


async def bury(redis: Redis, keys: Keys, request_id: str, **options: Any) -> str:
    """A dead letter of a request, with the request's key as the commit leaves it."""
    fields = {"v": "1", "audio": AUDIO, "id": request_id, **options.pop("fields", {})}
    options = {"error": ErrorCode.AUDIO_NOT_FOUND, "at": now(), **options}
    key = keys.request(request_id)
    about: Any = {"state": "done", "entry": "1-0", "status": "failed", "outcome": "2-0"}
    await redis.hset(key, mapping=about)
    await redis.expire(key, 100)
    return await dead_letter(redis, keys, fields, **options)


async def selected(client: Client, **conditions: Any) -> Sequence[DeadLetter]:
    return [letter async for letter in client.dead.select(DeadLetterFilter(**conditions))]


async def test_letters_are_found_by_id_error_and_age(
    client: Client, redis: Redis, keys: Keys
) -> None:
    hour = 3_600_000
    first = await bury(redis, keys, "a", at=now() - 2 * hour)
    await bury(redis, keys, "b", error=ErrorCode.INTERNAL)
    for number in range(450):  # more than a page
        await bury(redis, keys, f"n{number}")
    assert len(await selected(client)) == 452
    [by_id] = await selected(client, ids=frozenset({"a"}))
    assert (by_id.letter, by_id.audio, by_id.error) == (first, AUDIO, "audio_not_found")
    assert [each.id for each in await selected(client, ids=frozenset({first}))] == ["a"]
    assert [each.id for each in await selected(client, errors=frozenset({"internal"}))] == ["b"]
    assert [each.id for each in await selected(client, older_than=timedelta(hours=1))] == ["a"]
    assert len(await selected(client, newer_than=timedelta(hours=1))) == 451
    assert await selected(client, ids=frozenset({"a"}), newer_than=timedelta(hours=1)) == []


async def test_a_replayed_letter_is_queued_as_it_was_sent(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x", fields={"language": "en", "unknown": "kept", "metadata": "[1]"})
    [letter] = await selected(client)
    result = await client.dead.replay(letter)
    assert result.result is Replay.QUEUED
    [(entry, raw)] = await entries(redis, keys.requests)
    assert entry == result.detail.encode()
    assert raw == {
        b"v": b"1",
        b"audio": AUDIO.encode(),
        b"id": b"x",
        b"language": b"en",
        b"unknown": b"kept",
        b"metadata": b"[1]",
    }
    assert await redis.xlen(keys.dead) == 0
    status = await client.status("x")
    assert status is not None
    assert (status.state, status.entry, status.status) == ("queued", result.detail, None)
    assert await redis.ttl(keys.request("x")) == -1


async def test_concurrent_replays_of_a_letter_queue_it_once(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x")
    [letter] = await selected(client)
    results = await asyncio.gather(*(client.dead.replay(letter) for _ in range(10)))
    assert sorted(each.result for each in results) == [*[Replay.NOT_FOUND] * 9, Replay.QUEUED]
    assert await redis.xlen(keys.requests) == 1


async def test_a_letter_of_the_high_lane_goes_back_to_it(
    client: Client, redis: Redis, keys: Keys
) -> None:
    entry: Any = {"audio": AUDIO, "dead:lane": "high", "dead:error": "internal"}
    await redis.xadd(keys.dead, entry)
    [letter] = await selected(client)
    assert (await client.dead.replay(letter)).result is Replay.QUEUED
    assert await redis.xlen(keys.requests_high) == 1
    assert await redis.keys(keys.request("*")) == []


async def test_a_letter_whose_id_was_submitted_again_stays(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x")
    receipt = await client.submit(AUDIO, id="x")
    [letter] = await selected(client)
    result = await client.dead.replay(letter)
    assert (result.result, result.detail) == (Replay.ALREADY_QUEUED, receipt.entry)
    await redis.xdel(keys.requests, receipt.entry)
    about: Any = {"state": "done", "status": "completed", "outcome": "9-0"}
    await redis.hset(keys.request("x"), mapping=about)
    assert (await client.dead.replay(letter)).result is Replay.ALREADY_COMPLETED
    assert await redis.xlen(keys.dead) == 1


async def test_a_replayed_upload_keeps_its_bytes(client: Client, redis: Redis, keys: Keys) -> None:
    await bury(redis, keys, "x", fields={"audio": f"redis:{keys.upload('x')}"})
    await redis.set(keys.upload("x"), b"RIFF", ex=100)
    [letter] = await selected(client)
    assert (await client.dead.replay(letter)).result is Replay.QUEUED
    assert await redis.ttl(keys.upload("x")) == -1


async def test_an_upload_no_longer_kept_cannot_be_replayed(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x", fields={"audio": f"redis:{keys.upload('x')}"})
    [letter] = await selected(client)
    result = await client.dead.replay(letter)
    assert result.result is Replay.UPLOAD_MISSING
    assert "upload the file again" in result.sentence
    assert await redis.xlen(keys.dead) == 1


async def test_a_passed_deadline_is_left_out_only_when_asked(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x", fields={"deadline": "1000"})
    [letter] = await selected(client)
    assert (await client.dead.replay(letter)).result is Replay.EXPIRED
    assert (await client.dead.replay(letter, ignore_deadline=True)).result is Replay.QUEUED
    [(_, request)] = await requests(redis, keys)
    assert request.deadline is None


async def test_a_full_backlog_keeps_the_letter(redis_url: str, redis: Redis, keys: Keys) -> None:
    await bury(redis, keys, "x")
    async with Client(redis_url, max_backlog=1) as client:
        await client.submit(AUDIO)
        [letter] = await selected(client)
        assert (await client.dead.replay(letter)).result is Replay.FULL
    assert await redis.xlen(keys.dead) == 1


async def test_a_replay_onto_a_foreign_key_changes_nothing(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x")
    [letter] = await selected(client)
    await redis.set(keys.requests, "foreign")
    with pytest.raises(PipelineError, match=f"{keys.requests} holds a string"):
        await client.dead.replay(letter)
    assert await redis.xlen(keys.dead) == 1


async def test_a_purged_letter_takes_its_bytes_with_it(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x", fields={"audio": f"redis:{keys.upload('x')}"})
    await redis.set(keys.upload("x"), b"RIFF")
    [letter] = await selected(client)
    assert await client.dead.purge(letter)
    assert not await client.dead.purge(letter)
    assert await redis.exists(keys.upload("x")) == 0
    assert await redis.xlen(keys.dead) == 0


async def test_a_purge_keeps_the_bytes_of_a_later_request_with_the_id(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await bury(redis, keys, "x", fields={"audio": f"redis:{keys.upload('x')}"})
    await client.submit_file(b"RIFF", id="x")
    [letter] = await selected(client)
    assert await client.dead.purge(letter)
    assert await redis.get(keys.upload("x")) == b"RIFF"
