"""`sensestream cache`: what an operator counts, warms and forgets, on real results of a worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer.cli import sensestream
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.clips import write_clip
from tests.support.workers import WorkerProcess

Invoke = Callable[..., Result]
KEYS = Keys("sensestream")


@pytest.fixture
def redis(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def invoke(redis_url: str) -> Invoke:
    def run(*arguments: str, **options: object) -> Result:
        command = ["--redis-url", redis_url, "cache", *arguments]
        return CliRunner().invoke(sensestream, command, **options)  # type: ignore[arg-type]

    return run


def results(redis: Redis, pattern: str = "result") -> int:
    # A set: SCAN gives some keys twice while Redis makes its table smaller.
    return len(set(redis.scan_iter(f"{KEYS.prefix}{pattern}:*")))


def keep(redis: Redis, name: str, model: str) -> None:
    """A result as a worker's commit leaves it."""
    redis.hset(KEYS.result(name), mapping={"transcript": "{}", "model": model})


@pytest.mark.usefixtures("redis")
def test_warmed_recordings_are_cache_hits(
    invoke: Invoke, redis_url: str, redis: Redis, tmp_path: Path
) -> None:
    worker = WorkerProcess(redis_url, tmp_path, tmp_path / "worker.log").wait_ready()
    try:
        clips = [write_clip(tmp_path, number) for number in range(3)]
        listed = "\n".join([*clips[1:], "", (tmp_path / "none.wav").as_uri()])
        warmed = invoke("warm", clips[0], "--from", "-", "--language", "en", input=listed)
        assert warmed.stdout == "3 transcribed, 0 cached already, 1 failed\n"
        assert "none.wav: audio_not_found" in warmed.stderr
        assert warmed.exit_code == 1
        again = invoke("warm", *clips, "--language", "en")
        assert (again.exit_code, again.stdout) == (0, "0 transcribed, 3 cached already, 0 failed\n")
        otherwise = invoke("warm", clips[0], "--language", "zh")
        assert otherwise.stdout == "1 transcribed, 0 cached already, 0 failed\n"
        found = json.loads(invoke("stats", "--json").stdout)
    finally:
        worker.terminate()
    assert found["results"] == results(redis) == 4
    assert list(found["models"].values()) == [4]
    assert (found["hits"], found["misses"], found["hit_rate"]) == (3, 4, 3 / 7)
    assert 0 < found["bytes"] < 100_000
    assert found["evicted"] == 0


def test_results_are_counted_and_cleared_by_model_over_many_pages(
    invoke: Invoke, redis: Redis
) -> None:
    with redis.pipeline() as pipe:
        for number in range(2500):
            keep(pipe, f"old-{number}", "old")
        pipe.execute()
    keep(redis, "new", "new")
    redis.set(KEYS.audio("sha256:1", "old"), "a" * 64)
    redis.set(KEYS.result("no-hash"), "what somebody else wrote")
    assert json.loads(invoke("stats", "--json").stdout)["models"] == {
        "old": 2500,
        "new": 1,
        "unknown": 1,
    }
    assert invoke("clear", "--model", "old", "--dry-run").stdout == "2500 would be removed\n"
    assert results(redis) == 2502
    assert invoke("clear", "--model", "old").stdout == "2500 removed\n"
    assert (results(redis), results(redis, "audio")) == (2, 1)
    assert invoke("clear", "--all").stdout == "2 removed\n"
    assert (results(redis), results(redis, "audio")) == (0, 0)


def test_clear_removes_only_results(invoke: Invoke, redis: Redis) -> None:
    redis.xadd(KEYS.requests, {"audio": "file:///a.wav"})
    redis.set(KEYS.upload("a"), "bytes")
    redis.hset(KEYS.request("a"), "state", "queued")
    redis.hset("{other}:result:1", "model", "old")
    before = set(redis.keys())
    keep(redis, "a", "old")
    invoke("clear", "--all")
    assert set(redis.keys()) == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--fail-hit-rate-below", "0.5"), "the hit rate is 20.0%, below 50.0%"),
        (("--fail-results-above", "0"), "1 results are kept, more than 0"),
    ],
)
def test_stats_outside_the_limits_exit_with_status_1(
    invoke: Invoke, redis: Redis, arguments: tuple[str, str], told: str
) -> None:
    keep(redis, "a", "model")
    assert invoke("stats", *arguments).exit_code == int(arguments[0] == "--fail-results-above")
    redis.hset(KEYS.stats, mapping={"hits": 1, "coalesced": 1, "misses": 8})
    result = invoke("stats", *arguments)
    assert result.exit_code == 1
    assert told in result.stderr
    assert (
        invoke("stats", "--fail-hit-rate-below", "0.2", "--fail-results-above", "1").exit_code == 0
    )


@pytest.mark.parametrize("arguments", [("clear",), ("clear", "--all", "--model", "a"), ("warm",)])
def test_clear_and_warm_without_a_choice_are_usage_errors(
    invoke: Invoke, arguments: tuple[str, ...]
) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "--" in result.stderr
