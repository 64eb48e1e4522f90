"""The master dies and its replica takes over: three real sentinels, and the work goes on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from sensestream_common.contract.outcome import Outcome
from sensestream_producer import Client, Gap, Submission

from chaos.sentinels import SentinelSet
from tests.pipeline.conftest import KEYS, StartWorker
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.anyio, pytest.mark.long]

BEFORE, DURING, AFTER = 4, 8, 4


@pytest.fixture
def sentinels(redis_executable: str) -> Iterator[SentinelSet]:
    with SentinelSet(executable=redis_executable) as running:
        yield running


def replicated(sentinels: SentinelSet) -> None:
    """Return when the replica has all that the master has acknowledged so far."""
    with sentinels.master.client() as master:
        master.set("{sensestream}:marker", "1")  # WAIT looks at this connection's writes alone
        assert master.wait(1, 10_000) == 1


async def test_a_replicated_request_is_answered_once_after_a_failover(
    sentinels: SentinelSet, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    worker = start_worker(url=sentinels.url, gate=gate, concurrency=1, reclaim_after=1)
    numbers = iter(range(BEFORE + DURING + AFTER))

    def submissions(count: int) -> list[Submission]:
        chosen = [next(numbers) for _ in range(count)]
        return [Submission(audio=write_clip(clips, n), id=f"r{n}") for n in chosen]

    async with Client(sentinels.url) as client:
        following = asyncio.create_task(collect(client, BEFORE + DURING + AFTER))
        for receipt in await client.submit_many(submissions(BEFORE)):
            assert not isinstance(receipt, Exception)
            await client.wait(receipt.id)
        gate.touch()
        await client.submit_many(submissions(DURING))
        with sentinels.master.client() as master:
            wait_until_sync(lambda: worker.holds(master, KEYS.requests))
        await asyncio.to_thread(replicated, sentinels)

        await asyncio.to_thread(sentinels.fail_over)
        gate.unlink()
        receipts = await client.submit_many(submissions(AFTER))
        assert not [receipt for receipt in receipts if isinstance(receipt, Exception)]
        outcomes = await asyncio.wait_for(following, 60)
        repeat = await client.transcribe(write_clip(clips, 0))

    ids = Counter(outcome.id for outcome in outcomes)
    assert ids == Counter(f"r{n}" for n in range(BEFORE + DURING + AFTER))
    assert all(outcome.completed for outcome in outcomes)
    assert repeat.cache == "hit"  # heard before the failover
    assert worker.process.poll() is None


async def collect(client: Client, count: int) -> list[Outcome]:
    """The next `count` outcomes, from the beginning, across whatever happens."""
    outcomes: list[Outcome] = []
    async for event in client.follow("0"):
        assert not isinstance(event, Gap)
        outcomes.append(event.outcome)
        if len(outcomes) == count:
            break
    return outcomes
