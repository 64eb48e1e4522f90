"""The soak's judgement: what it must not overlook when it says that nothing grows or stays."""

from __future__ import annotations

import pytest
from redis import Redis
from sensestream_common.contract.keys import KEY_MAP, KeyKind, Keys, Retention
from sensestream_consumer.settings import WorkerSettings

from chaos.readings import growth
from chaos.retention import count_by_kind, retention_faults

KEYS = Keys("sensestream")
SETTINGS = WorkerSettings(result_ttl=60, request_ttl=60, transcripts_max=2, dead_max=2)


def test_keys_that_end_as_the_key_map_says_are_no_fault(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.hset(KEYS.stats, "hits", 1)
        redis.hset(KEYS.result("x"), "transcript", "{}")
        redis.expire(KEYS.result("x"), 60)
        redis.set(KEYS.lease("x"), "me", px=5000)
        redis.xadd(KEYS.transcripts, {"id": "a"})
        redis.xdel(KEYS.requests, redis.xadd(KEYS.requests, {"audio": "file:///a"}))
        assert retention_faults(redis, KEYS, SETTINGS) == []
        assert count_by_kind(redis, KEYS)["result:*"] == 1


MORTAL = [k for k in KEY_MAP if k.retention in (Retention.TTL, Retention.QUEUED)]


@pytest.mark.parametrize("kind", MORTAL, ids=lambda kind: kind.pattern)
def test_every_kind_of_key_that_expires_has_a_longest_life(redis_url: str, kind: KeyKind) -> None:
    key = KEYS.prefix + kind.pattern.replace("*", "x")
    with Redis.from_url(redis_url) as redis:
        if kind.type == "hash":
            redis.hset(key, "field", "x")
        else:
            redis.set(key, "x")
        redis.expire(key, 365 * 86_400)
        [fault] = retention_faults(redis, KEYS, SETTINGS)
        assert "should at most" in fault


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (("HSET", KEYS.request("a"), "state", "done"), "has no TTL"),
        (("SET", KEYS.upload("a"), "bytes"), "has no TTL"),
        (("SET", KEYS.audio("x", "1"), "y", "EX", "100"), "should at most 60 s"),
        (("SET", KEYS.stats, "text"), "is a string, not a hash"),
        (("SET", KEYS.prefix + "lock:a", "me", "EX", "1"), "not in the key map"),
        (("SET", "elsewhere", "me"), "not in the key map"),
        (("XADD", KEYS.requests, "*", "audio", "file:///a"), "should at most 0"),
    ],
)
def test_a_key_that_would_never_end_is_named(
    redis_url: str, command: tuple[str, ...], complaint: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.execute_command(*command)
        [fault] = retention_faults(redis, KEYS, SETTINGS)
    assert complaint in fault
    assert command[1] in fault


def test_a_leak_shows_through_the_noise_and_the_first_quarter_does_not_count() -> None:
    times = [10.0 * step for step in range(360)]
    noisy = [100.0 + step % 7 for step in range(360)]
    assert abs(growth(times, noisy).share) < 0.01
    settling = [50.0 if step < 60 else value for step, value in enumerate(noisy)]
    assert abs(growth(times, settling).share) < 0.01
    leaking = [value + step / 36 for step, value in enumerate(noisy)]
    assert growth(times, leaking).share > 0.05
