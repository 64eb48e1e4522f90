"""docs/users.acl: a Redis user for each role, who may do what the role needs and no more."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from click.testing import CliRunner
from redis import Redis
from redis.exceptions import RedisError
from sensestream_producer import Client, FollowedOutcome, Replay
from sensestream_producer.cli import sensestream
from sensestream_producer.gateway.signing import new_secret
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import KEYS, StartWorker
from tests.support.clips import write_clip
from tests.support.gateways import GatewayProcess
from tests.support.receiver import receiving
from tests.support.waiting import wait_until_sync

pytestmark = [pytest.mark.anyio, pytest.mark.long]

USERS = Path(__file__).parents[2] / "docs" / "users.acl"
ROLES = ("worker", "client", "subscriber", "gateway", "operator")


class GuardedRedis:
    """A server with the users of the document; its own default user is the administrator's."""

    def __init__(self, server: EmbeddedRedis) -> None:
        self.server = server
        self.admin: Any = server.client()
        for line in USERS.read_text("utf-8").splitlines():
            if not line.startswith("#"):
                self.set_user(line)

    def set_user(self, line: str) -> None:
        """Take one line of an ACL file."""
        self.admin.execute_command("ACL", "SETUSER", *line.split()[1:])

    def url(self, role: str) -> str:
        return f"redis://{role}:{quote(f'change-{role}')}@127.0.0.1:{self.server.port}/0"

    def refusals(self) -> list[tuple[str, str, str]]:
        """User, reason and object of every command that was refused so far."""
        told = ("username", "reason", "object")
        return [tuple(entry[name] for name in told) for entry in self.admin.acl_log()]

    def unexpected(self) -> list[tuple[str, str, str]]:
        """Refusals but those of CONFIG GET, which would tell passwords, and is asked in vain; and
        of the terms for repeats, which tell a client that these are not for it.
        """
        terms = ("client", "key", KEYS.reuse_policy)
        return [
            each for each in self.refusals() if not each[2].startswith("config") and each != terms
        ]


@pytest.fixture
def guarded(own_redis: Callable[..., EmbeddedRedis]) -> Iterator[GuardedRedis]:
    redis = GuardedRedis(own_redis(tcp=True, appendonly=True))
    with redis.admin:
        yield redis


