"""Repeats are answered by whoever submits them, on the terms that the workers set.

The workers are real processes, and stopped where nothing may depend on them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from sensestream_common.connections.pipelined_connection import PipelinedConnection, pack
from sensestream_common.contract.errors import PipelineError, RedisUnavailable, SubmitRefused
from sensestream_common.contract.transcript import Segment, Transcript, Word
from sensestream_consumer.audio import decode_revision
from sensestream_producer import Client, Outcome, Receipt, Submission
from sensestream_producer.outcomes.waiter import OutcomeWaiter
from sensestream_producer.submit.submission import RequestState

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import write_clip
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.anyio

GONE = "file:///gone.wav"
FIRST_OF_ITS_OWN = 2**32


class Heard:
    """One recording that a worker has transcribed, and the worker."""

    def __init__(self, clip: Path, worker: WorkerProcess, outcome: Outcome) -> None:
        self.clip = clip
        self.worker = worker
        self.outcome = outcome
        self.digest = f"sha256:{hashlib.sha256(clip.read_bytes()).hexdigest()}"


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Client]:
    async with Client(redis_url) as client:
        yield client


@pytest.fixture
async def heard(start_worker: StartWorker, clips: Path, redis_url: str) -> Heard:
    """It is stopped, and stays one of the living for a while."""
    worker = start_worker(reclaim_after=600)
    reference = write_clip(clips, 1)
    async with Client(redis_url) as client:
        outcome = await client.transcribe(reference)
    assert outcome.cache == "miss"
    worker.signal(signal.SIGSTOP)
    return Heard(clips / "clip-1.wav", worker, outcome)


async def test_a_cache_hit_needs_no_worker(heard: Heard, client: Client) -> None:
    outcome = await client.transcribe(GONE, digest=heard.digest, timeout=10)
    assert (outcome.status, outcome.cache, outcome.attempt) == ("completed", "hit", 0)
    same = ("text", "language", "emotion", "events", "segments", "confidence", "duration")
    for name in (*same, "digest", "model"):
        assert getattr(outcome, name) == getattr(heard.outcome, name), name
    assert outcome.worker.startswith("client-")
    assert outcome.submitted_at == outcome.started_at == outcome.finished_at is not None


async def test_a_hit_answered_by_a_client_leaves_the_same_keys_as_one_by_a_worker(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    before = pipeline.stats()
    with pipeline.redis.pubsub() as live:
        live.subscribe(KEYS.channel)
        live.get_message(timeout=5)
        outcome = await client.transcribe(
            GONE, id="again", digest=heard.digest, metadata={"ticket": "ü"}, traceparent="00-1"
        )
        announced = live.get_message(timeout=5)
    assert outcome.metadata == '{"ticket":"ü"}'
    assert pipeline.outcomes()[-1] == outcome.encode()
    assert json.loads(announced["data"]) == outcome.to_json()
    assert int(outcome.entry.partition("-")[2]) > FIRST_OF_ITS_OWN
    assert pipeline.backlog() == 0
    after = pipeline.stats()
    for counter in ("submitted", "completed", "hits"):
        assert after[counter] == before.get(counter, 0) + 1, counter
    status = await client.status("again")
    assert status is not None
    assert (status.state, status.entry, status.outcome) == ("done", outcome.entry, outcome)
    assert 0 < pipeline.redis.ttl(KEYS.request("again")) <= 86_400


async def test_the_receipt_has_the_outcome_of_a_cache_hit(heard: Heard, client: Client) -> None:
    receipt = await client.submit(GONE, id="a", digest=heard.digest)
    assert receipt.answer is not None
    assert (receipt.state, receipt.status) == (RequestState.DONE, "completed")
    assert await client.wait("a") == receipt.answer
    again = await client.submit(GONE, id="a", digest=heard.digest)
    assert again.duplicate
    assert again.outcome == receipt.outcome
    assert await client.transcribe(GONE, id="a", digest=heard.digest) == receipt.answer


async def test_an_upload_with_a_cached_result_is_not_stored(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    pipeline.redis.config_set("notify-keyspace-events", "KA")
    with pipeline.redis.pubsub(ignore_subscribe_messages=True) as seen:
        seen.psubscribe(f"__keyspace@0__:{KEYS.upload_prefix}*")
        for audio in (heard.clip, heard.clip.read_bytes()):
            outcome = await client.transcribe(audio, timeout=10)
            assert (outcome.cache, outcome.text) == ("hit", heard.outcome.text)
        assert seen.get_message(timeout=0.2) is None
    pipeline.redis.config_set("notify-keyspace-events", "")


async def test_each_of_many_cache_hits_has_its_own_outcome(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    digests = [heard.digest if n % 3 else f"sha256:{n:064x}" for n in range(100)]
    receipts = await client.submit_many(
        Submission(audio=GONE, id=f"n{n}", digest=digest) for n, digest in enumerate(digests)
    )
    for n, receipt in enumerate(receipts):
        assert isinstance(receipt, Receipt)
        assert receipt.id == f"n{n}"
        assert (receipt.answer is not None) == (n % 3 > 0)
    waiting = [fields[b"id"] for _, fields in pipeline.redis.xrange(KEYS.requests)]
    assert waiting == [f"n{n}".encode() for n in range(0, 100, 3)]  # in the order given


async def test_a_cleared_result_is_transcribed_again(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    await client.transcribe(GONE, digest=heard.digest)
    for key in pipeline.redis.scan_iter(KEYS.result("*")):
        pipeline.redis.delete(key)
    heard.worker.signal(signal.SIGCONT)
    outcome = await client.transcribe(heard.clip.as_uri(), digest=heard.digest)
    assert (outcome.cache, outcome.attempt) == ("miss", 1)
    assert (await client.transcribe(GONE, digest=heard.digest)).cache == "hit"


async def test_a_transcript_that_was_replaced_is_looked_up_anew(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    await client.transcribe(GONE, digest=heard.digest)
    [result] = pipeline.redis.scan_iter(KEYS.result("*"))
    pipeline.redis.hset(result, "transcript", Transcript("another one").dumps())
    assert (await client.transcribe(GONE, digest=heard.digest)).text == "another one"


@pytest.mark.parametrize(
    "transcript",
    [
        Transcript(""),  # nothing but absent fields
        Transcript('"segments":[] \\ \n 三', "zh", "HAPPY", ("Speech",), confidence=0.5,
                   segments=(Segment(0.0, 1.5, ',"segments":[', (Word(0.1, 0.2, "三"),)),)),
    ],
    ids=("nothing", "awkward"),
)  # fmt: skip
async def test_any_cached_transcript_comes_back_unchanged(
    heard: Heard, client: Client, pipeline: Pipeline, transcript: Transcript
) -> None:
    [result] = pipeline.redis.scan_iter(KEYS.result("*"))
    pipeline.redis.hset(result, "transcript", transcript.dumps())
    with pipeline.redis.pubsub() as live:
        live.subscribe(KEYS.channel)
        live.get_message(timeout=5)
        for _ in range(2):  # looked up, and remembered
            outcome = await client.transcribe(GONE, digest=heard.digest, timeout=10)
            announced = live.get_message(timeout=5)
            assert (outcome.text, outcome.segments) == (transcript.text, transcript.segments)
            assert outcome.confidence == transcript.confidence
            assert pipeline.outcomes()[-1] == outcome.encode()
            assert json.loads(announced["data"]) == outcome.to_json()


async def test_a_long_transcript_is_sent_for_an_upload_alone(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    """Many of them in one batch would hold up the loop; uploads do not come in batches."""
    long = Transcript("x" * 40_000, "en", segments=(Segment(0.0, 9.0, "x" * 40_000),))
    [result] = pipeline.redis.scan_iter(KEYS.result("*"))
    pipeline.redis.hset(result, "transcript", long.dumps())
    assert not (await client.submit(GONE, digest=heard.digest)).answer
    for _ in range(2):
        outcome = await client.transcribe(heard.clip, timeout=10)
        assert outcome.text == long.text
        assert pipeline.outcomes()[-1] == outcome.encode()


async def test_the_outcome_in_a_receipt_equals_the_one_in_the_stream(
    heard: Heard, client: Client
) -> None:
    answer = await client.transcribe(GONE, id="a", digest=heard.digest)
    waited = await client.wait("a")
    assert json.dumps(asdict(answer)) == json.dumps(asdict(waited))


@pytest.mark.parametrize(
    ("field", "value", "answers"),
    [
        ("result_ttl", "soon", False),
        ("request_ttl", "x", False),
        ("untrusted_digest_until", "x", False),
        ("decode_revision", "a:b", False),
        ("decode_revision", "", False),
    ],
)
async def test_a_malformed_reuse_policy_permits_no_cache_hits(
    heard: Heard, client: Client, pipeline: Pipeline, field: str, value: str, answers: bool
) -> None:
    pipeline.redis.hset(KEYS.reuse_policy, field, value)
    assert bool((await client.submit(GONE, digest=heard.digest)).answer) is answers


async def test_the_first_of_two_equal_ids_in_a_batch_counts(heard: Heard, client: Client) -> None:
    await client.submit(GONE, digest=heard.digest)
    first, second = await client.submit_many(
        [Submission(audio="file:///first.wav", id="x"),
         Submission(audio=GONE, id="x", digest=heard.digest)]
    )  # fmt: skip
    assert isinstance(first, Receipt)
    assert isinstance(second, Receipt)
    assert (first.duplicate, first.answer) == (False, None)
    assert (second.duplicate, second.entry) == (True, first.entry)


@pytest.mark.parametrize("field", ["recogniser", "decode_revision"])
async def test_results_from_before_an_upgrade_are_not_sent_after_it(
    heard: Heard, client: Client, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Two batches are under way: one reads new terms while the other looks up by the old ones."""
    await client.submit(GONE)
    entered, held, ask = asyncio.Event(), asyncio.Event(), PipelinedConnection.execute

    async def slow(line: PipelinedConnection, packed: Any) -> Any:
        replies = await ask(line, packed)
        if any(b":result:" in command and b"HMGET" in command for command in packed):
            entered.set()
            await held.wait()
        return replies

    monkeypatch.setattr(PipelinedConnection, "execute", slow)
    first = asyncio.create_task(client.submit(GONE, digest=heard.digest))
    await entered.wait()
    pipeline.redis.hset(KEYS.reuse_policy, field, "another")
    cached = client._submitter._cached
    assert cached is not None
    cached._look_again = 0.001  # the ten seconds are over
    second = asyncio.create_task(client.submit(GONE, digest=f"sha256:{1:064x}"))
    await asyncio.wait([second], timeout=0.3)
    held.set()
    assert not (await first).answer
    await second


