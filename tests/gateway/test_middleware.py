"""The middleware before all routes: host names, origins, body sizes, response headers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from sensestream_producer.gateway.auth import Scope, new_key
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import TRANSCRIBE, StartGateway, upload


@pytest.fixture(scope="module")
def http_with_keys(
    shared_redis: EmbeddedRedis, start_gateway: StartGateway
) -> Iterator[httpx.Client]:
    """A gateway with a key, an origin whose pages may call it, and a limit for uploads."""
    _, setting = new_key("any", [Scope.SUBMIT], None)
    gateway = start_gateway(
        shared_redis.url,
        api_keys=setting,
        cors_origins="https://app.example.org",
        max_upload_bytes=200_000,
    )
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client


def test_body_far_above_the_limit_is_refused_before_it_is_read(
    http_with_keys: httpx.Client,
) -> None:
    answer = http_with_keys.post(TRANSCRIBE, files={"file": ("a.wav", bytes(8_000_000))})
    assert answer.status_code == 413
    assert "has more than" in answer.json()["error"]["message"]


def test_pages_of_other_origins_are_refused_unless_configured(
    http_with_keys: httpx.Client, http: httpx.Client
) -> None:
    def preflight(client: httpx.Client, origin: str) -> httpx.Response:
        wanted = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        return client.options(TRANSCRIBE, headers=wanted)

    named = preflight(http_with_keys, "https://app.example.org")
    assert named.headers["access-control-allow-origin"] == "https://app.example.org"
    assert (
        "access-control-allow-origin"
        not in preflight(http_with_keys, "https://evil.example").headers
    )

    # Without keys, calls that need no preflight are refused as well.
    evil = http.post(TRANSCRIBE, files=upload(2), headers={"Origin": "https://evil.example"})
    assert evil.status_code == 403
    assert "SENSESTREAM_CORS_ORIGINS" in evil.json()["error"]["message"]
    own = http.get("/v1/models", headers={"Origin": str(http.base_url).rstrip("/")})
    assert own.status_code == 200


def test_gateway_without_keys_answers_only_to_loopback_names(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"Host": "rebound.example:80"})
    assert answer.status_code == 421
    assert "'rebound.example'" in answer.json()["error"]["message"]
    assert http.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200


def test_every_response_has_the_security_headers(http: httpx.Client) -> None:
    for path in ("/v1/models", "/nothing"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
