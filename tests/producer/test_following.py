"""Following: nothing lost, nothing twice, and every gap reported."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import PipelineError, RedisUnavailable, SensestreamError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome, Status
from sensestream_producer import Client, FollowedOutcome, Gap, GapReason
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.pipeline import publish, write_outcome
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


def outcome(number: int) -> Outcome:
    return Outcome(
        id=f"r{number}", entry=f"{number}-1", status=Status.COMPLETED, text=f"text {number}"
    )


async def write(redis: Redis, keys: Keys, *numbers: int) -> list[str]:
    return [await write_outcome(redis, keys, outcome(number)) for number in numbers]


class Subscriber:
    """Follows in the background and keeps what it is given."""

    def __init__(self) -> None:
        self.events: list[FollowedOutcome | Gap] = []

    @property
    def texts(self) -> list[str]:
        return [event.outcome.text for event in self.events if isinstance(event, FollowedOutcome)]

    @property
    def gaps(self) -> list[Gap]:
        return [event for event in self.events if isinstance(event, Gap)]

    async def has(self, count: int) -> None:
        await wait_until(lambda: len(self.events) >= count, what=f"{count} events")


@contextlib.asynccontextmanager
async def following(client: Client, position: str) -> AsyncIterator[Subscriber]:
    subscriber = Subscriber()

    async def follow() -> None:
        async with contextlib.aclosing(client.follow(position)) as events:
            async for event in events:
                subscriber.events.append(event)

    task = asyncio.create_task(follow(), name="subscriber")
    try:
        yield subscriber
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()):
            raise error


def texts(*numbers: int) -> list[str]:
    return [f"text {number}" for number in numbers]


async def test_from_zero_come_all_that_are_kept_and_then_the_new_ones(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await write(redis, keys, *range(300))
    async with following(client, "0") as subscriber:
        await subscriber.has(300)
        await write(redis, keys, 300)
        await subscriber.has(301)
    assert subscriber.texts == texts(*range(301))


async def test_from_dollar_come_only_the_new_ones(client: Client, redis: Redis, keys: Keys) -> None:
    await write(redis, keys, 1)
    async with following(client, "$") as subscriber:
        await reading(redis)
        await write(redis, keys, 2)
        await subscriber.has(1)
    assert subscriber.texts == texts(2)


async def reading(redis: Redis) -> None:
    async def blocked() -> bool:
        return any(
            each["name"] == "sensestream-follow" and each["cmd"] == "xread"
            for each in await redis.client_list()
        )

    await wait_until(blocked, what="the follower reads")


async def test_a_kept_position_goes_on_behind_it(client: Client, redis: Redis, keys: Keys) -> None:
    await write(redis, keys, 1, 2, 3)
    async with following(client, "0") as first:
        await first.has(3)
    async with following(client, first.events[1].position) as second:
        await second.has(1)
    assert second.texts == texts(3)


async def test_a_cancelled_follow_ends_though_redis_answers_at_the_same_moment(
    client: Client, redis: Redis, keys: Keys
) -> None:
    """A signal's handler cancels between two commands; Python 3.11 drops that in `wait_for`."""
    await write(redis, keys, *range(200))

    async def follow() -> None:
        async for _ in client.follow("0"):
            task = asyncio.current_task()
            assert task is not None
            task.cancel()

    task = asyncio.create_task(follow(), name="subscriber")
    done, _ = await asyncio.wait([task], timeout=20)
    assert done
    assert task.cancelled()


async def test_following_an_invalid_position_names_it(client: Client) -> None:
    with pytest.raises(SensestreamError, match="'yesterday'"):
        await anext(client.follow("yesterday"))


async def test_a_follow_of_an_unreachable_redis_says_so() -> None:
    async with Client("redis://127.0.0.1:1", retry_timeout=0.1) as client:
        with pytest.raises(RedisUnavailable):
            await anext(client.follow("0"))


async def test_a_key_of_the_wrong_type_ends_the_follow_with_its_error(
    client: Client, redis: Redis, keys: Keys
) -> None:
    await redis.set(keys.transcripts, "foreign")
    with pytest.raises(PipelineError, match="WRONGTYPE"):
        await anext(client.follow("0"))


async def test_a_foreign_entry_is_skipped(client: Client, redis: Redis, keys: Keys) -> None:
    await redis.xadd(keys.transcripts, {"status": "imaginary"})
    await write(redis, keys, 1)
    async with following(client, "0") as subscriber:
        await subscriber.has(1)
    assert subscriber.texts == texts(1)


