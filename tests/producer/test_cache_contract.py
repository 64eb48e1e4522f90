"""Cache and failures as a caller sees them: a real worker, and the pipeline in memory.

The worker has the embedded model, so its text for a chirp does not matter here. The double must
answer with the same use of the cache, attempts, digests, errors and letters.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pytest
from sensestream_producer import DeadLetterFilter, ErrorCode, Outcome, Replay, Status, blocking
from sensestream_producer.local.redis_server import EmbeddedRedis
from sensestream_producer.testing import ScriptedPipeline

from tests.support.clips import encoded, tone
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

SEEDS = iter(range(7000, 8000))


class World(Protocol):
    """A pipeline with a worker; recordings are below a folder that the worker may read."""

    client: blocking.Client

    def write(self, name: str, content: bytes) -> str:
        """Put bytes behind a `file://` reference."""
        ...

    def missing(self, name: str) -> str:
        """A reference with nothing behind it."""
        ...

    def busy(self) -> AbstractContextManager[None]:
        """While inside, no recognition ends."""
        ...


class WithWorker:
    def __init__(self, client: blocking.Client, folder: Path, gate: Path) -> None:
        self.client = client
        self._folder = folder
        self._gate = gate

    def write(self, name: str, content: bytes) -> str:
        (self._folder / name).write_bytes(content)
        return (self._folder / name).as_uri()

    def missing(self, name: str) -> str:
        return (self._folder / name).as_uri()

    @contextmanager
    def busy(self) -> Iterator[None]:
        self._gate.touch()
        try:
            yield
        finally:
            self._gate.unlink()


class InMemory:
    def __init__(self) -> None:
        self.pipeline = ScriptedPipeline("hello")
        self.client: blocking.Client = self.pipeline.blocking_client()

    def write(self, name: str, content: bytes) -> str:
        reference = f"file:///data/{name}"
        self.pipeline.contain(reference, content)
        self.pipeline.answer(reference, "hello")
        return reference

    def missing(self, name: str) -> str:
        reference = f"file:///data/{name}"
        self.pipeline.answer(reference, ErrorCode.AUDIO_NOT_FOUND)
        return reference

    def busy(self) -> AbstractContextManager[None]:
        return self.pipeline.recogniser_busy()


@pytest.fixture(scope="module")
def with_worker(
    redis_executable: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WithWorker]:
    folder = tmp_path_factory.mktemp("recordings")
    gate = folder / "gate"
    logs = tmp_path_factory.mktemp("logs") / "worker.log"
    with EmbeddedRedis(executable=redis_executable) as server:
        worker = WorkerProcess(server.url, folder, logs, gate=gate)
        try:
            worker.wait_ready()
            with blocking.Client(server.url) as client:
                yield WithWorker(client, folder, gate)
        finally:
            worker.kill()


@pytest.fixture(params=["worker", "memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    if request.param == "worker":
        yield request.getfixturevalue("with_worker")
        return
    memory = InMemory()
    with memory.client:
        yield memory


@pytest.fixture
def recording() -> bytes:
    """A recording that no other test uses."""
    return encoded(tone(next(SEEDS), 0.3))


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def use(outcome: Outcome) -> tuple[str, int]:
    assert outcome.cache is not None, outcome
    return outcome.cache.value, outcome.attempt


def test_the_first_is_a_miss_and_the_same_again_a_hit(world: World, recording: bytes) -> None:
    before = world.client.pipeline_status().counters
    first = world.client.transcribe(world.write("a.wav", recording))
    again = world.client.transcribe(world.write("copy.wav", recording))
    uploaded = world.client.transcribe(recording)
    assert [use(each) for each in (first, again, uploaded)] == [("miss", 1), ("hit", 0), ("hit", 0)]
    assert {each.digest for each in (first, again, uploaded)} == {digest(recording)}
    assert {each.text for each in (first, again, uploaded)} == {first.text}
    assert again.segments == first.segments
    after = world.client.pipeline_status().counters
    grown = {name: after[name] - before.get(name, 0) for name in ("completed", "misses", "hits")}
    assert grown == {"completed": 3, "misses": 1, "hits": 2}


def test_equal_requests_at_once_are_transcribed_once(world: World, recording: bytes) -> None:
    audio = world.write("a.wav", recording)
    with world.busy():
        first = world.client.submit(audio)

        def started() -> bool:
            status = world.client.status(first.id)
            return status is not None and status.state == "started"

        wait_until_sync(started)
        others = [world.client.submit(audio) for _ in range(3)]
        wait_until_sync(lambda: world.client.pipeline_status().pending == 4)
    assert use(world.client.wait(first.id)) == ("miss", 1)
    outcomes = [world.client.wait(receipt.id) for receipt in others]
    # One that the worker had read, and not looked at yet, may find the result.
    assert {use(outcome) for outcome in outcomes} <= {("coalesced", 0), ("hit", 0)}


def test_language_and_itn_are_part_of_the_cache_key(world: World, recording: bytes) -> None:
    audio = world.write("a.wav", recording)
    outcomes = [
        world.client.transcribe(audio),
        world.client.transcribe(audio, language="en"),
        world.client.transcribe(audio, itn=False),
        world.client.transcribe(audio, language="en"),
    ]
    assert [use(outcome)[0] for outcome in outcomes] == ["miss", "miss", "miss", "hit"]


def test_ttl_0_stores_nothing_and_may_be_answered_from_the_cache(
    world: World, recording: bytes
) -> None:
    audio = world.write("a.wav", recording)
    ttls = (0, 0, None, 0)
    uses = [use(world.client.transcribe(audio, ttl=ttl))[0] for ttl in ttls]
    assert uses == ["miss", "miss", "miss", "hit"]


def test_a_known_digest_is_answered_without_the_audio(world: World, recording: bytes) -> None:
    world.client.transcribe(world.write("a.wav", recording))
    gone = world.missing("gone.wav")
    assert use(world.client.transcribe(gone, digest=digest(recording))) == ("hit", 0)


def test_a_wrong_digest_is_a_mismatch_and_leaves_no_letter(world: World, recording: bytes) -> None:
    audio = world.write("a.wav", recording)
    outcome = world.client.transcribe(audio, id="promise", digest=digest(b"another"))
    assert (outcome.status, outcome.error) == (Status.FAILED, ErrorCode.DIGEST_MISMATCH)
    assert (outcome.text, outcome.cache, outcome.attempt) == ("", None, 0)
    assert list(world.client.dead.select(DeadLetterFilter(ids=frozenset({"promise"})))) == []


def test_a_failure_is_not_cached_and_its_letter_can_be_replayed(
    world: World, recording: bytes
) -> None:
    failed = world.client.transcribe(world.missing("late.wav"), id="late")
    assert (failed.error, failed.attempt) == (ErrorCode.AUDIO_NOT_FOUND, 0)
    [letter] = world.client.dead.select(DeadLetterFilter(ids=frozenset({"late"})))
    assert letter.about["entry"] == failed.entry
    assert letter.message == failed.message
    world.write("late.wav", recording)
    assert world.client.dead.replay(letter).result is Replay.QUEUED
    assert use(world.client.wait("late")) == ("miss", 1)


def test_a_deadline_that_has_passed_is_expired(world: World, recording: bytes) -> None:
    audio = world.write("a.wav", recording)
    outcome = world.client.transcribe(audio, id="old", deadline=datetime(2020, 1, 1, tzinfo=UTC))
    assert outcome.error is ErrorCode.EXPIRED
    assert list(world.client.dead.select(DeadLetterFilter(ids=frozenset({"old"})))) == []


def test_an_unknown_scheme_is_a_bad_request(world: World) -> None:
    outcome = world.client.transcribe("gopher://example.org/a.wav")
    assert outcome.error is ErrorCode.BAD_REQUEST
    assert "gopher" in outcome.message


def test_inline_audio_comes_back_as_its_media_type_and_digest(
    world: World, recording: bytes
) -> None:
    text = base64.b64encode(recording).decode()
    outcome = world.client.transcribe(f"data:audio/wav;base64,{text}")
    assert (outcome.audio, outcome.digest) == ("data:audio/wav", digest(recording))


def test_an_upload_that_failed_is_kept_for_its_letter(world: World) -> None:
    """Both refuse these bytes: the worker finds no recording in them, the double is told to."""
    if isinstance(world, InMemory):
        world.pipeline.answer(b"no recording", ErrorCode.AUDIO_UNREADABLE)
    failed = world.client.transcribe(b"no recording", id="noise")
    assert (failed.error, failed.attempt) == (ErrorCode.AUDIO_UNREADABLE, 1)
    [letter] = world.client.dead.select(DeadLetterFilter(ids=frozenset({"noise"})))
    assert world.client.dead.replay(letter).result is Replay.QUEUED
    again = world.client.wait("noise")
    assert again.error is ErrorCode.AUDIO_UNREADABLE
    assert again.entry != failed.entry


def test_a_completed_outcome_has_every_field(world: World, recording: bytes) -> None:
    audio = world.write("a.wav", recording)
    outcome = world.client.transcribe(audio, metadata={"ticket": 7}, traceparent="00-1-2-00")
    assert outcome.audio == audio
    assert (outcome.metadata, outcome.traceparent) == ('{"ticket":7}', "00-1-2-00")
    assert outcome.duration is not None
    assert outcome.submitted_at is not None
    assert outcome.started_at is not None
    assert outcome.finished_at is not None
    # Workers know Redis's clock to half a round trip.
    assert outcome.submitted_at <= outcome.started_at + 100
    assert outcome.started_at <= outcome.finished_at
    assert outcome.model
    assert outcome.worker in {each.consumer for each in world.client.pipeline_status().workers}
