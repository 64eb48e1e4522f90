"""Watching a worker from outside: what its endpoint says while it works, waits and leaves."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from sensestream_producer import blocking
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import write_clip
from tests.support.ports import free_port
from tests.support.waiting import wait_until_sync

OwnRedis = Callable[..., EmbeddedRedis]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def port() -> int:
    return free_port()


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """The status and the body of a page."""
    try:
        with urlopen(
            Request(f"http://127.0.0.1:{port}{path}", headers=headers), timeout=10
        ) as page:
            return page.status, page.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def scrape(port: int) -> Samples:
    status, text = get(port, "/metrics")
    assert status == 200
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"sensestream_{name}", frozenset(labels.items())]


def scraped(port: int, name: str, expected: float) -> Samples:
    """A scrape that has this value, or nothing."""
    seen = scrape(port)
    return seen if value(seen, name) == expected else {}


def reason(port: int) -> str:
    """Why the worker says that it is not ready; empty when it is."""
    status, text = get(port, "/health/ready")
    said = json.loads(text)
    assert (status == 200) == said["ready"]
    return str(said.get("reason", ""))


def unreachable(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) != 0


def test_a_scrape_counts_requests_and_their_outcomes(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, port: int
) -> None:
    worker = start_worker(metrics_port=port)
    audio = write_clip(clips, 1)
    pipeline.submit(audio)
    pipeline.wait_for(1)
    pipeline.submit(audio)
    pipeline.submit("clip.wav")
    pipeline.submit(clips.joinpath("none.wav").as_uri(), high=True)
    # A worker counts what it has answered once Redis has told it so.
    seen = wait_until_sync(lambda: scraped(port, "queue_wait_seconds_count", 4))
    assert value(seen, "deliveries_total", source="new") == 4
    assert value(seen, "outcomes_total", status="completed", cache="miss", error="") == 1
    assert value(seen, "outcomes_total", status="completed", cache="hit", error="") == 1
    assert value(seen, "outcomes_total", status="failed", cache="", error="bad_request") == 1
    assert value(seen, "dead_lettered_total", error="audio_not_found") == 1
    assert value(seen, "audio_seconds_total", cache="miss") == 0.5
    for stage, passed in {"fetch": 3, "decode": 1, "queue": 1, "engine": 1, "commit": 4}.items():
        assert value(seen, "stage_seconds_count", stage=stage) == passed, stage
    assert value(seen, "request_seconds_count", status="completed", cache="hit") == 1
    assert value(seen, "engine_capacity") >= 1
    assert value(seen, "redis_up") == value(seen, "ready") == 1
    [info] = [dict(labels) for name, labels in seen if name == "sensestream_worker_info"]
    assert (info["consumer"], info["pipeline"], info["device"]) == (
        worker.consumer, "sensestream", "cpu",
    )  # fmt: skip
    assert any(name == "process_resident_memory_bytes" for name, _ in seen)


def test_cache_hits_answered_at_submit_time_are_counted_for_the_pipeline(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, port: int, redis_url: str
) -> None:
    start_worker(metrics_port=port)
    clip = Path(unquote(urlsplit(write_clip(clips, 1)).path))
    with blocking.Client(redis_url) as client:
        uses = [client.transcribe(clip).cache for _ in range(3)]
    assert uses == ["miss", "hit", "hit"]
    seen = scrape(port)
    assert value(seen, "outcomes_total", status="completed", cache="miss", error="") == 1
    assert sum(n for (name, _), n in seen.items() if name == "sensestream_outcomes_total") == 1
    for use, count in {"hit": 2, "miss": 1, "coalesced": 0}.items():
        labels = {"pipeline": "sensestream", "cache": use}
        assert value(seen, "completed_requests_total", **labels) == count


def test_many_workers_tell_the_same_backlog_and_each_its_own_work(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path, port: int
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    other = free_port()
    for each in (port, other):
        start_worker(gate=gate, concurrency=1, read_ahead=2, metrics_port=each)
    for n in range(7):
        pipeline.submit(write_clip(clips, n), high=n == 0)
    wait_until_sync(lambda: len(pipeline.pending()) == 4)
    pipeline.redis.xadd(KEYS.dead, {"audio": "file:///gone"})

    for each in (port, other):
        seen = wait_until_sync(partial(scraped, each, "engine_busy", 1))
        assert value(seen, "in_flight_requests") == 2
        lanes = [{"pipeline": "sensestream", "lane": lane} for lane in ("high", "normal")]
        assert [value(seen, "backlog_requests", **lane) for lane in lanes] == [1, 6]
        assert sum(value(seen, "pending_requests", **lane) for lane in lanes) == 4
        assert sum(value(seen, "undelivered_requests", **lane) for lane in lanes) == 3
        assert value(seen, "oldest_pending_seconds", **lanes[1]) > 0
        assert value(seen, "oldest_undelivered_seconds", **lanes[1]) > 0
        assert value(seen, "dead_letters", pipeline="sensestream") == 1
    gate.unlink()
    pipeline.wait_for(7)


def test_groups_made_again_after_flushall_are_counted(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, port: int
) -> None:
    start_worker(metrics_port=port)
    assert value(scrape(port), "groups_recreated_total") == 0
    pipeline.redis.flushall()
    pipeline.submit(write_clip(clips, 1))
    pipeline.wait_for(1)
    assert value(scrape(port), "groups_recreated_total") >= 1


def test_a_worker_is_not_ready_while_redis_is_down_and_is_again_after(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path, port: int
) -> None:
    server = own_redis(appendonly=True)
    server.kill()
    worker = start_worker(url=server.url, ready=False, reclaim_after=1, metrics_port=port)
    wait_until_sync(lambda: not unreachable(port), timeout=30)
    wait_until_sync(lambda: reason(port) == "Redis has not answered yet", timeout=30)
    server.restart()
    worker.wait_ready()
    wait_until_sync(lambda: not reason(port))
    server.kill()
    wait_until_sync(lambda: reason(port).startswith("Redis has not answered for"))
    assert get(port, "/health") == (200, '{"alive": true}\n')
    away = scrape(port)  # what is counted is still told; what Redis would have to tell is not
    assert value(away, "redis_up") == value(away, "ready") == 0
    assert not [name for name, _ in away if name == "sensestream_backlog_requests"]
    server.restart()
    wait_until_sync(lambda: not reason(port))
    with Redis.from_url(server.url) as redis:
        pipeline = Pipeline(redis)
        pipeline.submit(write_clip(clips, 1))
        pipeline.wait_for(1)
    back = scrape(port)
    assert value(back, "redis_reconnects_total", connection="commands") >= 1
    assert value(back, "retries_total", operation="redis") >= 1


def test_a_draining_worker_is_alive_and_not_ready(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path, port: int
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    worker = start_worker(gate=gate, concurrency=1, metrics_port=port)
    assert reason(port) == ""
    pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: value(scrape(port), "engine_busy") == 1)
    worker.signal(signal.SIGTERM)
    wait_until_sync(lambda: reason(port) == "it was told to stop")
    assert get(port, "/health")[0] == 200
    gate.unlink()
    assert worker.process.wait(20) == 0
    assert unreachable(port)


def test_a_port_that_is_taken_is_told_in_a_sentence(
    start_worker: StartWorker, port: int, redis_url: str
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        worker = start_worker(metrics_port=port, ready=False)
        assert worker.process.wait(30) == 2
    message = worker.log_file.read_text()
    assert f"SENSESTREAM_METRICS_PORT={port}" in message
    assert "Traceback" not in message
