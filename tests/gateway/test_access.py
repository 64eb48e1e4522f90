"""Who is let in, what they may do, how much of it, and what they are told when they are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer.gateway.auth import ApiKey, RateLimiter, Scope, find_key, new_key
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import StartGateway
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess

KEYS = Keys("sensestream")
SUBMIT, _SUBMIT = new_key("submitter", [Scope.SUBMIT], None)
READ, _READ = new_key("reader", [Scope.READ], None)
SLOW, _SLOW = new_key("slow", [Scope.SUBMIT], 2)
COMMAND = str(Path(sys.executable).with_name("sensestream"))
TRANSCRIBE = "/v1/audio/transcriptions"


@pytest.fixture(scope="module")
def locked(
    heard_redis: EmbeddedRedis, worker: object, start_gateway: StartGateway
) -> GatewayProcess:
    """A gateway that lets in three keys, and pages of one origin."""
    return start_gateway(
        heard_redis.url,
        api_keys=f"{_SUBMIT},{_READ},{_SLOW}",
        cors_origins="https://app.example.org",
        max_upload_bytes=200_000,
    )


@pytest.fixture(scope="module")
def door(locked: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=locked.url, timeout=30) as client:
        yield client


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def recording(seed: int) -> dict[str, Any]:
    return {"file": ("a.wav", encoded(tone(seed)))}


def test_a_key_with_the_scope_is_let_in_by_either_header(door: httpx.Client) -> None:
    assert door.post(TRANSCRIBE, files=recording(1), headers=bearer(SUBMIT)).status_code == 200
    assert door.post(TRANSCRIBE, files=recording(1), headers={"X-API-Key": SUBMIT}).is_success


def test_openais_client_is_told_what_it_raises(locked: GatewayProcess) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{locked.url}/v1", api_key=key, max_retries=0)

    with client("sk-wrong") as sdk, pytest.raises(openai.AuthenticationError, match="not known"):
        sdk.models.list()
    with client(READ) as sdk, pytest.raises(openai.PermissionDeniedError, match="scope submit"):
        sdk.audio.transcriptions.create(model="x", file=("a.wav", b"RIFF"))
    with client(SUBMIT) as sdk, pytest.raises(openai.APIStatusError, match="200000 bytes") as big:
        sdk.audio.transcriptions.create(model="x", file=("a.wav", bytes(300_000)))
    assert big.value.status_code == 413


def test_a_body_far_above_the_limit_is_refused_before_it_is_read(door: httpx.Client) -> None:
    answer = door.post(
        TRANSCRIBE, files={"file": ("a.wav", bytes(8_000_000))}, headers=bearer(SUBMIT)
    )
    assert answer.status_code == 413
    assert "has more than" in answer.json()["error"]["message"]


def test_without_a_key_nothing_is_told_but_how_to_come_in(door: httpx.Client) -> None:
    answer = door.get("/v1/models")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_above_its_rate_a_key_is_told_when_to_come_again(locked: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=SLOW, max_retries=0) as sdk:
        for _ in range(2):
            sdk.models.list()
        with pytest.raises(openai.RateLimitError, match="more than 2 requests a minute") as caught:
            sdk.models.list()
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_pages_of_other_origins_are_let_in_only_where_they_are_named(
    door: httpx.Client, http: httpx.Client
) -> None:
    def asked(client: httpx.Client, origin: str) -> httpx.Response:
        wanted = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return client.options(TRANSCRIBE, headers=wanted)

    named = asked(door, "https://app.example.org")
    assert named.headers["access-control-allow-origin"] == "https://app.example.org"
    assert "access-control-allow-origin" not in asked(door, "https://evil.example").headers

    # Without keys even a call that needs no leave of the browser's is refused.
    evil = http.post(TRANSCRIBE, files=recording(2), headers={"Origin": "https://evil.example"})
    assert evil.status_code == 403
    assert "SENSESTREAM_CORS_ORIGINS" in evil.json()["error"]["message"]
    own = http.get("/v1/models", headers={"Origin": str(http.base_url).rstrip("/")})
    assert own.status_code == 200


def test_without_keys_it_answers_to_names_of_loopback_only(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"Host": "rebound.example:80"})
    assert answer.status_code == 421
    assert "'rebound.example'" in answer.json()["error"]["message"]
    assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_every_answer_carries_the_security_headers(http: httpx.Client) -> None:
    for path in ("/v1/models", "/nothing"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


def test_a_full_queue_is_a_503_that_says_when_to_come_again(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    server = own_redis()
    full = start_gateway(server.url, max_backlog=1)
    with Redis.from_url(server.url) as redis:
        redis.xadd(KEYS.requests, {"audio": "file:///a.wav"})
    answer = httpx.post(full.url + TRANSCRIBE, files=recording(3), timeout=30)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["message"] == "the queue is full: send it again later"

    server.stop()
    away = httpx.post(full.url + TRANSCRIBE, files=recording(3), timeout=30)
    assert away.status_code == 503
    assert "redis" not in away.text.lower()  # neither its address nor its path


def test_it_refuses_to_listen_beyond_loopback_without_a_key(redis_url: str) -> None:
    def start(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [COMMAND, "--redis-url", redis_url, "gateway", "--http-host", "0.0.0.0", *flags]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    refused = start()
    assert refused.returncode == 1
    assert "SENSESTREAM_HTTP_HOST='0.0.0.0' is not loopback, and no key is set" in refused.stderr
    misspelt = start("--api-keys", "ci:submit:abc")
    assert misspelt.returncode == 1
    assert "a key is NAME:SCOPES:SHA256" in misspelt.stderr


def test_a_key_is_shown_once_and_kept_as_its_digest() -> None:
    made = subprocess.run(
        [COMMAND, "gateway", "--new-key", "ci", "--scope", "submit", "--per-minute", "60"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    key, setting = made.stdout.split()
    kept = ApiKey.parse(setting)
    assert (kept.name, list(kept.scopes), kept.per_minute) == ("ci", [Scope.SUBMIT], 60)
    assert key not in setting
    assert find_key([kept], key) == kept
    assert find_key([kept], key + "x") is None


def test_a_rate_fills_up_again_with_time() -> None:
    now = 0.0
    rate_limiter = RateLimiter(clock=lambda: now)
    assert [rate_limiter.take("a", 60) for _ in range(60)] == [0.0] * 60
    assert rate_limiter.take("a", 60) == pytest.approx(1.0)
    assert rate_limiter.take("b", 60) == 0.0
    now = 1.0
    assert rate_limiter.take("a", 60) == 0.0
    assert rate_limiter.take("a", 60) == pytest.approx(1.0)
