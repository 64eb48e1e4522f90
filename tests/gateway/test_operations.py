"""Health, status and dead letters."""

from __future__ import annotations

from typing import Any

import httpx
from sensestream_common.contract.keys import Keys
from sensestream_producer.gateway.auth import Scope, new_key
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import StartGateway

KEYS = Keys("sensestream")


def test_gateway_is_healthy_without_redis_but_not_ready(
    http: httpx.Client, own_redis: Any, start_gateway: StartGateway
) -> None:
    assert http.get("/health").json()["status"] == "healthy"
    assert http.get("/health/ready").json() == {"ready": True}
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url)
    server.stop()
    assert httpx.get(f"{gateway.url}/health").status_code == 200
    away = httpx.get(f"{gateway.url}/health/ready", timeout=30)
    assert (away.status_code, away.json()["reason"]) == (503, "Redis does not answer")


def test_status_has_backlog_workers_and_counters(http: httpx.Client) -> None:
    found = http.get("/v1/status").json()
    assert found["backlog"] == 0
    assert [worker["model"] for worker in found["workers"]] == ["demo-int8"]
    assert found["counters"]["completed"] > 0


def test_only_operators_list_and_replay_dead_letters(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    operator, kept = new_key("operator", [Scope.OPERATE], None)
    reader, read = new_key("reader", [Scope.READ], None)
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url, api_keys=f"{kept},{read}")
    with (
        server.client() as redis,
        httpx.Client(base_url=gateway.url, headers={"X-API-Key": operator}, timeout=30) as http,
    ):
        letter = write_letter(redis, "https://user:secret@example.org/a.wav?sig=1")
        assert http.get("/v1/dead-letters", headers={"X-API-Key": reader}).status_code == 403
        [found] = http.get("/v1/dead-letters").json()["data"]
        assert (found["letter"], found["error"]) == (letter, "audio_unavailable")
        assert "secret" not in str(found)

        sent = http.post(f"/v1/dead-letters/{letter}/replay")
        assert sent.status_code == 202
        [(entry, fields)] = redis.xrange(KEYS.requests)
        assert sent.json() == {"id": "dead-1", "entry": entry.decode()}
        assert fields[b"audio"].startswith(b"https://user:secret@")
        for gone in (letter, "nonsense"):
            assert http.post(f"/v1/dead-letters/{gone}/replay").status_code == 404


def write_letter(redis: Any, audio: str) -> str:
    fields = {"id": "dead-1", "audio": audio, "dead:error": "audio_unavailable"}
    fields |= {"dead:message": "it did not answer", "dead:at": "1700000000000"}
    return str(redis.xadd(KEYS.dead, fields).decode())
