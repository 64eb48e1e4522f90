"""What a hit may cost: commands and round trips to Redis, the same on any machine.

The worker runs in this process, so that what it sends can be counted; Redis and model are real.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from sensestream_common.connections.connection import connect
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.broker.autopipeline import AutoPipeline
from sensestream_consumer.broker.outbox import Commit, Outbox
from sensestream_consumer.monitoring.readiness import Readiness
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.startup.model import load_recogniser
from sensestream_consumer.worker import Worker
from sensestream_producer import Client, Submission

from tests.support.clips import write_clip

pytestmark = pytest.mark.anyio

SCRIPTS = {
    load_script("sensestream_consumer.broker.lua", "commit").sha: "commit",
    load_script("sensestream_producer.submit", "submit").sha: "submit",
    load_script("sensestream_producer.submit", "answer").sha: "answer",
}
BATCH = 64
A_CALL = 32  # requests that a client sends in one script call
KEYS = Keys("sensestream")


class Counted:
    """What was sent, one list of commands a round trip; scripts by their names."""

    def __init__(self) -> None:
        self.trips: list[list[str]] = []

    def watch(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        """Count what a client sends."""
        line = client._link.connection
        ask = line.execute

        async def counting(packed: Sequence[bytes]) -> list[Any]:
            self.trips.append([_name(command) for command in packed])
            return await ask(packed)

        monkeypatch.setattr(line, "execute", counting)

    def of(self, *names: str) -> tuple[dict[str, int], int]:
        """How often these commands were sent, and in how many round trips."""
        found = [[name for name in trip if name in names] for trip in self.trips]
        return dict(Counter(chain.from_iterable(found))), sum(1 for trip in found if trip)


def _name(packed: bytes) -> str:
    _, _, name, _, argument, *_ = packed.split(b"\r\n")
    return SCRIPTS.get(argument.decode(), "?") if name == b"EVALSHA" else name.decode()


@pytest.fixture
async def counted(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Counted]:
    """Counts what a worker sends, for a recording that another worker has heard before."""
    settings = WorkerSettings(
        redis_url=redis_url, model="demo", device="cpu", audio_roots=(tmp_path,),
        reclaim_after=600,  # nothing here is mended by being taken over
    )  # fmt: skip
    async with _working(settings), Client(redis_url) as client:
        assert (await client.transcribe(write_clip(tmp_path, 1))).cache == "miss"
    counted = Counted()
    exchange = AutoPipeline._exchange

    async def counting(commands: AutoPipeline, packed: list[bytes]) -> list[Any]:
        counted.trips.append([_name(command) for command in packed])
        return await exchange(commands, packed)

    monkeypatch.setattr(AutoPipeline, "_exchange", counting)
    async with _working(settings), Client(redis_url) as client:
        await client.transcribe("file:///gone.wav")  # fails; then the worker has started
        counted.trips.clear()
        yield counted


@asynccontextmanager
async def _working(settings: WorkerSettings) -> AsyncIterator[None]:
    worker = Worker(settings, lambda: load_recogniser(settings), Readiness())
    running = asyncio.create_task(worker.run())
    yield
    worker.stop()
    await running


def queued(url: str) -> Client:
    """A client whose repeats pass the worker, as those of a plain XADD do."""
    return Client(url, answer_cache_hits=False)


def _digest(folder: Path) -> str:
    [clip] = folder.glob("*.wav")
    return f"sha256:{hashlib.sha256(clip.read_bytes()).hexdigest()}"


async def test_the_first_hit_of_a_worker_is_two_look_ups_and_a_commit(
    counted: Counted, redis_url: str, tmp_path: Path
) -> None:
    async with queued(redis_url) as client:
        outcome = await client.transcribe("file:///gone.wav", digest=_digest(tmp_path))
    assert outcome.cache == "hit"
    assert counted.of("GET", "HGET", "commit") == ({"GET": 1, "HGET": 1, "commit": 1}, 3)


async def test_a_hit_from_the_local_cache_is_a_commit_alone(
    counted: Counted, redis_url: str, tmp_path: Path
) -> None:
    digest = _digest(tmp_path)
    async with queued(redis_url) as client:
        await client.transcribe("file:///gone.wav", digest=digest)
        counted.trips.clear()
        outcome = await client.transcribe("file:///gone.wav", digest=digest)
    assert outcome.cache == "hit"
    assert counted.of("GET", "HGET", "commit") == ({"commit": 1}, 1)


async def test_a_hit_of_a_result_this_worker_transcribed_is_a_commit_alone(
    counted: Counted, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    clip = write_clip(tmp_path / "new", 2)
    digest = _digest(tmp_path / "new")
    async with queued(redis_url) as client:
        assert (await client.transcribe(clip)).cache == "miss"
        counted.trips.clear()
        assert (await client.transcribe(clip, digest=digest)).cache == "hit"
    assert counted.of("GET", "HGET", "commit") == ({"commit": 1}, 1)


async def test_a_locally_cached_transcript_that_was_replaced_is_looked_up_anew(
    counted: Counted, redis_url: str, tmp_path: Path
) -> None:
    digest = _digest(tmp_path)
    async with queued(redis_url) as client, connect(redis_url, name="operator") as redis:
        await client.transcribe("file:///gone.wav", digest=digest)
        [result] = await redis.keys(KEYS.result("*"))
        await redis.hset(result, "transcript", Transcript("another one").dumps())
        counted.trips.clear()
        outcome = await client.transcribe("file:///gone.wav", digest=digest)
    assert (outcome.cache, outcome.text) == ("hit", "another one")
    assert counted.of("GET", "HGET", "commit") == ({"commit": 2, "HGET": 1}, 3)


async def test_a_cleared_result_is_no_hit_any_more(
    counted: Counted, redis_url: str, tmp_path: Path
) -> None:
    digest, clip = _digest(tmp_path), write_clip(tmp_path, 1)
    async with queued(redis_url) as client, connect(redis_url, name="operator") as redis:
        assert (await client.transcribe(clip, digest=digest)).cache == "hit"
        for key in await redis.keys(KEYS.result("*")) + await redis.keys(KEYS.audio("*", "*")):
            await redis.delete(key)
        assert (await client.transcribe(clip, digest=digest)).cache == "miss"


async def test_concurrent_hits_are_committed_together(
    counted: Counted, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Counted()
    digest = _digest(tmp_path)
    async with queued(redis_url) as client:
        await client.transcribe("file:///gone.wav", digest=digest)
        counted.trips.clear()
        sent.watch(client, monkeypatch)
        many = [Submission(audio="file:///gone.wav", digest=digest) for _ in range(BATCH)]
        receipts = await client.submit_many(many)
        for receipt in receipts:
            assert not isinstance(receipt, Exception)
            assert (await client.wait(receipt.id)).cache == "hit"
    assert sent.of("submit") == ({"submit": BATCH // A_CALL}, BATCH // A_CALL)
    commands, trips = counted.of("GET", "HGET", "commit")
    assert commands.keys() == {"commit"}
    assert trips <= commands["commit"] <= 3  # one, where one read finds them all


async def test_a_cached_transcript_that_cannot_be_committed_harms_no_neighbour(
    counted: Counted, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answered together, they all stayed behind with it, and came back together."""
    digest = _digest(tmp_path)
    whole = Outbox._arguments_of

    def arguments_of(outbox: Outbox, commit: Commit) -> list[Any]:
        if commit.outcome.id == "bad":
            raise UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")
        return whole(outbox, commit)

    monkeypatch.setattr(Outbox, "_arguments_of", arguments_of)
    async with queued(redis_url) as client:
        await client.transcribe("file:///gone.wav", digest=digest)
        names = ["a", "b", "bad", "c", "d"]
        await client.submit_many(
            [Submission(audio="file:///gone.wav", digest=digest, id=name) for name in names]
        )
        for name in set(names) - {"bad"}:
            assert (await client.wait(name, timeout=20)).cache == "hit"
        status = await client.status("bad")
    assert status is not None
    assert status.state == "queued"


