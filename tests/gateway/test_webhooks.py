"""Webhooks: signatures, further tries, private addresses, and gateways that die."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from redis import Redis
from sensestream_common.contract.keys import WEBHOOKS_GROUP, Keys
from sensestream_producer.gateway.signing import new_secret
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import JOBS, StartGateway, upload
from tests.support.gateways import GatewayProcess
from tests.support.receiver import Receiver, receiving
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
OLD, SECRET = new_secret(), new_secret()
SENDING = {
    "webhook_secret": f"{OLD},{SECRET}",
    "webhook_allow_private": 1,
    "webhook_timeout": 1,
    "webhook_retry_after": 0.2,
    "webhook_tries": 3,
}


@pytest.fixture(scope="module")
def webhook_gateway(
    shared_redis: EmbeddedRedis, worker: object, start_gateway: StartGateway
) -> GatewayProcess:
    return start_gateway(shared_redis.url, **SENDING)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


def submit_with_callback(
    gateway: GatewayProcess, seed: int, callback: str, **fields: Any
) -> dict[str, Any]:
    data = {"callback_url": callback, **fields}
    answer = httpx.post(gateway.url + JOBS, files=upload(seed), data=data, timeout=30)
    assert answer.is_success, answer.text
    return dict(answer.json())


def arrived(receiver: Receiver, path: str, count: int = 1) -> list[Any]:
    wait_until_sync(lambda: len(receiver.at(path)) >= count, what=f"{count} deliveries at {path}")
    return receiver.at(path)


def settled(redis: Redis, event: str, before: int) -> bool:
    return int(redis.hget(KEYS.stats, event) or 0) > before and not redis.xlen(KEYS.webhooks)


def test_outcome_is_sent_and_openais_client_verifies_its_signature(
    webhook_gateway: GatewayProcess, receiver: Receiver, redis: Redis
) -> None:
    job = submit_with_callback(
        webhook_gateway, 201, f"{receiver.url}/first?a=1", metadata='{"ticket": 7}'
    )
    [delivery] = arrived(receiver, "/first?a=1")
    sent = json.loads(delivery.body)
    assert sent["type"] == "transcription.completed"
    assert (sent["data"]["id"], sent["data"]["metadata"]) == (job["id"], {"ticket": 7})
    for secret in (OLD, SECRET):
        with openai.OpenAI(api_key="-", webhook_secret=secret) as sdk:
            sdk.webhooks.verify_signature(delivery.body, delivery.headers)
            with pytest.raises(openai.InvalidWebhookSignatureError):
                sdk.webhooks.verify_signature(delivery.body + b" ", delivery.headers)
    wait_until_sync(lambda: not redis.xlen(KEYS.webhooks), what="the webhook settled")

    # Cache hits that the gateway answers, and failures, are sent as well.
    submit_with_callback(webhook_gateway, 201, f"{receiver.url}/again")
    assert json.loads(arrived(receiver, "/again")[0].body)["data"]["cache"] == "hit"
    httpx.post(
        webhook_gateway.url + JOBS,
        files={"file": b"none"},
        data={"callback_url": f"{receiver.url}/bad"},
    )
    assert json.loads(arrived(receiver, "/bad")[0].body)["type"] == "transcription.failed"


def test_failed_delivery_is_tried_again_under_the_same_id(
    webhook_gateway: GatewayProcess, receiver: Receiver, redis: Redis
) -> None:
    before = int(redis.hget(KEYS.stats, "webhooks_delivered") or 0)
    receiver.statuses.extend([500, 302])
    submit_with_callback(webhook_gateway, 202, f"{receiver.url}/stubborn")
    tries = arrived(receiver, "/stubborn", 3)
    assert len({delivery.headers["webhook-id"] for delivery in tries}) == 1
    wait_until_sync(lambda: settled(redis, "webhooks_delivered", before), what="delivered")


def test_delivery_is_given_up_after_a_410_or_too_many_tries(
    webhook_gateway: GatewayProcess, receiver: Receiver, redis: Redis
) -> None:
    before = int(redis.hget(KEYS.stats, "webhooks_given_up") or 0)
    receiver.statuses.append(410)
    submit_with_callback(webhook_gateway, 203, f"{receiver.url}/gone")
    wait_until_sync(lambda: settled(redis, "webhooks_given_up", before), what="given up")
    assert len(receiver.at("/gone")) == 1

    receiver.statuses.extend([500] * 9)
    submit_with_callback(webhook_gateway, 203, f"{receiver.url}/broken")
    wait_until_sync(lambda: settled(redis, "webhooks_given_up", before + 1), what="given up")
    assert len(receiver.at("/broken")) == SENDING["webhook_tries"]


def test_another_gateway_finishes_the_delivery_of_a_dead_one(
    own_redis: Any, start_gateway: StartGateway, receiver: Receiver
) -> None:
    server: EmbeddedRedis = own_redis()
    first = start_gateway(server.url, **SENDING)
    with server.client() as redis:
        receiver.held.clear()
        write_webhook(redis, f"{receiver.url}/survivor")
        arrived(receiver, "/survivor")
        first.process.kill()
        receiver.held.set()
        assert redis.xpending(KEYS.webhooks, WEBHOOKS_GROUP)["pending"] == 1

        start_gateway(server.url, **SENDING)
        one, two = arrived(receiver, "/survivor", 2)
        assert (one.body, one.headers["webhook-id"]) == (two.body, two.headers["webhook-id"])
        wait_until_sync(lambda: not redis.xlen(KEYS.webhooks), what="the webhook settled")


def test_webhooks_older_than_every_gateway_are_delivered(
    own_redis: Any, start_gateway: StartGateway, receiver: Receiver
) -> None:
    server: EmbeddedRedis = own_redis()
    with server.client() as redis:
        write_webhook(redis, f"{receiver.url}/early")
        redis.xadd(KEYS.webhooks, {"outcome": "1-0", "url": f"{receiver.url}/lost", "id": "x"})
        gateway = start_gateway(server.url, **SENDING)
        arrived(receiver, "/early")
        wait_until_sync(lambda: not redis.xlen(KEYS.webhooks), what="both settled")
    assert not receiver.at("/lost")
    assert gateway.logged("webhook_given_up")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        ("http://127.0.0.1/hook", "'127.0.0.1', which is, or resolves to, an address that is not"),
        ("http://169.254.169.254/latest", "not public"),
        ("http://[::ffff:10.0.0.1]:80/", "not public"),
        ("https://localhost:9/hook", "'localhost', which"),
        ("https://user:pass@10.1.2.3/hook", "'10.1.2.3'"),
        ("ftp://example.org/", "http:// or https://"),
        ("http://", "http:// or https://"),
        ("http://example.org:99999/", "http:// or https://"),
    ],
)
def test_private_callback_url_is_refused_at_submit(
    public_only_gateway: GatewayProcess, callback: str, message: str
) -> None:
    body = {"audio": "data:,x", "callback_url": callback}
    answer = httpx.post(public_only_gateway.url + JOBS, json=body, timeout=30)
    assert answer.status_code == 400
    assert message in answer.json()["detail"]
    assert "pass" not in answer.text


def test_private_address_from_a_plain_xadd_is_not_connected_to(
    own_redis: Any, start_gateway: StartGateway, receiver: Receiver
) -> None:
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url, **SENDING | {"webhook_allow_private": 0})
    with server.client() as redis:
        write_webhook(redis, f"{receiver.url}/secret")
        wait_until_sync(lambda: not redis.xlen(KEYS.webhooks), what="given up")
    assert not receiver.deliveries
    [reason] = {e["reason"] for e in gateway.events() if e["event"].startswith("webhook_")}
    assert reason == "'127.0.0.1' is not a public address"


@pytest.fixture(scope="module")
def public_only_gateway(shared_redis: EmbeddedRedis, start_gateway: StartGateway) -> GatewayProcess:
    return start_gateway(shared_redis.url, webhook_secret=SECRET)


def write_webhook(redis: Redis, url: str) -> None:
    """An outcome and its webhook, as the commit writes them."""
    fields: Any = {"id": "early", "entry": "1-1", "status": "completed", "text": "hello"}
    outcome: Any = redis.xadd(KEYS.transcripts, fields)
    redis.xadd(KEYS.webhooks, {"outcome": outcome, "url": url, "id": "early"})
