"""The commit's script and its caller agree on the names, the order and the number of its parts."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import pytest
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import Lane
from sensestream_common.contract.outcome import Outcome
from sensestream_consumer.broker.deliveries import Delivery, InFlight, Lease
from sensestream_consumer.broker.outbox import (
    COMMIT_ARGUMENTS,
    COMMIT_KEYS,
    COMMIT_LISTS,
    CacheWrite,
    Commit,
    Outbox,
)

from tests.consumer.conftest import KEYS, failure_of, transcript_of

pytestmark = pytest.mark.anyio

SCRIPT = load_script("sensestream_consumer.broker.lua", "commit").source

SHARED_KEYS, SHARED_ARGUMENTS = 4, 3
LEASE = Lease(KEYS.lease("r"), "one:1")


def unpacked(source: str) -> tuple[str, ...]:
    """The names that the script gives to a stretch of KEYS or ARGV."""
    [names] = re.findall(rf"local ([\w, \n]+) = unpack\({source}, \w+, ", SCRIPT)
    return tuple(re.findall(r"\w+", names))


def declared() -> list[list[str]]:
    """The numbered names of the header, in groups that each begin with 1."""
    groups: list[list[str]] = []
    for number, name in re.findall(r"^--\s+(\d+) (\w+)  ", SCRIPT, re.MULTILINE):
        if number == "1":
            groups.append([])
        groups[-1].append(name)
        assert int(number) == len(groups[-1])
    return groups


def test_both_headers_have_the_same_names_and_the_script_uses_them() -> None:
    assert declared() == [[*COMMIT_KEYS], [*COMMIT_ARGUMENTS], [*COMMIT_LISTS]]
    assert unpacked("KEYS") == COMMIT_KEYS
    assert unpacked("ARGV") == COMMIT_ARGUMENTS
    [lists] = re.findall(r"local ([\w, ]+) = list\(\)", SCRIPT)
    assert tuple(lists.split(", ")) == COMMIT_LISTS
    sizes = f"OWN_KEYS, OWN_ARGUMENTS = {len(COMMIT_KEYS)}, {len(COMMIT_ARGUMENTS)}\n"
    assert sizes in SCRIPT


class Recorder:
    """A broker that keeps what it is told to run."""

    keys, consumer = KEYS, "one"

    async def run(self, _script: object, keys: list[str], args: list[Any]) -> list[list[int]]:
        self.sent = keys, args
        return [[1]] * ((len(keys) - SHARED_KEYS) // len(COMMIT_KEYS))


async def sent(*commits: Commit) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
    """By name what is sent for each of the commits; it fails where the numbers do not agree."""
    recorder: Any = Recorder()
    await Outbox(recorder, InFlight(), request_ttl=100, decode_revision="1").commit_all(commits)
    keys, arguments = recorder.sent[0][SHARED_KEYS:], iter(recorder.sent[1][SHARED_ARGUMENTS:])
    assert len(keys) == len(commits) * len(COMMIT_KEYS)
    by_key = [
        dict(zip(COMMIT_KEYS, keys[at:], strict=False))
        for at in range(0, len(keys), len(COMMIT_KEYS))
    ]
    by_argument: list[dict[str, Any]] = []
    for _ in commits:
        named = {name: next(arguments) for name in COMMIT_ARGUMENTS}
        for name in COMMIT_LISTS:
            named[name] = [next(arguments) for _ in range(next(arguments))]
        by_argument.append(named)
    assert list(arguments) == []
    return by_key, by_argument


numbers = count(1)


def delivery(**fields: str) -> Delivery:
    encoded = {name.encode(): value.encode() for name, value in fields.items()}
    return Delivery(Lane.HIGH, f"{next(numbers)}-0", encoded)


def finished(delivered: Delivery, **fields: Any) -> Outcome:
    return transcript_of(delivered, **fields)


async def test_each_part_is_sent_under_its_name() -> None:
    missed = delivery(id="a", audio=f"redis:{KEYS.upload('a')}")
    write = CacheWrite(
        result="r", transcript="{}", alias="sha256:0", alias_value="f" * 64, ttl_ms=5
    )
    completed = Commit(missed, finished(missed, id="a"), write, LEASE, "http://a/")
    failing = delivery(audio="file:///a.wav")
    failed = Commit(failing, failure_of(failing, ErrorCode.AUDIO_NOT_FOUND), CacheWrite())
    hit_of = delivery(audio="file:///a.wav")
    hit = Commit(hit_of, finished(hit_of), CacheWrite("r", ttl_ms=5, expected_sha1="e" * 40))
    keys, arguments = await sent(completed, failed, hit)

    assert keys[0] == {
        "lane": KEYS.requests_high,
        "request": KEYS.request("a"),
        "upload": KEYS.upload("a"),
        "result": KEYS.result("r"),
        "audio": KEYS.audio("sha256:0", "1"),
        "lease": LEASE.key,
        "crashes": KEYS.crashes(completed.outcome.digest),
    }
    first = arguments[0]
    assert (first["entry"], first["must_own"], first["status"]) == (missed.entry, 0, "completed")
    assert (first["carried_id"], first["upload_ttl"], first["result_ttl"]) == (1, 0, 5)
    assert (first["alias_value"], first["lease_value"]) == ("f" * 64, LEASE.value)
    assert (first["forget_crashes"], first["expected_sha1"]) == (1, "")
    assert first["stored"] == ["transcript", "{}", "model", "m"]
    assert first["webhook"] == ["url", "http://a/", "id", "a"]
    assert first["counters"] == ["completed", "misses"]

    assert set(keys[1].values()) == {KEYS.requests_high, KEYS.request(failing.entry), KEYS.none}
    assert (arguments[1]["must_own"], arguments[1]["upload_ttl"]) == (1, "")
    assert "dead:error" in arguments[1]["dead_letter"]
    assert arguments[1]["counters"] == ["failed", "dead"]

    assert arguments[2]["expected_sha1"] == "e" * 40
    assert arguments[2]["stored"] == arguments[2]["dead_letter"] == []
    assert arguments[2]["fields"][:2] == ["id", hit_of.entry]
