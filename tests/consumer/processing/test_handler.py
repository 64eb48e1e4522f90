"""The handler: one outcome for each delivery, whatever becomes of its request."""

from __future__ import annotations

import asyncio

import pytest
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.broker.deliveries import Delivery, DeliveryState
from sensestream_consumer.processing.attempts import DeliveryLost
from sensestream_consumer.processing.slots import AtCapacity
from structlog.testing import capture_logs

from tests.consumer.conftest import KEYS
from tests.consumer.processing.conftest import NOW, Way, digest_of
from tests.support.clips import encoded, tone

pytestmark = pytest.mark.anyio

GONE = "file:///gone.wav"


async def batch(way: Way, clip: str, *rest: dict[str, str]) -> list[Delivery]:
    """Deliveries of which the first two name a clip that this worker has transcribed."""
    await way.handle(clip)
    named = {"audio": GONE, "digest": digest_of(clip)}
    return [await way.deliver(**fields) for fields in (named, named, *rest)]


async def test_a_miss_has_an_outcome_with_all_that_is_known_of_it(way: Way) -> None:
    clip = way.clip(1)
    outcome = await way.handle(clip, id="call-1", metadata='{"ticket":1}', submitted_at=str(NOW))
    expected = {
        "id": "call-1",
        "status": "completed",
        "cache": "miss",
        "text": "transcript 1",
        "digest": digest_of(clip),
        "model": "fake",
        "worker": "me",
        "attempt": "1",
        "metadata": '{"ticket":1}',
        "submitted_at": str(NOW),
        "started_at": str(NOW),
        "finished_at": str(NOW),
    }
    assert {name: outcome.get(name) for name in expected} == expected
    assert (await way.pending(), len(way.parts.in_flight)) == (0, 0)


async def test_a_commit_takes_its_lease_along(way: Way) -> None:
    await way.handle(way.clip(1))
    assert await way.leases() == []
    assert way.parts.in_flight.snapshot()[1] == []


async def test_a_commit_that_came_second_gives_its_lease_up(way: Way) -> None:
    delivery = await way.deliver(way.clip(1))
    way.engine.hold()
    handling = asyncio.create_task(way.handler.handle(delivery))
    await way.engine.entered.wait()
    await way.parts.redis.xack(KEYS.requests, "workers", delivery.entry)  # another has answered
    way.engine.go.set()
    await handling
    assert await way.parts.redis.xlen(KEYS.transcripts) == 0
    assert await way.leases() == []
    assert way.parts.in_flight.snapshot() == ([], [])


async def test_a_hit_is_no_attempt_even_where_it_was_decoded_to_be_found(way: Way) -> None:
    clip = way.clip(1)
    await way.handle(clip)
    (way.folder / "same.flac").write_bytes(encoded(tone(1), "FLAC"))
    delivery = await way.deliver((way.folder / "same.flac").as_uri())
    await way.handler.handle(delivery)
    outcome = await way.outcome(delivery)
    assert (outcome["cache"], outcome["text"], outcome["attempt"]) == ("hit", "transcript 1", "0")
    assert delivery.attempt == 1


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"language": "klingon"}, "unsupported_language"),
        ({"deadline": str(NOW - 1)}, "expired"),
        ({"deadline": "tomorrow"}, "bad_request"),
    ],
)
async def test_a_request_that_has_no_answer_fails_with_its_reason(
    way: Way, fields: dict[str, str], error: str
) -> None:
    outcome = await way.handle(way.clip(1), **fields)
    assert (outcome["status"], outcome["error"]) == ("failed", error)
    assert await way.pending() == 0


async def test_a_fault_of_the_worker_fails_the_request_and_keeps_it(way: Way) -> None:
    way.engine.errors = [RuntimeError("axis out of range")]
    with capture_logs() as logs:
        outcome = await way.handle(way.clip(1))
    assert (outcome["error"], outcome["attempt"]) == ("internal", "1")
    assert "RuntimeError" in outcome["message"]
    assert "axis out of range" not in outcome["message"]
    assert "request_internal_error" in [line["event"] for line in logs]
    assert await way.parts.redis.xlen(KEYS.dead) == 1


async def test_a_delivery_without_a_slot_stays_in_flight_and_unanswered(way: Way) -> None:
    way.slots.in_use = way.slots.capacity
    delivery = await way.deliver(way.clip(1))
    with pytest.raises(AtCapacity):
        await way.handler.handle(delivery)
    assert delivery in way.parts.in_flight
    assert (delivery.state, await way.pending()) == (DeliveryState.RECEIVED, 1)


async def test_a_lost_delivery_is_dropped_without_an_outcome(way: Way, other_way: Way) -> None:
    delivery = await way.deliver(way.clip(1))
    await other_way.parts.steal(delivery)
    with pytest.raises(DeliveryLost):
        await way.handler.handle(delivery)
    assert await way.parts.redis.xlen(KEYS.transcripts) == 0


async def test_the_hits_of_a_batch_are_told_from_the_rest_without_a_look_at_redis(
    way: Way,
) -> None:
    clip = way.clip(1)
    unknown = {"audio": clip, "digest": "sha256:" + "0" * 64}
    rest = ({"audio": clip}, unknown, {"audio": GONE, "digest": "no digest"})
    deliveries = await batch(way, clip, *rest)
    before = await way.parts.redis.info("commandstats")
    commits, others = way.handler.resolve_locally(deliveries)
    after = await way.parts.redis.info("commandstats")
    assert after.keys() - before.keys() <= {"cmdstat_info"}
    assert [commit.delivery for commit in commits] == deliveries[:2]
    assert others == deliveries[2:]


async def test_the_hits_of_a_batch_are_answered_together(way: Way) -> None:
    clip = way.clip(1)
    deliveries = await batch(way, clip)
    commits, _ = way.handler.resolve_locally(deliveries)
    with capture_logs() as logs:
        assert await way.handler.commit_hits(commits) == []
    for delivery in deliveries:
        outcome = await way.outcome(delivery)
        assert (outcome["cache"], outcome["text"]) == ("hit", "transcript 1")
    answered = [line for line in logs if line["event"] == "request_answered"]
    assert len(answered) == 2
    assert await way.pending() == 0


async def test_hits_whose_result_was_replaced_are_left_for_a_look_at_it(way: Way) -> None:
    deliveries = await batch(way, way.clip(1))
    commits, _ = way.handler.resolve_locally(deliveries)
    key = KEYS.result(commits[0].keep.result)
    await way.parts.redis.hset(key, "transcript", Transcript("replaced").dumps())
    assert await way.handler.commit_hits(commits) == deliveries
    assert {delivery.state for delivery in deliveries} == {DeliveryState.RECEIVED}
    await way.handler.handle(deliveries[0])
    assert (await way.outcome(deliveries[0]))["text"] == "replaced"


async def test_a_fault_in_one_local_look_up_takes_no_hit_from_the_others(
    way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries = await batch(way, way.clip(1))
    resolve_locally, faults = way.resolver.resolve_locally, [RuntimeError("a fault")]

    def fail_once(request: object) -> object:
        if faults:
            raise faults.pop()
        return resolve_locally(request)  # type: ignore[arg-type]

    monkeypatch.setattr(way.resolver, "resolve_locally", fail_once)
    with capture_logs() as logs:
        commits, others = way.handler.resolve_locally(deliveries)
    assert ([commit.delivery for commit in commits], others) == (deliveries[1:], deliveries[:1])
    assert [line["event"] for line in logs] == ["local_lookup_failed"]
