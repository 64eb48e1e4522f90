"""Many requests answered by one script: each as if it were alone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from copy import copy

import pytest
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import REQUESTS_GROUP
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.broker.deliveries import Delivery, DeliveryState
from sensestream_consumer.broker.outbox import CacheWrite, Commit, CommitResult
from sensestream_producer.local.redis_server import EmbeddedRedis
from structlog.testing import capture_logs

from tests.consumer.conftest import KEYS, Components, MakeParts, submit
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio

DIGEST = "sha256:" + "0" * 64
TRANSCRIPT = Transcript("one two").dumps()
CHECKSUM = hashlib.sha1(TRANSCRIPT.encode(), usedforsecurity=False).hexdigest()


def repeat_of(delivery: Delivery, checksum: str = CHECKSUM, callback_url: str = "") -> Commit:
    outcome = Outcome(
        id=delivery.entry, entry=delivery.entry, status=Status.COMPLETED, cache=CacheUse.HIT,
        digest=DIGEST, model="m",
    ).with_transcript(Transcript("one two"))  # fmt: skip
    return Commit(
        delivery,
        outcome,
        CacheWrite("r", ttl_ms=60_000, expected_sha1=checksum),
        None,
        callback_url,
    )


def failure_of(delivery: Delivery) -> Commit:
    outcome = Outcome(
        id=delivery.entry, entry=delivery.entry, status=Status.FAILED,
        error=ErrorCode.AUDIO_NOT_FOUND, message="gone",
    )  # fmt: skip
    return Commit(delivery, outcome, CacheWrite())


async def worker_with(make_parts: MakeParts, entries: int) -> tuple[Components, list[Delivery]]:
    """A worker that holds so many entries, and a transcript that is kept as `r`."""
    parts = make_parts("worker")
    await parts.inbox.create_groups()
    await parts.redis.hset(KEYS.result("r"), "transcript", TRANSCRIPT)
    await parts.redis.expire(KEYS.result("r"), 60)
    for _ in range(entries):
        await submit(parts.redis)
    return parts, await parts.read(entries)


async def outcomes(parts: Components) -> dict[str, bytes]:
    return {
        fields[b"entry"].decode(): fields[b"status"]
        for _, fields in await parts.redis.xrange(KEYS.transcripts)
    }


async def test_each_commit_of_a_batch_has_its_outcome_and_is_counted(make_parts: MakeParts) -> None:
    parts, deliveries = await worker_with(make_parts, 5)
    commits = [repeat_of(one) for one in deliveries[:4]] + [failure_of(deliveries[4])]
    assert await parts.outbox.commit_all(commits) == [CommitResult.COMMITTED] * 5
    assert await outcomes(parts) == {
        **{one.entry: b"completed" for one in deliveries[:4]},
        deliveries[4].entry: b"failed",
    }
    counted = {b"completed": b"4", b"hits": b"4", b"failed": b"1", b"dead": b"1"}
    assert counted.items() <= (await parts.redis.hgetall(KEYS.stats)).items()
    assert await parts.redis.xlen(KEYS.requests) == 0
    assert len(parts.in_flight) == 0


async def test_an_entry_answered_by_another_worker_does_not_hinder_its_batch(
    make_parts: MakeParts,
) -> None:
    parts, deliveries = await worker_with(make_parts, 3)
    assert await make_parts("other").outbox.commit_all([repeat_of(copy(deliveries[1]))]) == [
        CommitResult.COMMITTED
    ]
    assert await parts.outbox.commit_all([repeat_of(one) for one in deliveries]) == [
        CommitResult.COMMITTED, CommitResult.ALREADY_ANSWERED, CommitResult.COMMITTED,
    ]  # fmt: skip
    assert len(await parts.redis.xrange(KEYS.transcripts)) == 3
    assert await parts.redis.hget(KEYS.stats, "hits") == b"3"


@pytest.mark.parametrize("kept", [None, "cleared", "another", "a string"])
async def test_a_transcript_that_differs_from_the_local_cache_is_not_sent(
    make_parts: MakeParts, kept: str | None
) -> None:
    parts, deliveries = await worker_with(make_parts, 2)
    if kept is not None:
        await parts.redis.delete(KEYS.result("r"))
    if kept == "another":
        await parts.redis.hset(KEYS.result("r"), "transcript", Transcript("three").dumps())
    elif kept == "a string":
        await parts.redis.set(KEYS.result("r"), TRANSCRIPT)
    settled = await parts.outbox.commit_all([repeat_of(deliveries[0]), failure_of(deliveries[1])])
    assert settled == [
        CommitResult.COMMITTED if kept is None else CommitResult.RESULT_CHANGED,
        CommitResult.COMMITTED,
    ]
    if kept is not None:
        assert await outcomes(parts) == {deliveries[1].entry: b"failed"}
        assert await parts.owner(deliveries[0]) == "worker"
        assert deliveries[0] in parts.in_flight


async def test_a_rejected_commit_delays_no_neighbour(make_parts: MakeParts) -> None:
    parts, deliveries = await worker_with(make_parts, 3)
    await parts.redis.set(KEYS.webhooks, "in the way")
    commits = [
        repeat_of(deliveries[0]),
        repeat_of(deliveries[1], callback_url="http://a/"),
        repeat_of(deliveries[2]),
    ]
    assert await parts.outbox.commit_all(commits) == [
        CommitResult.COMMITTED, CommitResult.REJECTED, CommitResult.COMMITTED,
    ]  # fmt: skip
    assert (await outcomes(parts)).keys() == {deliveries[0].entry, deliveries[2].entry}
    assert await parts.owner(deliveries[1]) == "worker"
    assert [one in parts.in_flight for one in deliveries] == [False, True, False]
    assert deliveries[1].state is DeliveryState.RECEIVED


async def test_a_single_commit_is_retried_until_redis_takes_it(make_parts: MakeParts) -> None:
    parts, [delivery] = await worker_with(make_parts, 1)
    await parts.redis.set(KEYS.webhooks, "in the way")
    publishing = asyncio.create_task(
        parts.outbox.publish(repeat_of(delivery, callback_url="http://a"))
    )
    with capture_logs() as said:
        await wait_until(lambda: [line for line in said if line["event"] == "redis_retrying"])
    assert "holds a string, not a stream" in said[0]["error"]
    await parts.redis.delete(KEYS.webhooks)
    assert await publishing
    assert await parts.redis.xlen(KEYS.webhooks) == 1


async def test_a_stream_of_the_wrong_type_loses_no_commit_of_a_batch(make_parts: MakeParts) -> None:
    parts, deliveries = await worker_with(make_parts, 2)
    await parts.redis.set(KEYS.transcripts, "in the way")
    commits = [repeat_of(one) for one in deliveries]
    assert await parts.outbox.commit_all(commits) == [CommitResult.REJECTED] * 2
    pending = await parts.redis.xpending(KEYS.requests, REQUESTS_GROUP)
    assert pending["pending"] == 2
    await parts.redis.delete(KEYS.transcripts)
    assert await parts.outbox.commit_all(commits) == [CommitResult.COMMITTED] * 2
    assert (await outcomes(parts)).keys() == {one.entry for one in deliveries}


@pytest.mark.parametrize("read", [True, False])
async def test_only_a_hit_whose_bytes_were_read_resets_their_crashes(
    make_parts: MakeParts, read: bool
) -> None:
    parts, [delivery] = await worker_with(make_parts, 1)
    delivery.digest = DIGEST if read else ""
    await parts.redis.set(KEYS.crashes(DIGEST), 1)
    assert await parts.outbox.publish(repeat_of(delivery))
    assert await parts.redis.exists(KEYS.crashes(DIGEST)) == (0 if read else 1)


async def test_a_failed_commit_names_its_request(make_parts: MakeParts) -> None:
    parts, deliveries = await worker_with(make_parts, 2)
    await parts.redis.set(KEYS.request(deliveries[1].entry), "no hash")
    with capture_logs() as said:
        assert (
            await parts.outbox.commit_all([repeat_of(one) for one in deliveries])
            == [CommitResult.COMMITTED] * 2
        )
    [line] = [line for line in said if line["event"] == "commit_incomplete"]
    assert (line["id"], line["entry"]) == (deliveries[1].entry, deliveries[1].entry)


async def test_a_full_redis_takes_a_whole_batch(own_redis: Callable[..., EmbeddedRedis]) -> None:
    server = own_redis(maxmemory_policy="noeviction")
    redis = connect(server.url, name="one")
    parts, deliveries = await worker_with(lambda name: Components(redis, name), 4)
    try:
        await redis.config_set("maxmemory", 1)
        assert (
            await parts.outbox.commit_all([repeat_of(one) for one in deliveries])
            == [CommitResult.COMMITTED] * 4
        )
        assert len(await outcomes(parts)) == 4
    finally:
        await redis.aclose()