async def test_each_role_can_do_its_work(
    guarded: GuardedRedis, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker(url=guarded.url("worker"))
    reference = write_clip(clips, 1)
    clip = Path(unquote(urlsplit(reference).path))
    async with (
        Client(guarded.url("client")) as client,
        Client(guarded.url("subscriber")) as subscriber,
        Client(guarded.url("operator")) as operator,
    ):
        position = await subscriber.position()
        following = asyncio.create_task(first(subscriber.follow(position)))
        listening = asyncio.create_task(first(subscriber.listen()))
        heard = await client.transcribe(reference, id="by-reference")
        uploaded = await client.transcribe(clip, id="uploaded", priority="high")
        failed = await client.transcribe((clips / "none.wav").as_uri(), id="missing")
        assert heard.completed
        assert (uploaded.cache, uploaded.worker) == ("hit", worker.consumer)
        guarded.admin.hset(
            KEYS.reuse_policy, "untrusted_digest_until", 1
        )  # as of one that trusted no digest
        wait_until_sync(
            lambda: guarded.admin.hget(KEYS.reuse_policy, "untrusted_digest_until") == b"0",
            timeout=10,
        )
        async with Client(guarded.url("gateway")) as trusted:
            repeat = await trusted.transcribe(reference, digest=uploaded.digest)
        assert repeat.worker.startswith("client-")
        assert failed.error == "audio_not_found"
        followed = await asyncio.wait_for(following, 20)
        assert isinstance(followed, FollowedOutcome)
        assert followed.outcome.id == heard.id
        await asyncio.wait_for(listening, 20)
        assert await client.status("uploaded")
        assert (await client.pipeline_status()).workers
        letters = [letter async for letter in operator.dead.select()]
        replayed = await operator.dead.replay(letters[0])
        assert replayed.result is Replay.QUEUED
        again = await client.wait("missing")
        assert again.error == "audio_not_found"
    assert worker.terminate() == 0
    assert guarded.unexpected() == []


def test_a_gateway_can_do_its_work(
    guarded: GuardedRedis, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    worker = start_worker(url=guarded.url("worker"))
    clip = Path(unquote(urlsplit(write_clip(clips, 1)).path)).read_bytes()
    settings = {"webhook_secret": new_secret(), "webhook_allow_private": 1, "references": "file"}
    with (
        receiving() as hooks,
        GatewayProcess(guarded.url("gateway"), tmp_path / "gateway.log", **settings) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        for use in ("miss", "hit"):
            answer = http.post("/v1/audio/transcriptions", files={"file": clip})
            assert answer.headers["x-sensestream-cache"] == use
        job = {"audio": "file:///none.wav", "id": "none", "callback_url": f"{hooks.url}/told"}
        failed = http.post("/v1/transcriptions?wait=30", json=job).json()
        assert failed["status"] == "failed"
        wait_until_sync(lambda: len(hooks.at("/told")) == 1)
        assert http.get("/v1/transcriptions/none").json()["status"] == "failed"
        for path in ("/v1/models", "/v1/status", "/cache/stats", "/health/ready"):
            assert http.get(path).status_code == 200, path
        with http.stream("GET", "/v1/events?from=0") as events:
            assert next(events.iter_lines())
        [letter] = http.get("/v1/dead-letters").json()["data"]
        replayed = http.post(f"/v1/dead-letters/{letter['letter']}/replay")
        assert replayed.is_success, (replayed.text, guarded.refusals())
        wait_until_sync(lambda: len(hooks.at("/told")) == 2)
        assert gateway.terminate() == 0
    assert worker.terminate() == 0
    assert guarded.unexpected() == []


async def first(events: Any) -> Any:
    return await anext(events)


def test_an_operator_can_give_every_command(
    guarded: GuardedRedis, start_worker: StartWorker
) -> None:
    start_worker(url=guarded.url("worker"))
    guarded.admin.hset(KEYS.result("a"), "model", "m")
    for command in (
        "status",
        "dead list",
        "pending list",
        "cache stats",
        "cache clear --all",
        "doctor --no-worker",
    ):
        arguments = ["--redis-url", guarded.url("operator"), *command.split()]
        told = CliRunner().invoke(sensestream, arguments)
        assert told.exit_code == 0, told.output
    assert guarded.unexpected() == []


BEYOND_THE_PIPELINE = (
    ("FLUSHALL",),
    ("CONFIG", "GET", "*"),
    ("ACL", "LIST"),
    ("KEYS", "*"),
    ("SHUTDOWN", "NOSAVE"),
    ("SET", "another-application", "1"),
    ("PUBLISH", "another-channel", "1"),
    ("XADD", "{other-pipeline}:requests", "*", "audio", "file:///a"),
    ("EVAL", "return redis.call('GET', 'another-application')", "0"),
)
ANOTHER_ROLES = (
    ("client", "HGET", KEYS.result("a" * 64), "transcript"),
    ("client", "XACK", KEYS.requests, "workers", "1-0"),
    ("client", "XREADGROUP", "GROUP", "workers", "me", "STREAMS", KEYS.requests, ">"),
    ("client", "XTRIM", KEYS.requests, "MAXLEN", "0"),
    ("client", "XDEL", KEYS.requests, "1-0"),
    ("gateway", "XTRIM", KEYS.transcripts, "MAXLEN", "0"),
    ("gateway", "SET", KEYS.recogniser, "mine"),
    ("subscriber", "XADD", KEYS.requests, "*", "audio", "file:///a"),
    ("subscriber", "XADD", KEYS.transcripts, "*", "id", "forged"),
    ("subscriber", "XRANGE", KEYS.requests, "-", "+"),
    ("operator", "XGROUP", "DESTROY", KEYS.requests, "workers"),
    ("operator", "XTRIM", KEYS.transcripts, "MAXLEN", "0"),
    ("worker", "XGROUP", "DESTROY", KEYS.requests, "workers"),
)


def test_no_role_can_reach_beyond_its_pipeline(guarded: GuardedRedis) -> None:
    tried = [(role, *command) for role in ROLES for command in BEYOND_THE_PIPELINE]
    assert [attempt for attempt in tried if not refused(guarded, *attempt)] == []


def test_the_operators_doctor_reads_all_but_the_configuration(guarded: GuardedRedis) -> None:
    doctor = ["--redis-url", guarded.url("operator"), "doctor", "--json", "--no-worker"]
    told = CliRunner().invoke(sensestream, doctor)
    assert told.exit_code == 0, told.output
    unread = [
        each for each in json.loads(told.stdout)["findings"] if "not be read" in each["observed"]
    ]
    assert [finding["check"] for finding in unread] == ["persistence"]
    refused_commands = [(who, what.partition("|")[0]) for who, _, what in guarded.refusals()]
    assert refused_commands == [("operator", "config")]


def test_no_role_can_do_the_work_of_another(guarded: GuardedRedis) -> None:
    assert [attempt for attempt in ANOTHER_ROLES if not refused(guarded, *attempt)] == []


def test_on_redis_7_a_client_can_be_kept_from_forging_outcomes(guarded: GuardedRedis) -> None:
    if int(guarded.admin.info("server")["redis_version"].split(".")[0]) < 7:
        pytest.skip("before Redis 7 a user cannot be given a key for reading alone")
    [rules] = [line for line in USERS.read_text("utf-8").splitlines() if " client " in line]
    reading = rules.replace("~{sensestream}:transcripts", "%R~{sensestream}:transcripts")
    guarded.set_user(reading)
    assert refused(guarded, "client", "XADD", KEYS.transcripts, "*", "id", "forged")
    assert not refused(guarded, "client", "XRANGE", KEYS.transcripts, "-", "+")


def refused(guarded: GuardedRedis, role: str, *command: str) -> bool:
    """Whether Redis refuses it for want of rights; any other answer means that it was tried."""
    before = len(guarded.refusals())
    connection: Any = Redis.from_url(guarded.url(role), driver_info=None)
    with connection as redis, contextlib.suppress(RedisError):
        redis.execute_command(*command)
    refusals = guarded.refusals()
    guarded.admin.acl_log_reset()
    return len(refusals) > before
