"""After its deadline an answer is worthless: it is refused then, wherever its request waits."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker, started
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync


@pytest.fixture
def silent_site() -> Iterator[str]:
    """A site that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a.wav"


def soon(milliseconds: int) -> str:
    return str(int(time.time() * 1000) + milliseconds)


def test_a_request_that_waits_for_the_engine_expires_at_its_deadline(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    start_worker(gate=gate, concurrency=1)
    patient = pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: any(row["times_delivered"] > 1 for row in pipeline.pending()))
    # Three that the engine has room for, and more that go back to the stream and wait there.
    late = [pipeline.submit(write_clip(clips, n), deadline=soon(700)) for n in range(2, 14)]
    wait_until_sync(lambda: len(pipeline.outcomes()) == 12, timeout=20)
    assert gate.exists()
    assert {o["entry"]: o["error"] for o in pipeline.outcomes()} == dict.fromkeys(late, "expired")
    gate.unlink()
    assert pipeline.wait_for(13)[-1]["entry"] == patient
    assert pipeline.redis.xlen(KEYS.dead) == 0


def test_a_slow_fetch_is_cut_short_at_the_deadline(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, silent_site: str
) -> None:
    start_worker(allow_private_hosts=1)
    began = time.monotonic()
    pipeline.submit(silent_site, deadline=soon(700))
    [outcome] = pipeline.wait_for(1, timeout=20)
    assert outcome["error"] == "expired"
    assert time.monotonic() - began < 15  # and not the 30 s that a fetch may take, four times


def test_a_follower_does_not_wait_past_its_own_deadline(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    start_worker(gate=gate, concurrency=1)
    audio = write_clip(clips, 1)
    pipeline.submit(audio)
    wait_until_sync(lambda: started(pipeline))
    late = pipeline.submit(audio, deadline=str(int(time.time() * 1000) + 700))
    [outcome] = wait_until_sync(pipeline.outcomes)
    assert outcome["entry"] == late
    assert outcome["error"] == "expired"
    gate.unlink()
    assert Counter(o["status"] for o in pipeline.wait_for(2)) == {"completed": 1, "failed": 1}
