"""Submitting: what is added, what is not added twice, and what is refused whole."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import (
    BacklogFull,
    ErrorCode,
    PipelineError,
    RedisUnavailable,
    RequestError,
    SubmitRefused,
)
from sensestream_common.contract.keys import Keys, Lane
from sensestream_producer import Client, Receipt, Submission
from sensestream_producer.local.redis_server import EmbeddedRedis
from sensestream_producer.submit.pending import PendingSubmit
from sensestream_producer.submit.uploads import BoundedReader

from tests.support.pipeline import answer, requests
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

OwnRedis = Callable[..., EmbeddedRedis]
AUDIO = "file:///data/a.wav"


async def _longer(redis: Redis, keys: Keys, length: int) -> bool:
    return int(await redis.xlen(keys.requests)) >= length


async def stats(redis: Redis, keys: Keys) -> dict[str, int]:
    found: Any = await redis.hgetall(keys.stats)
    return {name.decode(): int(count) for name, count in found.items()}


async def test_a_submitted_request_stands_in_its_lane_with_all_that_was_said(
    client: Client, redis: Redis, keys: Keys
) -> None:
    before = time.time_ns() // 1_000_000 - 1000
    receipt = await client.submit(
        AUDIO, id="call-7", language="en", itn=False, ttl=60, metadata={"ticket": 7, "词": "数"}
    )
    [(entry, request)] = await requests(redis, keys)
    assert receipt == Receipt(id="call-7", entry=entry, lane=Lane.NORMAL)
    assert (request.id, request.audio, request.language) == ("call-7", AUDIO, "en")
    assert (request.itn, request.ttl, request.metadata) == (False, 60, '{"ticket":7,"词":"数"}')
    assert request.submitted_at is not None
    assert before < request.submitted_at < before + 60_000
    assert await redis.hgetall(keys.request("call-7")) == {
        b"state": b"queued",
        b"entry": entry.encode(),
        b"lane": b"normal",
    }
    assert await redis.ttl(keys.request("call-7")) == -1
    assert await stats(redis, keys) == {"submitted": 1}


async def test_made_up_ids_differ_and_sort_by_time(client: Client) -> None:
    first = await client.submit(AUDIO)
    await wait_until(lambda: time.time_ns() // 1_000_000 > int(first.id[:12], 16))
    second = await client.submit(AUDIO)
    assert first.id < second.id
    assert not first.duplicate
    assert not second.duplicate


async def test_high_priority_goes_to_its_own_lane(client: Client, redis: Redis, keys: Keys) -> None:
    receipt = await client.submit(AUDIO, priority="high")
    assert receipt.lane is Lane.HIGH
    assert [entry for entry, _ in await requests(redis, keys, Lane.HIGH)] == [receipt.entry]
    assert await requests(redis, keys) == []


async def test_a_deadline_from_now_runs_on_the_clock_of_redis(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await client.submit(AUDIO, deadline=timedelta(seconds=90))
    [(_, request)] = await requests(redis, keys)
    assert request.deadline is not None
    assert request.submitted_at is not None
    assert request.deadline - request.submitted_at == 90_000


async def test_a_deadline_may_be_a_moment(client: Client, redis: Redis, keys: Keys) -> None:
    await client.submit(AUDIO, deadline=datetime(2050, 1, 1, tzinfo=UTC))
    [(_, request)] = await requests(redis, keys)
    assert request.deadline == 2_524_608_000_000


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"language": "klingon"}, "klingon"),
        ({"id": "two\nlines"}, "id="),
        ({"ttl": -1}, "ttl="),
        ({"priority": "urgent"}, "urgent"),
        ({"metadata": "{not json"}, "metadata="),
        ({"metadata": {"a": object()}}, "metadata"),
        ({"metadata": float("nan")}, "metadata"),
        ({"deadline": timedelta(seconds=-5)}, "deadline="),
        ({"deadline": datetime(2050, 1, 1)}, "time zone"),  # noqa: DTZ001 - the point of it
        ({"digest": "md5:0"}, "digest="),
        ({"audio": "a.wav"}, "a.wav"),
    ],
)
async def test_a_bad_value_is_named_before_anything_is_sent(
    client: Client, redis: Redis, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(RequestError, match=named):
        await client.submit(**{"audio": AUDIO, **options})
    assert await redis.dbsize() == 0


async def test_the_same_id_again_adds_nothing_while_it_is_queued(
    client: Client, redis: Redis, keys: Keys
) -> None:
    first = await client.submit(AUDIO, id="x", priority="high")
    again = await client.submit(AUDIO, id="x")
    assert (again.duplicate, again.entry, again.lane) == (True, first.entry, Lane.HIGH)
    assert again.state == "queued"
    assert await redis.xlen(keys.requests) == 0
    assert await stats(redis, keys) == {"submitted": 1, "duplicates": 1}


async def test_the_same_id_again_adds_nothing_while_it_is_being_transcribed(
    client: Client, redis: Redis, keys: Keys
) -> None:
    first = await client.submit(AUDIO, id="x")
    await redis.hset(keys.request("x"), "state", "started")
    again = await client.submit(AUDIO, id="x")
    assert (again.duplicate, again.state, again.entry) == (True, "started", first.entry)


async def test_the_same_id_again_tells_the_outcome_when_it_is_completed(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await client.submit(AUDIO, id="x")
    [(entry, request)] = await requests(redis, keys)
    outcome = await answer(redis, keys, entry, request)
    again = await client.submit(AUDIO, id="x")
    assert (again.duplicate, again.state, again.status) == (True, "done", "completed")
    assert again.outcome == outcome
    assert await redis.xlen(keys.requests) == 0


async def test_a_failed_id_is_accepted_again_and_its_key_stays_while_it_is_queued(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await client.submit(AUDIO, id="x")
    [(entry, request)] = await requests(redis, keys)
    await answer(redis, keys, entry, request, error=ErrorCode.AUDIO_NOT_FOUND)
    again = await client.submit(AUDIO, id="x")
    assert not again.duplicate
    assert await redis.hget(keys.request("x"), "entry") == again.entry.encode()
    assert await redis.hmget(keys.request("x"), "status", "outcome") == [None, None]
    assert await redis.ttl(keys.request("x")) == -1


async def test_an_id_whose_entry_has_vanished_is_accepted_again(
    client: Client, redis: Redis, keys: Keys
) -> None:
    first = await client.submit(AUDIO, id="x")
    await redis.xdel(keys.requests, first.entry)
    again = await client.submit(AUDIO, id="x")
    assert not again.duplicate
    assert [entry for entry, _ in await requests(redis, keys)] == [again.entry]


async def test_twenty_submits_of_one_id_at_once_add_one(
    client: Client, redis: Redis, keys: Keys, redis_url: str
) -> None:
    async with Client(redis_url) as other:
        receipts = await asyncio.gather(
            *(each.submit(AUDIO, id="x") for each in (client, other) for _ in range(10))
        )
    assert [receipt.duplicate for receipt in receipts].count(False) == 1
    assert len({receipt.entry for receipt in receipts}) == 1
    assert await redis.xlen(keys.requests) == 1


async def test_a_full_backlog_refuses_and_adds_nothing(
    redis_url: str, redis: Redis, keys: Keys
) -> None:
    async with Client(redis_url, max_backlog=2) as client:
        await client.submit(AUDIO)
        await client.submit(AUDIO, priority="high")
        with pytest.raises(BacklogFull, match="SENSESTREAM_MAX_BACKLOG"):
            await client.submit(AUDIO, id="x")
    assert await redis.exists(keys.request("x")) == 0
    assert await redis.xlen(keys.requests) + await redis.xlen(keys.requests_high) == 2
    assert await stats(redis, keys) == {"submitted": 2, "refused": 1}


async def test_a_duplicate_is_told_even_when_the_backlog_is_full(redis_url: str) -> None:
    async with Client(redis_url, max_backlog=1) as client:
        await client.submit(AUDIO, id="x")
        assert (await client.submit(AUDIO, id="x")).duplicate


async def test_many_are_taken_or_refused_one_by_one(
    redis_url: str, redis: Redis, keys: Keys
) -> None:
    async with Client(redis_url, max_backlog=600) as client:
        results = await client.submit_many(
            [
                Submission(audio=AUDIO, id="a"),
                Submission(audio=AUDIO, language="klingon"),
                AUDIO,
                Submission(audio=AUDIO, id="a"),
                *(Submission(audio=AUDIO, id=f"n{number}") for number in range(600)),
            ]
        )
    first, wrong, plain, again, *rest = results
    assert isinstance(first, Receipt)
    assert isinstance(wrong, RequestError)
    assert isinstance(plain, Receipt)
    assert isinstance(again, Receipt)
    assert again.duplicate
    taken = [result for result in rest if isinstance(result, Receipt)]
    assert [receipt.id for receipt in taken] == [f"n{number}" for number in range(598)]
    assert all(isinstance(result, BacklogFull) for result in rest[598:])
    assert await redis.xlen(keys.requests) == 600


async def test_a_redis_without_memory_refuses_a_submit_whole(
    own_redis: OwnRedis, keys: Keys
) -> None:
    server = own_redis()
    redis = connect(server.url, name="test")
    async with Client(server.url) as client:
        await client.submit(AUDIO, id="before")
        await redis.config_set("maxmemory", 1)
        with pytest.raises(SubmitRefused, match="memory"):
            await client.submit(AUDIO, id="x")
        with pytest.raises(SubmitRefused, match="memory"):
            await client.submit_file(b"RIFF", id="y")
        again = await client.submit(AUDIO, id="before")
        assert again.duplicate
        await redis.config_set("maxmemory", 0)
        assert await redis.exists(keys.request("x"), keys.request("y")) == 0
        assert await redis.xlen(keys.requests) == 1
        assert (await client.submit(AUDIO, id="x")).duplicate is False
    await redis.aclose()


async def test_on_a_full_redis_neighbours_do_not_change_each_others_answer(
    own_redis: OwnRedis, keys: Keys
) -> None:
    """Submitted together, the duplicate was refused, or the others were taken with its clean-up."""
    server = own_redis()
    redis = connect(server.url, name="test")
    async with Client(server.url) as client:
        await client.submit_file(b"RIFF", id="before")
        staged = await client._uploads.stage(lambda: BoundedReader(9).chunks(b"RIFF"))
        request = Submission(audio="redis:a", id="before").request("before", keys)
        duplicate = PendingSubmit(request, Lane.NORMAL, staged=staged.key)
        await redis.config_set("maxmemory", 1)
        first, second, third = await asyncio.gather(
            client._submitter.send(duplicate), client.submit(AUDIO, id="x"),
            client.submit(AUDIO, id="y"), return_exceptions=True,
        )  # fmt: skip
        await redis.config_set("maxmemory", 0)
    assert isinstance(first, Receipt)
    assert first.duplicate
    assert isinstance(second, SubmitRefused)
    assert isinstance(third, SubmitRefused)
    assert await redis.exists(staged.key) == 0
    assert await redis.xlen(keys.requests) == 1
    await redis.aclose()


async def test_one_request_whose_state_is_foreign_holds_up_no_other(
    client: Client, redis: Redis, keys: Keys
) -> None:
    """All that were submitted together with it waited for ever."""
    state: dict[Any, Any] = {
        "state": "done",
        "status": "completed",
        "lane": "high",
        "outcome": "1-0",
    }
    await redis.hset(keys.request("a"), mapping=state | {"entry": b"\xff"})
    results = await asyncio.wait_for(
        asyncio.gather(
            *(client.submit(AUDIO, id=name) for name in "abc"), return_exceptions=True
        ), 20,
    )  # fmt: skip
    assert isinstance(results[0], PipelineError)
    assert all(isinstance(result, Receipt) for result in results[1:])


@pytest.mark.parametrize("wrong", ["requests", "requests:high", "request:x", "stats", "upload:x"])
async def test_a_key_of_the_wrong_type_is_named_and_nothing_is_written(
    client: Client, redis: Redis, keys: Keys, wrong: str
) -> None:
    name = keys.prefix + wrong
    await redis.rpush(name, "foreign")
    with pytest.raises(PipelineError) as raised:
        await client.submit_file(b"RIFF", id="x")
    assert f"{name} holds a list" in str(raised.value)
    assert await redis.keys("*") == [name.encode()]


async def test_a_submit_survives_that_redis_forgets_its_scripts(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await client.submit(AUDIO)
    await redis.script_flush()
    await client.submit(AUDIO)
    assert await redis.xlen(keys.requests) == 2


async def test_submits_during_a_restart_are_added_once(own_redis: OwnRedis, keys: Keys) -> None:
    server = own_redis(appendonly=True, appendfsync="always")
    async with Client(server.url, retry_timeout=60) as client:
        await client.submit(AUDIO, id="first")
        submits = asyncio.gather(*(client.submit(AUDIO, id=f"n{number}") for number in range(200)))
        await asyncio.to_thread(server.kill)
        late = asyncio.gather(*(client.submit(AUDIO, id=f"late{number}") for number in range(20)))
        await asyncio.to_thread(server.restart)
        await submits
        await late
        redis = connect(server.url, name="test")
        waiting = [request.id for _, request in await requests(redis, keys)]
        await redis.aclose()
    expected = ["first", *(f"n{n}" for n in range(200)), *(f"late{n}" for n in range(20))]
    assert sorted(waiting) == sorted(expected)


async def test_a_lost_reply_does_not_make_a_duplicate_of_a_made_up_id(
    client: Client, redis: Redis, keys: Keys
) -> None:
    """Connections are cut under a stream of submits: each is added once and no receipt lies."""
    await client.ping()
    submits = [asyncio.create_task(client.submit(AUDIO)) for _ in range(1000)]
    for added in range(1, 1000, 150):
        await wait_until(partial(_longer, redis, keys, added))
        await redis.client_kill_filter(_type="normal", skipme=True)
    receipts = [await submit for submit in submits]
    assert not any(receipt.duplicate for receipt in receipts)
    entries = [entry for entry, _ in await requests(redis, keys)]
    assert sorted(entries) == sorted(receipt.entry for receipt in receipts)


async def test_an_unreachable_redis_is_named_without_its_password() -> None:
    async with Client("redis://:secret@127.0.0.1:1/0", retry_timeout=0.1) as client:
        with pytest.raises(RedisUnavailable) as raised:
            await client.submit(AUDIO)
    message = str(raised.value)
    assert "redis://…@127.0.0.1:1/0" in message
    assert "SENSESTREAM_REDIS_URL" in message
    assert "secret" not in message


async def test_a_wrong_password_is_reported_at_once(own_redis: OwnRedis) -> None:
    server = own_redis(tcp=True)
    host = server.url.rpartition("@")[2]
    async with Client(f"redis://:wrong@{host}", retry_timeout=600) as client:
        with pytest.raises(RedisUnavailable, match="password"):
            await client.submit(AUDIO)
