"""GET /v1/events: outcomes as server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sensestream_common.contract.keys import Keys
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import StartGateway, submit
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")


class Events:
    """The events of one stream, one after the other."""

    def __init__(self, response: httpx.Response) -> None:
        self.lines = response.iter_lines()
        self.last_id = ""

    def next(self) -> tuple[str, str, Any]:
        """Name, id and data of the next event that has data."""
        event: dict[str, str] = {}
        for line in self.lines:
            name, _, value = line.partition(": ")
            if name == "id":
                self.last_id = value
            if line:
                event[name] = value
            elif "data" in event:
                return event.get("event", ""), self.last_id, json.loads(event["data"])
            else:
                event = {}
        raise AssertionError("the stream has ended")


@contextmanager
def following(gateway: GatewayProcess, query: str = "", **headers: str) -> Iterator[Events]:
    with httpx.stream(
        "GET", f"{gateway.url}/v1/events{query}", headers=headers, timeout=30
    ) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer)


@pytest.fixture(scope="module")
def events_gateway(
    shared_redis: EmbeddedRedis, worker: object, start_gateway: StartGateway
) -> GatewayProcess:
    return start_gateway(shared_redis.url, max_subscribers=2)


def test_stream_resumes_after_its_last_event_at_any_gateway(
    events_gateway: GatewayProcess, shared_redis: EmbeddedRedis, start_gateway: StartGateway
) -> None:
    metadata = '{"test": "resume"}'
    query = "?metadata.test=resume"
    with following(events_gateway, query) as events:
        first = submit(events_gateway, encoded(tone(401)), metadata=metadata)["id"]
        name, position, outcome = events.next()
    assert (name, outcome["id"], outcome["status"]) == ("outcome", first, "completed")

    missed = submit(events_gateway, encoded(tone(402)), metadata=metadata)["id"]
    another = start_gateway(shared_redis.url)
    with following(another, query, **{"Last-Event-ID": position}) as events:
        assert events.next()[2]["id"] == missed
        known = submit(another, encoded(tone(402)), metadata=metadata)[
            "id"
        ]  # answered by the gateway itself
        assert events.next()[2]["id"] == known
        # SIGTERM ends the stream.
        assert another.terminate() == 0
    with following(events_gateway, f"{query}&from=0") as events:
        assert [events.next()[2]["id"] for _ in range(3)] == [first, missed, known]


def test_stream_starts_with_a_position_to_resume_from(events_gateway: GatewayProcess) -> None:
    with following(events_gateway) as events:
        line = next(events.lines)
    position = line.removeprefix("id: ")
    job = submit(events_gateway, encoded(tone(403)), metadata='{"test": "early"}')
    with following(events_gateway, "?metadata.test=early", **{"Last-Event-ID": position}) as events:
        assert events.next()[2]["id"] == job["id"]


def test_filters_select_by_status_and_metadata(events_gateway: GatewayProcess) -> None:
    start = "?from=0&metadata.batch=f1"
    submit(events_gateway, encoded(tone(404)), metadata='{"batch": "f1", "n": 7, "ok": true}')
    failed = submit(events_gateway, b"none", metadata='{"batch": "f1"}')["id"]
    with following(events_gateway, f"{start}&status=failed") as events:
        assert events.next()[2]["id"] == failed
    with following(events_gateway, f"{start}&metadata.n=7&metadata.ok=true") as events:
        assert events.next()[2]["metadata"]["n"] == 7
    wrong = httpx.get(f"{events_gateway.url}/v1/events?status=great")
    assert wrong.status_code == 422
    assert "'completed' or 'failed'" in wrong.json()["detail"]


def test_trimmed_outcomes_are_reported_as_a_gap(
    own_redis: Any, start_gateway: StartGateway
) -> None:
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url)
    with server.client() as redis:
        fields: Any = {"id": "a", "entry": "1-1", "status": "completed", "text": "kept"}
        redis.xadd(KEYS.transcripts, fields, id="5-0")
        redis.set(KEYS.trimmed, "4-0")
    with following(gateway, **{"Last-Event-ID": "3-0"}) as events:
        gap = {"reason": "trimmed", "lost_after": "3-0", "lost_until": "4-0"}
        assert events.next() == ("gap", "4-0", gap)
        assert events.next()[2]["text"] == "kept"


def test_invalid_position_and_one_stream_too_many_are_refused(
    events_gateway: GatewayProcess,
) -> None:
    wrong = httpx.get(f"{events_gateway.url}/v1/events", headers={"Last-Event-ID": "yesterday"})
    assert wrong.status_code == 400
    assert "'yesterday' is no position" in wrong.json()["detail"]

    def stream_is_open() -> bool:
        with httpx.stream("GET", f"{events_gateway.url}/v1/events") as answer:
            return answer.status_code == 200

    wait_until_sync(stream_is_open, what="earlier tests' streams closed")
    with following(events_gateway), following(events_gateway):
        over = httpx.get(f"{events_gateway.url}/v1/events")
        assert over.status_code == 503
        assert over.headers["retry-after"] == "10"
    wait_until_sync(stream_is_open, what="both streams closed")
