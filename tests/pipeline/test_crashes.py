"""Workers that die, freeze and meet: every request still has exactly one outcome."""

from __future__ import annotations

import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from sensestream_consumer.audio import audio_identity
from sensestream_producer import Client

from tests.pipeline.conftest import (
    KEYS,
    Pipeline,
    StartWorker,
    ended,
    ended_or_answered,
    exactly_once,
    started,
)
from tests.support.clips import tone, write_clip
from tests.support.waiting import wait_until_sync

SOON = 1.0  # seconds until a silent worker's entries are replayed, in these tests


def test_a_killed_worker_loses_nothing_and_charges_only_started_requests(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    victim = start_worker(gate=gate, concurrency=1, reclaim_after=SOON)
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(12)]
    wait_until_sync(lambda: started(pipeline) and len(pipeline.pending()) == 12)
    victim.kill()
    begun = started(pipeline)  # looked up once nothing can start any more
    assert len(begun) < 12
    gate.unlink()
    start_worker(reclaim_after=SOON)
    outcomes = {o["entry"]: o for o in pipeline.wait_for(12)}
    assert exactly_once(pipeline, entries)
    assert all(o["status"] == "completed" for o in outcomes.values())
    assert {e for e, o in outcomes.items() if o["attempt"] == "2"} == set(begun)
    assert pipeline.pending() == []


def test_by_default_a_dead_workers_entries_are_taken_over_within_fifteen_seconds(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    victim = start_worker(gate=gate, concurrency=1)
    entry = pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: started(pipeline))
    start_worker()
    victim.kill()
    died = time.monotonic()
    pipeline.wait_for(1)
    assert exactly_once(pipeline, [entry])
    # 15 s from the last renewal, and half a second between two looks.
    assert time.monotonic() - died < 17


