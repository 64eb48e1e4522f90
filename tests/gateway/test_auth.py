"""API keys, their scopes and their rates."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from sensestream_producer.gateway.auth import ApiKey, RateLimiter, Scope, find_key, new_key
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import TRANSCRIBE, StartGateway, upload
from tests.support.gateways import GatewayProcess

SUBMIT, _SUBMIT = new_key("submitter", [Scope.SUBMIT], None)
READ, _READ = new_key("reader", [Scope.READ], None)
SLOW, _SLOW = new_key("slow", [Scope.SUBMIT], 2)
COMMAND = str(Path(sys.executable).with_name("sensestream"))


@pytest.fixture(scope="module")
def gateway_with_keys(
    shared_redis: EmbeddedRedis, worker: object, start_gateway: StartGateway
) -> GatewayProcess:
    keys = f"{_SUBMIT},{_READ},{_SLOW}"
    return start_gateway(shared_redis.url, api_keys=keys, max_upload_bytes=200_000)


@pytest.fixture(scope="module")
def http_with_keys(gateway_with_keys: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway_with_keys.url, timeout=30) as client:
        yield client


def test_key_with_the_scope_is_accepted_in_either_header(http_with_keys: httpx.Client) -> None:
    for headers in ({"Authorization": f"Bearer {SUBMIT}"}, {"X-API-Key": SUBMIT}):
        answer = http_with_keys.post(TRANSCRIBE, files=upload(1), headers=headers)
        assert answer.status_code == 200


def test_openai_client_raises_its_own_errors_for_key_scope_and_size(
    gateway_with_keys: GatewayProcess,
) -> None:
    def client(key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{gateway_with_keys.url}/v1", api_key=key, max_retries=0)

    with client("sk-wrong") as sdk, pytest.raises(openai.AuthenticationError, match="not known"):
        sdk.models.list()
    with client(READ) as sdk, pytest.raises(openai.PermissionDeniedError, match="scope submit"):
        sdk.audio.transcriptions.create(model="x", file=("a.wav", b"RIFF"))
    with client(SUBMIT) as sdk, pytest.raises(openai.APIStatusError, match="200000 bytes") as big:
        sdk.audio.transcriptions.create(model="x", file=("a.wav", bytes(300_000)))
    assert big.value.status_code == 413


def test_call_without_a_key_gets_a_401(http_with_keys: httpx.Client) -> None:
    answer = http_with_keys.get("/v1/models")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "authentication_error"


def test_call_above_the_rate_gets_a_429_with_retry_after(gateway_with_keys: GatewayProcess) -> None:
    with openai.OpenAI(base_url=f"{gateway_with_keys.url}/v1", api_key=SLOW, max_retries=0) as sdk:
        for _ in range(2):
            sdk.models.list()
        with pytest.raises(openai.RateLimitError, match="more than 2 requests a minute") as caught:
            sdk.models.list()
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_new_key_is_printed_with_a_setting_that_holds_its_digest() -> None:
    command = [COMMAND, "gateway", "--new-key", "ci", "--scope", "submit", "--per-minute", "60"]
    made = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    key, setting = made.stdout.split()
    kept = ApiKey.parse(setting)
    assert (kept.name, list(kept.scopes), kept.per_minute) == ("ci", [Scope.SUBMIT], 60)
    assert key not in setting
    assert find_key([kept], key) == kept
    assert find_key([kept], key + "x") is None


def test_rate_limiter_refills_with_time() -> None:
    now = 0.0
    rate_limiter = RateLimiter(clock=lambda: now)
    assert [rate_limiter.take("a", 60) for _ in range(60)] == [0.0] * 60
    assert rate_limiter.take("a", 60) == pytest.approx(1.0)
    assert rate_limiter.take("b", 60) == 0.0
    now = 1.0
    assert rate_limiter.take("a", 60) == 0.0
    assert rate_limiter.take("a", 60) == pytest.approx(1.0)
