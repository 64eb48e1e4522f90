"""A worker that is told to end: it finishes or hands back what it has, and charges nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.pipeline.conftest import (
    KEYS,
    Pipeline,
    StartWorker,
    exactly_once,
    started,
)
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync


def test_sigterm_finishes_started_requests_and_hands_back_the_rest_uncharged(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    leaving = start_worker(gate=gate, concurrency=1)
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(20)]
    wait_until_sync(lambda: started(pipeline) and len(pipeline.pending()) == 20)
    leaving.signal(signal.SIGTERM)
    wait_until_sync(lambda: leaving.logged("draining"))
    mine = started(pipeline)
    gate.unlink()
    assert leaving.process.wait(20) == 0
    done = pipeline.outcomes()
    assert {o["entry"] for o in done} == set(mine)
    left = [row for row in pipeline.pending() if row["consumer"] != b"handed-back"]
    assert left == []
    names = [c["name"] for c in pipeline.redis.xinfo_consumers(KEYS.requests, "workers")]
    assert names == [b"handed-back"]
    began = time.monotonic()
    start_worker()
    outcomes = pipeline.wait_for(20)
    assert time.monotonic() - began < 12  # at once, not after the 15 s of a silent worker
    assert exactly_once(pipeline, entries)
    assert {o["attempt"] for o in outcomes} == {"1"}


def test_a_second_signal_ends_the_worker_at_once_and_loses_nothing(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    leaving = start_worker(gate=gate, concurrency=1)
    entry = pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: started(pipeline))
    leaving.signal(signal.SIGINT)
    wait_until_sync(lambda: leaving.logged("draining"))
    leaving.signal(signal.SIGINT)
    assert leaving.process.wait(8) == 0
    assert pipeline.redis.keys("*:lease:*") == []
    gate.unlink()
    start_worker()
    [outcome] = pipeline.wait_for(1)
    assert outcome["entry"] == entry
    assert outcome["attempt"] == "1"


def test_a_drain_does_not_undo_the_crash_of_another_worker(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    victim = start_worker(gate=gate, concurrency=1, reclaim_after=1)
    entry = pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: started(pipeline) == [entry])
    holder = start_worker(gate=gate, concurrency=1, reclaim_after=1, drain_timeout=0.5)
    pipeline.submit(write_clip(clips, 2), high=True)
    wait_until_sync(lambda: len(started(pipeline)) == 2)
    victim.kill()
    # The holder is busy, so the suspect waits in its hands to be alone.
    wait_until_sync(lambda: holder.holds(pipeline.redis, KEYS.requests) == 1)
    holder.terminate()
    [row] = pipeline.redis.xpending_range(KEYS.requests, "workers", "-", "+", 10)
    assert row["consumer"] == b"handed-back"
    assert row["times_delivered"] == 2


def test_unstarted_requests_are_handed_back_before_the_drain_has_ended(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    leaving = start_worker(gate=gate, concurrency=1, read_ahead=8)
    entries = [pipeline.submit(write_clip(clips, n)) for n in range(6)]
    wait_until_sync(lambda: started(pipeline) and len(pipeline.pending()) == 6)
    leaving.signal(signal.SIGTERM)
    wait_until_sync(lambda: leaving.logged("draining"))
    wait_until_sync(lambda: leaving.holds(pipeline.redis, KEYS.requests) == len(started(pipeline)))
    assert len(started(pipeline)) < 6
    assert leaving.process.poll() is None
    gate.unlink()
    assert leaving.process.wait(20) == 0
    start_worker()
    pipeline.wait_for(6)
    assert exactly_once(pipeline, entries)