def test_twenty_identical_requests_at_once_are_transcribed_once_by_two_workers(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    workers = [start_worker(gate=gate, read_ahead=10) for _ in range(2)]
    audio = write_clip(clips, 1)
    entries = [pipeline.submit(audio) for _ in range(20)]
    wait_until_sync(lambda: all(worker.holds(pipeline.redis, KEYS.requests) for worker in workers))
    gate.unlink()
    uses = Counter(o["cache"] for o in pipeline.wait_for(20))
    assert uses["miss"] == 1
    assert uses["coalesced"] + uses["hit"] == 19
    assert exactly_once(pipeline, entries)
    assert pipeline.stats()["misses"] == 1
    assert pipeline.redis.keys("*:lease:*") == []


def test_two_workers_share_the_work(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    workers = [start_worker(gate=gate, concurrency=1) for _ in range(2)]
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(12)]
    # One has read most of them, and gives back what it has no room for: the other takes that.
    wait_until_sync(lambda: all(w.holds(pipeline.redis, KEYS.requests) >= 4 for w in workers))
    gate.unlink()
    outcomes = pipeline.wait_for(12)
    assert exactly_once(pipeline, entries)
    assert {o["worker"] for o in outcomes} == {w.consumer for w in workers}
    assert {o["attempt"] for o in outcomes} == {"1"}


def test_a_frozen_worker_that_wakes_up_writes_nothing_after_anothers_commit(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    zombie = start_worker(gate=gate, concurrency=1, reclaim_after=SOON)
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(3)]
    wait_until_sync(lambda: zombie.holds(pipeline.redis, KEYS.requests) == 3)
    # In the engine: frozen before it has seen that it started, it would drop the entry on waking.
    wait_until_sync(gate.with_suffix(".reached").exists)
    zombie.signal(signal.SIGSTOP)
    gate.unlink()
    start_worker(reclaim_after=SOON)
    pipeline.wait_for(3)
    zombie.signal(signal.SIGCONT)
    wait_until_sync(lambda: zombie.logged("request_answered_by_another"))
    last = pipeline.submit(write_clip(clips, 9))
    pipeline.wait_for(4)
    assert exactly_once(pipeline, [*entries, last])
    assert pipeline.stats()["completed"] == 4


def test_a_lease_holder_that_dies_is_succeeded_by_a_follower(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    audio = write_clip(clips, 1)
    first = pipeline.submit(audio)
    holder = start_worker(gate=gate, concurrency=1, reclaim_after=SOON, read_ahead=1)
    wait_until_sync(lambda: pipeline.redis.keys("*:lease:*"))
    follower = start_worker(gate=gate, concurrency=1, reclaim_after=SOON)
    second = pipeline.submit(audio, high=True)
    wait_until_sync(lambda: second in started(pipeline))  # decoded next, and it meets the lease
    holder.kill()
    gate.unlink()
    outcomes = pipeline.wait_for(2)
    assert exactly_once(pipeline, [first, second])
    assert {o["worker"] for o in outcomes} == {follower.consumer}
    assert Counter(o["cache"] for o in outcomes)["miss"] == 1


def test_a_poison_clip_ends_as_a_dead_letter_and_condemns_no_neighbour(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    poison = audio_identity(tone(666))
    bad = pipeline.submit(write_clip(clips, 666), id="poison")
    good = [pipeline.submit(write_clip(clips, n)) for n in range(6)]
    copies = [pipeline.submit(write_clip(clips, 666)) for _ in range(5)]
    deaths = 0
    while deaths < 8 and len(pipeline.outcomes()) < 12:
        worker = start_worker(poison=(poison,), concurrency=2, reclaim_after=SOON)
        wait_until_sync(partial(ended_or_answered, worker, pipeline, 12), timeout=30)
        deaths += ended(worker)
    outcomes = {o["entry"]: o for o in pipeline.wait_for(12)}
    assert exactly_once(pipeline, [bad, *good, *copies])
    assert all(outcomes[entry]["status"] == "completed" for entry in good)
    assert {outcomes[e].get("error") for e in (bad, *copies)} == {"attempts_exhausted"}
    # Three for the entry itself. A copy may be first at the engine before a crash is proven, and
    # cost one more; six times three it must not be.
    assert 3 <= deaths <= 5
    letters = [fields[b"dead:error"] for _, fields in pipeline.redis.xrange(KEYS.dead)]
    assert letters == [b"attempts_exhausted"] * 6


@pytest.mark.anyio
async def test_a_condemned_recording_is_tried_again_when_its_dead_letter_is_replayed(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    poison = audio_identity(tone(1))
    pipeline.submit(write_clip(clips, 1), id="bad")
    victim = start_worker(poison=(poison,), reclaim_after=0.5)
    wait_until_sync(partial(ended_or_answered, victim, pipeline, 1))
    while not pipeline.outcomes():
        victim = start_worker(poison=(poison,), reclaim_after=0.5)
        wait_until_sync(partial(ended_or_answered, victim, pipeline, 1))
    assert pipeline.outcomes()[0]["error"] == "attempts_exhausted"
    victim.terminate()
    healthy = start_worker()
    async with Client(healthy.redis_url) as client:
        letters = [letter async for letter in client.dead.select()]
        assert (await client.dead.replay(letters[0])).result == "queued"
        assert (await client.wait("bad", timeout=20)).completed


def test_a_worker_with_another_recogniser_refuses_to_join(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    start_worker()
    pipeline.redis.set(KEYS.recogniser, "f" * 64)
    other = start_worker(ready=False)
    assert other.process.wait(20) == 1
    message = other.log_file.read_text()
    assert "SENSESTREAM_ALLOW_MIXED" in message
    assert "Traceback" not in message
    start_worker(allow_mixed=1)
    entry = pipeline.submit(write_clip(clips, 1))
    assert pipeline.wait_for(1)[0]["entry"] == entry


def test_the_recogniser_of_a_group_that_is_gone_excludes_no_worker(
    pipeline: Pipeline, start_worker: StartWorker
) -> None:
    pipeline.redis.set(KEYS.recogniser, "f" * 64)
    start_worker()
    assert pipeline.redis.get(KEYS.recogniser) != b"f" * 64