async def test_cut_connections_lose_and_repeat_no_outcome(
    client: Client, redis: Redis, keys: Keys
) -> None:
    async with following(client, "0") as subscriber:
        for number in range(400):
            await write(redis, keys, number)
            if number % 40 == 0:
                await redis.client_kill_filter(_type="normal", skipme=True)
        await subscriber.has(400)
    assert subscriber.texts == texts(*range(400))
    assert subscriber.gaps == []


async def test_a_restart_of_redis_loses_and_repeats_no_outcome(
    own_redis: Callable[..., EmbeddedRedis], keys: Keys
) -> None:
    server = own_redis(appendonly=True, appendfsync="always")
    redis = connect(server.url, name="test")
    async with Client(server.url) as client, following(client, "0") as subscriber:
        await write(redis, keys, *range(100))
        await subscriber.has(1)
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.restart)
        await write(redis, keys, *range(100, 200))
        await subscriber.has(200)
    assert subscriber.texts == texts(*range(200))
    assert subscriber.gaps == []
    await redis.aclose()


async def test_outcomes_trimmed_behind_the_position_are_a_gap(
    client: Client, redis: Redis, keys: Keys
) -> None:
    ids = await write(redis, keys, *range(10))
    await redis.xtrim(keys.transcripts, maxlen=4, approximate=False)
    await redis.set(keys.trimmed, ids[5])
    async with following(client, ids[1]) as subscriber:
        await subscriber.has(5)
    assert subscriber.events[0] == Gap(ids[5], GapReason.TRIMMED, ids[1], ids[5])
    assert subscriber.texts == texts(6, 7, 8, 9)


async def test_trimming_up_to_the_position_is_no_gap(
    client: Client, redis: Redis, keys: Keys
) -> None:
    ids = await write(redis, keys, *range(10))
    await redis.xtrim(keys.transcripts, maxlen=4, approximate=False)
    await redis.set(keys.trimmed, ids[5])
    async with following(client, ids[5]) as subscriber:
        await subscriber.has(4)
    assert subscriber.texts == texts(6, 7, 8, 9)
    assert subscriber.gaps == []


async def test_from_zero_a_trimmed_stream_is_no_gap(
    client: Client, redis: Redis, keys: Keys
) -> None:
    ids = await write(redis, keys, 0, 1)
    await redis.xtrim(keys.transcripts, maxlen=1, approximate=False)
    await redis.set(keys.trimmed, ids[0])
    async with following(client, "0") as subscriber:
        await subscriber.has(1)
    assert subscriber.texts == texts(1)
    assert subscriber.gaps == []


async def test_a_flush_under_a_follower_is_a_gap_and_new_outcomes_come(
    client: Client, redis: Redis, keys: Keys
) -> None:
    async with following(client, "0") as subscriber:
        ids = await write(redis, keys, 1, 2)
        await subscriber.has(2)
        await redis.flushall()
        await subscriber.has(3)
        await write(redis, keys, 3)
        await subscriber.has(4)
    assert subscriber.gaps == [Gap("0-0", GapReason.REWOUND, "0-0", ids[1])]
    assert subscriber.texts == texts(1, 2, 3)


async def test_a_failover_that_lost_outcomes_is_a_gap_and_repeats_no_other(
    client: Client, redis: Redis, keys: Keys
) -> None:
    async def lay_out(*entries: tuple[str, int]) -> None:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.delete(keys.transcripts)
            for stream_id, number in entries:
                fields: Any = outcome(number).encode()
                pipe.xadd(keys.transcripts, fields, id=stream_id)
            await pipe.execute()

    await lay_out(("1000000-0", 1), ("1000010-0", 2), ("1000020-0", 3), ("1000030-0", 4))
    async with following(client, "0") as subscriber:
        await subscriber.has(4)
        # The new master never saw 3 and 4, and has given the id of 3 to another outcome.
        await lay_out(("1000000-0", 1), ("1000010-0", 2), ("1000020-0", 5))
        await subscriber.has(6)
    assert subscriber.gaps == [Gap("940020-0", GapReason.REWOUND, "1000020-0", "1000030-0")]
    assert subscriber.texts == texts(1, 2, 3, 4, 5)


async def test_a_listener_yields_outcomes_published_while_it_listens(
    client: Client, redis: Redis, keys: Keys
) -> None:
    yielded: list[str] = []

    async def listen() -> None:
        async for announced in client.listen():
            yielded.append(announced.text)
            if announced.text == "text 3":
                return

    task = asyncio.create_task(listen(), name="listener")

    async def announce(number: int) -> bool:
        return await publish(redis, keys, outcome(number)) > 0

    await wait_until(lambda: announce(1), what="somebody hears")
    await redis.publish(keys.channel, "not an outcome")
    await redis.client_kill_filter(_type="pubsub")
    await wait_until(lambda: announce(3), what="it listens again")
    await asyncio.wait_for(task, 20)
    assert yielded == texts(1, 3)
