"""`sensestream pending`: what workers hold, and taking it from them, as an operator does it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sensestream_common.contract.keys import HANDED_BACK
from sensestream_producer.operations.pending import Pending, Release
from sensestream_producer.transport import RedisTransport

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker, exactly_once, started
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

SOON = 1.0  # seconds until a silent worker is known to be silent, in these tests


def sensestream(redis_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from sensestream_producer.cli import main; main()"]
    return subprocess.run(
        [*command, "--redis-url", redis_url, "pending", *arguments],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def listed(redis_url: str, *conditions: str) -> list[dict[str, Any]]:
    result = sensestream(redis_url, "list", "--json", *conditions)
    assert (result.returncode, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def owners(pipeline: Pipeline) -> dict[str, str]:
    return {row["message_id"].decode(): row["consumer"].decode() for row in pipeline.pending()}


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    path.touch()
    return path


@pytest.fixture
def holder(start_worker: StartWorker, gate: Path) -> WorkerProcess:
    """A worker that holds all it reads, at work on some of it, until the gate opens."""
    return start_worker(gate=gate, concurrency=1, reclaim_after=SOON)


def test_entries_of_a_living_worker_are_listed_and_not_taken_without_force(
    pipeline: Pipeline, holder: WorkerProcess, start_worker: StartWorker, clips: Path, gate: Path
) -> None:
    url = holder.redis_url
    entries = [pipeline.submit(write_clip(clips, n), id=f"call-{n}") for n in range(8)]
    wait_until_sync(
        lambda: len(started(pipeline)) == 4 and HANDED_BACK in owners(pipeline).values()
    )
    wait_until_sync(lambda: holder.holds(pipeline.redis, KEYS.requests) == 4)
    begun = set(started(pipeline))

    found = {each["entry"]: each for each in listed(url)}
    assert set(found) == set(entries)
    assert {each["consumer"] for each in found.values()} <= {holder.consumer, HANDED_BACK}
    first = found[entries[0]]
    assert (first["id"], first["lane"], first["holder"]) == ("call-0", "normal", "alive")
    assert first["audio"] == write_clip(clips, 0)
    assert 0 <= first["idle_ms"] < 5000
    assert {entry for entry, each in found.items() if each["attempts"]} == begun
    table = sensestream(url, "list", "call-0", entries[1]).stdout
    assert holder.consumer in table
    assert "alive" in table
    assert len(table.splitlines()) == 3
    assert listed(url, "--idle", "1h", "call-0") == listed(url, "--consumer", "nobody") == []

    before = owners(pipeline)
    refused = sensestream(url, "replay", "call-0")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "--force" in refused.stderr
    foreseen = sensestream(url, "replay", "--all", "--force", "--dry-run").stdout
    assert f"would take call-0\t{holder.consumer}" in foreseen.splitlines()
    assert owners(pipeline) == before

    forced = sensestream(url, "replay", "--consumer", holder.consumer, "--force")
    assert (forced.returncode, forced.stderr) == (0, f"{len(begun)} taken\n")
    assert set(owners(pipeline).values()) == {HANDED_BACK}
    assert started(pipeline) == []  # its start ended in no crash
    start_worker()
    outcomes = pipeline.wait_for(8)
    gate.unlink()
    wait_until_sync(lambda: holder.logged("request_answered_by_another"))
    assert exactly_once(pipeline, entries)
    assert {(o["status"], o["attempt"]) for o in outcomes} == {("completed", "1")}


def test_entries_of_a_frozen_worker_are_taken_at_once_and_charged_only_if_started(
    pipeline: Pipeline, holder: WorkerProcess, start_worker: StartWorker, clips: Path, gate: Path
) -> None:
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(3)]
    wait_until_sync(lambda: len(started(pipeline)) == 3)
    held = pipeline.submit(write_clip(clips, 0))  # joins the first, and is never started
    wait_until_sync(lambda: holder.holds(pipeline.redis, KEYS.requests) == 4)
    holder.signal(signal.SIGSTOP)
    wait_until_sync(lambda: {each["holder"] for each in listed(holder.redis_url)} == {"silent"})

    one = sensestream(holder.redis_url, "replay", held)
    assert (one.returncode, one.stdout.partition(":")[0]) == (0, held)
    assert owners(pipeline)[held] == HANDED_BACK
    again = sensestream(holder.redis_url, "replay", held)
    assert (again.returncode, "waits for a worker" in again.stderr) == (0, True)
    rest = sensestream(holder.redis_url, "replay", "--all")
    assert (rest.returncode, len(rest.stdout.splitlines())) == (0, 3)
    gate.unlink()
    start_worker()  # whose own reclaim would take what is silent after 15 s only
    outcomes = {o["entry"]: o for o in pipeline.wait_for(4)}
    assert exactly_once(pipeline, [*entries, held])
    first, *others = (outcomes[entry]["attempt"] for entry in entries)
    assert set(others) == {"2"}
    # Of the two that name one recording either leads, and the other joins it.
    assert (first, outcomes[held]["attempt"]) in {("2", "0"), ("0", "1")}


@pytest.mark.anyio
async def test_an_entry_that_changed_hands_after_it_was_listed_is_not_taken(
    pipeline: Pipeline, redis_url: str
) -> None:
    entry = pipeline.submit("file:///a.wav")
    for lane in (KEYS.requests, KEYS.requests_high):
        pipeline.redis.xgroup_create(lane, "workers", "0", mkstream=True)
    pipeline.redis.xreadgroup("workers", "silent-1", {KEYS.requests: ">"})
    link = RedisTransport(redis_url, retry_timeout=5)
    pending = Pending(link, KEYS)
    [seen] = [request async for request in pending.select()]
    pipeline.redis.xclaim(KEYS.requests, "workers", "other-2", 0, [entry], justid=True)
    assert (await pending.release(seen)).result is Release.MOVED
    assert owners(pipeline) == {entry: "other-2"}
    [seen] = [request async for request in pending.select()]
    pipeline.redis.hset(KEYS.worker("other-2"), "host", "b")  # it has come back
    assert (await pending.release(seen)).result is Release.ALIVE
    assert owners(pipeline) == {entry: "other-2"}
    assert (await pending.release(seen, force=True)).result is Release.RELEASED
    assert (await pending.release(seen, force=True)).result is Release.MOVED
    pipeline.redis.xack(KEYS.requests, "workers", entry)
    assert (await pending.release(seen)).result is Release.MOVED
    await link.close()


def test_a_pipeline_without_a_group_has_nothing_pending(pipeline: Pipeline, redis_url: str) -> None:
    pipeline.submit("file:///a.wav")
    assert listed(redis_url) == []
    nothing = sensestream(redis_url, "replay", "--all")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "0 taken\n")
    assert sensestream(redis_url, "replay").returncode == 2