async def test_a_failed_outcome_is_found_after_its_id_was_submitted_again(
    heard: Heard, client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listened yet when it came, and the id tells of the other request by now."""
    assert (await client.submit(GONE, digest=heard.digest)).answer
    entered, held, start = asyncio.Event(), asyncio.Event(), OutcomeWaiter._start

    async def slow(tail: OutcomeWaiter) -> None:
        entered.set()
        await held.wait()
        await start(tail)

    monkeypatch.setattr(OutcomeWaiter, "_start", slow)
    waiting = asyncio.create_task(
        client.transcribe(GONE, id="x", digest=f"sha256:{1:064x}", timeout=20)
    )
    await entered.wait()
    heard.worker.signal(signal.SIGCONT)
    while (status := await client.status("x")) is None or status.state != "done":  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with Client(redis_url) as another:
        assert (await another.submit(GONE, id="x", digest=heard.digest)).answer
    held.set()
    assert (await waiting).error == "audio_forbidden"


async def test_a_submit_is_retried_when_the_master_became_a_replica(
    heard: Heard, redis_url: str, pipeline: Pipeline
) -> None:
    async with Client(redis_url, retry_timeout=10) as client:
        await client.submit(GONE, digest=heard.digest)
        pipeline.redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        submitting = asyncio.create_task(client.submit(GONE, digest=heard.digest))
        await asyncio.wait([submitting], timeout=0.5)
        pipeline.redis.execute_command("REPLICAOF", "NO", "ONE")
        assert (await submitting).answer


@pytest.mark.parametrize("value", ["no JSON", '{"text": 1}', '"\\ud800"', '{"text":"\\ud800"}'])
async def test_an_unreadable_cache_entry_is_left_to_workers(
    heard: Heard, client: Client, pipeline: Pipeline, value: str
) -> None:
    [result] = pipeline.redis.scan_iter(KEYS.result("*"))
    pipeline.redis.hset(result, "transcript", value)
    assert not (await client.submit(GONE, digest=heard.digest)).answer
    assert pipeline.backlog() == 1


@pytest.mark.parametrize("field", ["recogniser", "decode_revision"])
async def test_results_of_another_recogniser_or_other_decoders_are_no_cache_hits(
    heard: Heard, client: Client, pipeline: Pipeline, field: str
) -> None:
    assert (await client.submit(GONE, digest=heard.digest)).answer
    pipeline.redis.hset(KEYS.reuse_policy, field, "another")
    assert not (await client.submit(GONE, digest=heard.digest)).answer
    assert not (await client.submit(GONE, digest=heard.digest)).answer


async def test_without_a_decode_revision_a_client_answers_no_cache_hits(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    pipeline.redis.hdel(KEYS.reuse_policy, "decode_revision")  # workers that name none
    assert not (await client.submit(GONE, digest=heard.digest)).answer


async def test_without_a_living_worker_a_client_answers_no_cache_hits(
    heard: Heard, redis_url: str, pipeline: Pipeline
) -> None:
    pipeline.redis.delete(KEYS.reuse_policy)  # as its end of life does
    async with Client(redis_url) as client:
        assert not (await client.submit(GONE, digest=heard.digest)).answer
        assert not (await client.submit_file(heard.clip)).answer
    assert pipeline.backlog() == 2


async def test_a_claimed_digest_counts_only_where_workers_trust_it(
    heard: Heard, client: Client, start_worker: StartWorker
) -> None:
    """One of the group that reads all audio is enough; what was hashed here is no claim."""
    assert (await client.submit(GONE, digest=heard.digest)).answer
    heard.worker.kill()  # its terms hold for a while, and it takes nothing from the other any more
    start_worker(trust_digest=0, reclaim_after=600)
    outcome = await client.transcribe(GONE, digest=heard.digest)
    assert outcome.error == "audio_forbidden"
    assert (await client.submit_file(heard.clip)).answer


async def test_a_client_can_leave_cache_hits_to_workers(heard: Heard, redis_url: str) -> None:
    async with Client(redis_url, answer_cache_hits=False) as client:
        assert not (await client.submit(GONE, digest=heard.digest)).answer


async def test_a_request_with_an_absolute_deadline_is_left_to_workers(
    heard: Heard, client: Client
) -> None:
    """It is judged by Redis's clock; a time from now on has not passed."""
    assert not (await client.submit(GONE, digest=heard.digest, deadline=1)).answer
    soon = timedelta(seconds=5)
    assert (await client.submit(GONE, digest=heard.digest, deadline=soon)).answer


async def test_a_cache_hit_with_a_callback_has_its_webhook(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    receipt = await client.submit(GONE, id="a", digest=heard.digest, callback_url="http://a.b/c")
    [(_, due)] = pipeline.redis.xrange(KEYS.webhooks)
    assert due == {b"outcome": receipt.outcome.encode(), b"url": b"http://a.b/c", b"id": b"a"}


@pytest.mark.parametrize(
    ("ttl", "expected"), [(None, 604_800), (900_000, 900_000), (60, 500_000), (0, 500_000)]
)
async def test_of_two_retentions_the_longer_one_wins(
    heard: Heard, client: Client, pipeline: Pipeline, ttl: int | None, expected: int
) -> None:
    [result] = pipeline.redis.scan_iter(KEYS.result("*"))
    for key in (result, KEYS.audio(heard.digest, decode_revision())):
        pipeline.redis.expire(key, 500_000)
    await client.transcribe(GONE, digest=heard.digest, ttl=ttl)
    for key in (result, KEYS.audio(heard.digest, decode_revision())):
        assert expected - 10 <= pipeline.redis.ttl(key) <= expected


async def test_a_key_of_another_type_is_not_prolonged(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    """A list where an alias was: nobody who remembers it asks for it, and mends it."""
    await client.transcribe(GONE, digest=heard.digest)
    alias = KEYS.audio(heard.digest, decode_revision())
    pipeline.redis.delete(alias)
    pipeline.redis.rpush(alias, "not yours")
    pipeline.redis.expire(alias, 100)
    assert (await client.transcribe(GONE, digest=heard.digest, ttl=900_000)).cache == "hit"
    assert pipeline.redis.ttl(alias) <= 100


async def test_a_retention_is_checked_now_and_then_and_when_a_longer_one_is_asked_for(
    heard: Heard, client: Client, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A while, however slow this machine is.
    monkeypatch.setattr("sensestream_producer.submit.cached_result._RETENTION_LAG", 60.0)

    def looks() -> int:
        statistics: Any = pipeline.redis.info("commandstats")
        return int(statistics.get("cmdstat_pttl", {}).get("calls", 0))

    await client.transcribe(GONE, digest=heard.digest)
    before = looks()
    for _ in range(3):
        await client.transcribe(GONE, digest=heard.digest)
    assert looks() == before
    await client.transcribe(GONE, digest=heard.digest, ttl=900_000)
    assert looks() == before + 2
    assert pipeline.redis.ttl(KEYS.audio(heard.digest, decode_revision())) > 890_000


async def test_close_waits_for_a_cache_hit_under_way(heard: Heard, redis_url: str) -> None:
    client = Client(redis_url)
    await client.transcribe(GONE, digest=heard.digest)
    asked = asyncio.create_task(client.transcribe(GONE, digest=heard.digest))
    await asyncio.sleep(0)  # it is on its way
    await client.close()
    assert (await asked).cache == "hit"


async def test_an_id_whose_outcome_failed_is_answered(heard: Heard, client: Client) -> None:
    heard.worker.signal(signal.SIGCONT)
    assert (await client.transcribe(GONE, id="a")).error == "audio_forbidden"
    outcome = await client.transcribe(GONE, id="a", digest=heard.digest)
    assert (outcome.cache, outcome.error) == ("hit", None)


async def test_a_queued_id_is_not_answered_from_the_cache_as_well(
    heard: Heard, client: Client
) -> None:
    first = await client.submit(GONE, id="a")
    again = await client.submit(GONE, id="a", digest=heard.digest)
    assert (again.duplicate, again.entry, again.answer) == (True, first.entry, None)


async def test_a_cache_hit_whose_reply_was_lost_has_one_outcome(
    heard: Heard, client: Client, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.transcribe(GONE, digest=heard.digest)
    count = len(pipeline.outcomes())
    losses, ask = iter([True]), PipelinedConnection.execute

    async def lossy(*arguments: Any) -> Any:
        replies = await ask(*arguments)
        if next(losses, False):
            raise RedisConnectionError("lost")
        return replies

    monkeypatch.setattr(PipelinedConnection, "execute", lossy)
    outcome = await client.transcribe(GONE, digest=heard.digest, timeout=10)
    assert outcome.cache == "hit"
    assert len(pipeline.outcomes()) == count + 1


async def test_a_full_redis_refuses_a_cache_hit_without_writing_part_of_it(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    await client.transcribe(GONE, digest=heard.digest)
    before = pipeline.stats(), pipeline.outcomes()
    pipeline.redis.config_set("maxmemory", 1)
    with pytest.raises(SubmitRefused, match="no memory"):
        await client.submit(GONE, digest=heard.digest)
    pipeline.redis.config_set("maxmemory", 0)
    assert (pipeline.stats(), pipeline.outcomes()) == before


@pytest.mark.parametrize("key", [KEYS.transcripts, KEYS.stats, KEYS.request("a"), KEYS.webhooks])
async def test_a_key_of_the_wrong_type_is_named_in_the_error(
    heard: Heard, client: Client, pipeline: Pipeline, key: str
) -> None:
    await client.submit(GONE, digest=heard.digest)
    before = pipeline.outcomes()
    pipeline.redis.rename(KEYS.transcripts, "kept")
    pipeline.redis.delete(key)
    pipeline.redis.set(key, "something else")
    with pytest.raises(PipelineError) as caught:
        await client.submit(GONE, id="a", digest=heard.digest, callback_url="http://a.b/c")
    assert key in str(caught.value)
    if key != KEYS.transcripts:
        assert not pipeline.redis.exists(KEYS.transcripts)
    assert len(before) == len(pipeline.redis.xrange("kept"))


async def test_the_order_is_kept_when_a_cached_result_ahead_is_gone(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    await client.transcribe(GONE, digest=heard.digest)
    pipeline.redis.delete(*pipeline.redis.scan_iter(KEYS.result("*")))
    many = [Submission(audio=GONE, id=name) for name in ("n1", "n2")]
    first = Submission(audio=GONE, id="n0", digest=heard.digest)
    receipts = await client.submit_many([first, *many, first])
    assert [receipt.duplicate for receipt in receipts if isinstance(receipt, Receipt)] == [
        False, False, False, True,
    ]  # fmt: skip
    waiting = [fields[b"id"] for _, fields in pipeline.redis.xrange(KEYS.requests)]
    assert waiting == [b"n0", b"n1", b"n2"]


async def test_a_repeated_id_is_counted_once(
    heard: Heard, client: Client, pipeline: Pipeline
) -> None:
    receipts = [await client.submit(GONE, id="a", digest=heard.digest) for _ in range(3)]
    assert [receipt.duplicate for receipt in receipts] == [False, True, True]
    assert pipeline.stats()["duplicates"] == 2


async def test_the_retry_timeout_covers_the_whole_submit(
    heard: Heard, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One time-out of the connection, and not another one after it."""
    asked = 0
    async with Client(redis_url, retry_timeout=0.5) as client:
        client._link.redis.connection_pool.connection_kwargs["socket_timeout"] = 1.0
        await client.transcribe(GONE, digest=heard.digest)
        execute = PipelinedConnection.execute

        async def unanswered(line: PipelinedConnection, _: Any) -> Any:
            nonlocal asked
            asked += 1
            return await execute(line, [pack("BLPOP", "nothing", "5")])

        monkeypatch.setattr(PipelinedConnection, "execute", unanswered)
        with pytest.raises(RedisUnavailable, match="no reply within"):
            await client.submit(GONE, digest=heard.digest)
    assert asked == 1


async def test_queued_requests_keep_their_order_beside_cache_hits(
    heard: Heard, client: Client, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches are under way at once: the second must not overtake the first in its lane."""
    await client.transcribe(GONE, digest=heard.digest)
    entered, held = asyncio.Event(), asyncio.Event()
    calls, ask = iter([None, held]), PipelinedConnection.execute  # the first goes ahead, by itself

    async def slow(*arguments: Any) -> Any:
        if wait := next(calls, None):
            entered.set()
            await wait.wait()
        return await ask(*arguments)

    monkeypatch.setattr(PipelinedConnection, "execute", slow)
    repeat = Submission(audio=GONE, digest=heard.digest)
    several = [repeat, repeat, Submission(audio=GONE, id="first")]
    first = asyncio.create_task(client.submit_many(several))
    await entered.wait()
    second = asyncio.create_task(client.submit(GONE, id="second"))
    await asyncio.wait([second], timeout=0.2)
    held.set()
    await asyncio.gather(first, second)
    waiting = [fields[b"id"] for _, fields in pipeline.redis.xrange(KEYS.requests)]
    assert waiting == [b"first", b"second"]
