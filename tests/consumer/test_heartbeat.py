"""The heartbeat: renews what is owned, steals nothing back, and knows its own silence."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sensestream_common.contract.keys import REQUESTS_GROUP
from structlog.testing import capture_logs

from tests.consumer.conftest import (
    KEYS,
    RECLAIM_AFTER,
    REVISION,
    Beating,
    MakeParts,
    submit,
    transcript_of,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.anyio


async def test_a_beat_renews_entries_in_flight_and_counts_no_delivery(beating: Beating) -> None:
    redis = beating.parts.redis
    await submit(redis)
    [delivery] = await beating.parts.read()
    # As if it had been read a minute ago.
    await redis.xclaim(
        KEYS.requests, REQUESTS_GROUP, "me", 0, [delivery.entry], idle=60_000, justid=True
    )
    await beating.beat()
    [row] = await redis.xpending_range(KEYS.requests, REQUESTS_GROUP, "-", "+", 10)
    assert row["time_since_delivered"] < 30_000
    assert row["times_delivered"] == 1
    assert beating.lost == []
    assert await redis.pttl(KEYS.worker("me")) > 0
    assert await redis.get(KEYS.recogniser) == b"fingerprint"


async def test_a_beat_does_not_steal_back_a_reclaimed_entry(
    beating: Beating, make_parts: MakeParts
) -> None:
    await submit(beating.parts.redis)
    [delivery] = await beating.parts.read()
    other = make_parts("other")
    await other.steal(delivery)
    await beating.beat()
    assert await other.owner(delivery) == "other"
    assert beating.lost == [delivery]


async def test_an_entry_committed_during_a_beat_is_not_reported_as_lost(beating: Beating) -> None:
    await submit(beating.parts.redis)
    [delivery] = await beating.parts.read()
    await beating.parts.redis.xack(KEYS.requests, REQUESTS_GROUP, delivery.entry)
    beating.parts.in_flight.discard(delivery)
    await beating.beat()
    assert beating.lost == []


async def test_an_entry_whose_commit_has_no_reply_yet_is_not_reported_as_lost(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = beating.parts
    await submit(parts.redis)
    [delivery] = await parts.read()
    lease = await parts.take_lease("a" * 64)
    delivery.lease = lease
    run = parts.broker.run

    async def slow(*call: Any) -> Any:
        reply = await run(*call)
        await beating.beat()  # finds neither entry nor lease
        return reply

    monkeypatch.setattr(parts.broker, "run", slow)
    with capture_logs() as logs:
        assert await parts.outbox.commit(delivery, transcript_of(delivery), lease=lease)
    assert beating.lost == []
    assert [entry for entry in logs if entry["log_level"] == "warning"] == []


async def test_an_entry_whose_hand_back_has_no_reply_yet_is_not_reported_as_lost(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = beating.parts
    await submit(parts.redis)
    [delivery] = await parts.read()
    run = parts.broker.run

    async def slow(*call: Any) -> Any:
        reply = await run(*call)
        await beating.beat()
        return reply

    monkeypatch.setattr(parts.broker, "run", slow)
    await parts.inbox.hand_back([delivery])
    assert beating.lost == []
    assert delivery not in parts.in_flight


async def test_a_lease_is_renewed_by_its_owner_and_dropped_by_others(
    beating: Beating,
) -> None:
    redis = beating.parts.redis
    lease = await beating.parts.take_lease("x")
    await redis.pexpire(lease.key, 1000)
    await beating.beat()
    assert await redis.pttl(lease.key) > 30_000
    await redis.set(lease.key, "another's", px=1000)
    await beating.beat()
    assert await redis.get(lease.key) == b"another's"
    assert await redis.pttl(lease.key) <= 1000
    assert beating.parts.in_flight.snapshot()[1] == []


async def test_a_new_worker_reclaims_nothing_at_first(beating: Beating) -> None:
    # Redis may just have come back, and the living not yet have renewed what they hold.
    assert not beating.heartbeat.may_reclaim()
    beating.heartbeat._no_reclaim_before -= RECLAIM_AFTER
    assert beating.heartbeat.may_reclaim()


async def test_after_an_outage_a_worker_renews_and_does_not_reclaim(beating: Beating) -> None:
    beating.heartbeat._no_reclaim_before -= RECLAIM_AFTER
    assert beating.heartbeat.may_reclaim()
    # As if the last answer had come before an outage longer than a heartbeat.
    beating.heartbeat._last_beat -= 3 * beating.heartbeat.interval
    assert not beating.heartbeat.may_reclaim()
    await beating.beat()
    assert not beating.heartbeat.may_reclaim()
    beating.heartbeat._no_reclaim_before -= RECLAIM_AFTER
    assert beating.heartbeat.may_reclaim()


async def test_times_are_taken_from_the_clock_of_redis(beating: Beating) -> None:
    await beating.beat()
    seconds, microseconds = await beating.parts.redis.time()
    assert abs(beating.heartbeat.now_ms() - (seconds * 1000 + microseconds / 1000)) < 1000


async def test_an_unexpected_error_does_not_end_the_heartbeat(
    beating: Beating, monkeypatch: pytest.MonkeyPatch
) -> None:
    beat = beating.heartbeat.beat
    beats: list[str] = []

    def failing_once() -> None:
        beats.append("beat")
        if len(beats) == 1:
            raise BrokenPipeError("the log's reader is gone")
        beat()

    monkeypatch.setattr(beating.heartbeat, "beat", failing_once)
    monkeypatch.setattr(beating.heartbeat, "interval", 0.01)
    beating.heartbeat.start()
    await wait_until(lambda: len(beats) > 2)
    assert beating.heartbeat.alive
    beating.heartbeat.stop()


async def test_a_beat_says_on_which_terms_others_may_answer_cache_hits(beating: Beating) -> None:
    await beating.beat()
    terms = await beating.parts.redis.hgetall(KEYS.reuse_policy)
    until = int(terms.pop(b"decode_revision_until"))
    assert 0 < until - time.time() * 1000 <= 2 * RECLAIM_AFTER * 1000 + 1000
    assert terms == {
        b"recogniser": b"fingerprint", b"decode_revision": REVISION.encode(),
        b"result_ttl": b"604800", b"request_ttl": b"86400",
    }  # fmt: skip
    left = await beating.parts.redis.pttl(KEYS.reuse_policy)
    assert 0 < left <= 2 * RECLAIM_AFTER * 1000  # they end with the last worker


async def test_a_worker_with_another_recogniser_does_not_change_the_reuse_policy(
    beating: Beating, redis_url: str
) -> None:
    await beating.beat()
    guest = Beating(beating.parts, redis_url, fingerprint="another")
    await guest.beat()
    assert await beating.parts.redis.hget(KEYS.reuse_policy, "recogniser") == b"fingerprint"


async def in_force(redis: Any) -> str:
    """The decode revision by which clients look for aliases."""
    return str((await redis.hget(KEYS.reuse_policy, "decode_revision")).decode())


def joined(beating: Beating) -> None:
    """Let the worker have joined; the beats that follow are the test's."""
    beating.heartbeat.start()
    beating.heartbeat.stop()