async def test_the_first_cache_hit_of_a_client_is_three_look_ups_and_an_answer(
    counted: Counted, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = Counted()
    async with Client(redis_url) as client, connect(redis_url, name="operator") as redis:
        await redis.script_load(load_script("sensestream_producer.submit", "answer").source)
        sent.watch(client, monkeypatch)
        outcome = await client.transcribe("file:///gone.wav", digest=_digest(tmp_path))
    assert outcome.cache == "hit"
    assert sent.of("HMGET", "GET", "answer", "submit") == ({"HMGET": 2, "GET": 1, "answer": 1}, 4)
    assert counted.of("commit", "HGET") == ({}, 0)  # no worker has seen it


@pytest.mark.parametrize(
    ("count", "calls"),
    [
        (1, 1),
        (BATCH, 1 + BATCH // A_CALL),  # the first goes ahead, and the others gather meanwhile
    ],
)
async def test_hits_from_a_clients_local_cache_are_answered_together(
    counted: Counted, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    count: int, calls: int,
) -> None:  # fmt: skip
    sent, digest = Counted(), _digest(tmp_path)
    async with Client(redis_url) as client:
        await client.transcribe("file:///gone.wav", digest=digest)
        sent.watch(client, monkeypatch)
        many = [Submission(audio="file:///gone.wav", digest=digest) for _ in range(count)]
        for receipt in await client.submit_many(many):
            assert not isinstance(receipt, Exception)
            assert receipt.answer is not None
    assert sent.trips == [["answer"]] * calls
    assert counted.of("commit", "HGET") == ({}, 0)
