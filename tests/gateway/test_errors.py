"""Errors of the pipeline as callers see them."""

from __future__ import annotations

from typing import Any

import httpx
from redis import Redis
from sensestream_common.contract.keys import Keys

from tests.gateway.conftest import TRANSCRIBE, StartGateway, upload

KEYS = Keys("sensestream")


def test_full_or_absent_queue_is_a_503_with_retry_after(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    server = own_redis()
    full = start_gateway(server.url, max_backlog=1)
    with Redis.from_url(server.url) as redis:
        redis.xadd(KEYS.requests, {"audio": "file:///a.wav"})
    answer = httpx.post(full.url + TRANSCRIBE, files=upload(3), timeout=30)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["error"]["message"] == "the queue is full: send it again later"

    server.stop()
    away = httpx.post(full.url + TRANSCRIBE, files=upload(3), timeout=30)
    assert away.status_code == 503
    assert "redis" not in away.text.lower()  # neither its address nor its path