async def test_of_two_decode_revisions_that_of_the_last_to_join_is_in_force(
    beating: Beating, redis_url: str
) -> None:
    redis = beating.parts.redis
    await beating.beat()
    newer = Beating(beating.parts, redis_url, revision="2")
    await newer.beat()
    for each in (beating, newer):
        joined(each)
    for each in (newer, beating, newer, beating):
        await each.beat()
        assert await in_force(redis) == "2"


async def test_a_decode_revision_whose_workers_are_silent_gives_way(
    beating: Beating, redis_url: str
) -> None:
    redis = beating.parts.redis
    await Beating(beating.parts, redis_url, revision="2").beat()
    joined(beating)
    await beating.beat()
    assert await in_force(redis) == "2"
    seconds, _ = await redis.time()
    await redis.hset(KEYS.reuse_policy, "decode_revision_until", 1000 * seconds - 1)
    await beating.beat()
    assert await in_force(redis) == REVISION


@pytest.mark.parametrize(
    "fields", [
        {"decode_revision": "2"}, {"decode_revision_until": "x"},
        {"decode_revision": "2", "decode_revision_until": "x"},
    ],
)  # fmt: skip
async def test_a_half_written_decode_revision_is_replaced(
    beating: Beating, fields: dict[str, str]
) -> None:
    await beating.parts.redis.hset(KEYS.reuse_policy, mapping=fields)
    joined(beating)
    await beating.beat()
    assert await in_force(beating.parts.redis) == REVISION


async def test_one_living_worker_that_trusts_no_digest_decides_for_all(
    beating: Beating, redis_url: str
) -> None:
    redis = beating.parts.redis
    wary = Beating(beating.parts, redis_url, trust_digest=False)
    await wary.beat()
    await beating.beat()
    until = int(await redis.hget(KEYS.reuse_policy, "untrusted_digest_until"))
    seconds, _ = await redis.time()
    assert 0 < until - 1000 * seconds <= 2 * RECLAIM_AFTER * 1000 + 1000
    await redis.hset(
        KEYS.reuse_policy, "untrusted_digest_until", 1000 * seconds - 1
    )  # it has been silent since
    await beating.beat()
    assert await redis.hget(KEYS.reuse_policy, "untrusted_digest_until") == b"0"
