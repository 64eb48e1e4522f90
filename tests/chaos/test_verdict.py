"""The verdict of a chaos run: what it must not overlook when it says that all is well."""

from __future__ import annotations

from collections import Counter

import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys

from chaos.ledger import Ledger, Subscriber
from chaos.verdict import Verdict, await_nothing_held, beyond_two_seconds

KEYS = Keys("sensestream")
SUBMITTED = Counter(a=1, b=1, c=1)


def verdict(url: str, seen: Counter[str]) -> Verdict:
    with Redis.from_url(url) as redis:
        for lane in (KEYS.requests, KEYS.requests_high):
            redis.xgroup_create(lane, "workers", id="0", mkstream=True)
        return Verdict.of(redis, KEYS, SUBMITTED, seen)


def test_one_outcome_for_each_request_passes(redis_url: str) -> None:
    assert verdict(redis_url, SUBMITTED).passed


@pytest.mark.parametrize(
    ("seen", "figure"),
    [
        (Counter(a=1, b=1), "lost"),
        (Counter(a=1, b=1, c=2), "duplicates"),
        (Counter(a=1, b=1, c=1, d=1), "foreign"),
    ],
)
def test_any_other_count_fails_by_its_name(redis_url: str, seen: Counter[str], figure: str) -> None:
    found = verdict(redis_url, seen)
    assert not found.passed
    figures = {name: getattr(found, name) for name in ("lost", "duplicates", "foreign")}
    assert figures == {"lost": 0, "duplicates": 0, "foreign": 0} | {figure: 1}


@pytest.mark.parametrize("key", [KEYS.lease("x"), KEYS.crashes("x"), KEYS.worker("w")])
def test_a_key_that_a_worker_left_behind_fails(redis_url: str, key: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(key, "1", ex=10)
    assert not verdict(redis_url, SUBMITTED).clean


def test_keys_that_a_fault_spoilt_for_some_seconds_are_waited_for(redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        alias = KEYS.audio("sha256:" + "0" * 64, "1")
        redis.rpush(alias, "not yours")
        redis.pexpire(alias, 300)
        await_nothing_held(redis, KEYS)
    assert verdict(redis_url, SUBMITTED).clean


def test_everysec_excuses_the_last_two_seconds_before_a_kill_and_nothing_else() -> None:
    ledger, subscriber = Ledger(), Subscriber("redis://127.0.0.1:1/0", KEYS)
    for name, acknowledged in (("early", 10.0), ("late", 18.5), ("answered", 10.0)):
        ledger.add(name)
        ledger.acknowledged[name] = acknowledged
    for entry in ("1-0", "1-0", "2-0"):
        subscriber._count({"id": "answered", "entry": entry, "cache": "hit"})
    subscriber.first_seen["answered"] = 19.0
    # Lost long before the kill: "early". Answered again under another entry: nobody can tell.
    assert beyond_two_seconds(ledger, subscriber, [20.0]) == 2
    assert beyond_two_seconds(ledger, subscriber, [11.0, 20.0]) == 1
    assert beyond_two_seconds(ledger, subscriber, []) == 4
