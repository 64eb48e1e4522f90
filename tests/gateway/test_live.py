"""Outcomes as they come, and what else a watcher sees; the tutorial's routes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sensestream_common.contract.keys import Keys
from sensestream_producer.gateway.auth import Scope, new_key
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import CLIPS, StartGateway
from tests.support.clips import encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
JOBS = "/v1/transcriptions"
CLIP = CLIPS / "ko-opus.ogg"


class Events:
    """The events of one stream, in turn."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.iter_lines()
        self.last_id = ""

    def next(self) -> tuple[str, str, Any]:
        """Name, id and data of the next event that has data."""
        event: dict[str, str] = {}
        for line in self._lines:
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


def hand_in(gateway: GatewayProcess, seed: int, **fields: str) -> str:
    files = {"file": ("a.wav", encoded(tone(seed)))}
    answer = httpx.post(f"{gateway.url}{JOBS}?wait=30", files=files, data=fields, timeout=60)
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def quiet(
    heard_redis: EmbeddedRedis, worker: object, start_gateway: StartGateway
) -> GatewayProcess:
    return start_gateway(heard_redis.url, max_subscribers=2)


def test_a_stream_brings_what_happens_and_goes_on_where_it_broke_off(
    quiet: GatewayProcess, heard_redis: EmbeddedRedis, start_gateway: StartGateway
) -> None:
    tag = {"metadata": '{"test": "resume"}'}
    query = "?metadata.test=resume"
    with following(quiet, query) as events:
        first = hand_in(quiet, 401, **tag)
        name, position, outcome = events.next()
    assert (name, outcome["id"], outcome["status"]) == ("outcome", first, "completed")

    missed = hand_in(quiet, 402, **tag)
    another = start_gateway(heard_redis.url)
    with following(another, query, **{"Last-Event-ID": position}) as events:
        assert events.next()[2]["id"] == missed
        known = hand_in(another, 402, **tag)  # answered by the gateway itself
        assert events.next()[2]["id"] == known
        # SIGTERM ends the stream, and does not wait for who follows it.
        assert another.terminate() == 0
    with following(quiet, f"{query}&from=0") as events:
        assert [events.next()[2]["id"] for _ in range(3)] == [first, missed, known]


def test_who_is_cut_off_before_the_first_outcome_has_a_position_too(quiet: GatewayProcess) -> None:
    with following(quiet) as events:
        line = next(events._lines)
    position = line.removeprefix("id: ")
    mine = hand_in(quiet, 403, metadata='{"test": "early"}')
    with following(quiet, "?metadata.test=early", **{"Last-Event-ID": position}) as events:
        assert events.next()[2]["id"] == mine


def test_filters_take_status_and_metadata_as_text_or_as_json(quiet: GatewayProcess) -> None:
    start = "?from=0&metadata.batch=f1"
    hand_in(quiet, 404, metadata='{"batch": "f1", "n": 7, "ok": true}')
    failed = httpx.post(
        f"{quiet.url}{JOBS}?wait=30", files={"file": b"none"}, data={"metadata": '{"batch": "f1"}'}
    ).json()["id"]
    with following(quiet, f"{start}&status=failed") as events:
        assert events.next()[2]["id"] == failed
    with following(quiet, f"{start}&metadata.n=7&metadata.ok=true") as events:
        assert events.next()[2]["metadata"]["n"] == 7
    wrong = httpx.get(f"{quiet.url}/v1/events?status=great")
    assert wrong.status_code == 422
    assert "'completed' or 'failed'" in wrong.json()["detail"]


def test_a_gap_is_told(own_redis: Any, start_gateway: StartGateway) -> None:
    server: EmbeddedRedis = own_redis()
    gateway = start_gateway(server.url)
    with server.client() as redis:
        fields: Any = {"id": "a", "entry": "1-1", "status": "completed", "text": "kept"}
        redis.xadd(KEYS.transcripts, fields, id="5-0")
        redis.set(KEYS.trimmed, "4-0")
    with following(gateway, **{"Last-Event-ID": "3-0"}) as events:
        assert events.next() == (
            "gap", "4-0", {"reason": "trimmed", "lost_after": "3-0", "lost_until": "4-0"},
        )  # fmt: skip
        assert events.next()[2]["text"] == "kept"


def test_a_position_that_is_none_and_a_stream_too_many_are_refused(quiet: GatewayProcess) -> None:
    wrong = httpx.get(f"{quiet.url}/v1/events", headers={"Last-Event-ID": "yesterday"})
    assert wrong.status_code == 400
    assert "'yesterday' is no position" in wrong.json()["detail"]

    def room() -> bool:
        with httpx.stream("GET", f"{quiet.url}/v1/events") as answer:
            return answer.status_code == 200

    wait_until_sync(room, what="earlier tests' streams closed")
    with following(quiet), following(quiet):
        over = httpx.get(f"{quiet.url}/v1/events")
        assert over.status_code == 503
        assert over.headers["retry-after"] == "10"
    wait_until_sync(room, what="places free again")


def test_the_tutorials_route_answers_in_its_shape_and_heeds_use_itn(http: httpx.Client) -> None:
    def transcribe(**fields: str) -> dict[str, Any]:
        files = {"file": (CLIP.name, CLIP.read_bytes())}
        answer = http.post("/api/transcribe", files=files, data=fields)
        assert answer.status_code == 200
        return dict(answer.json())

    first, again = (
        transcribe(language="ko", use_itn="false"),
        transcribe(language="ko", use_itn="false"),
    )
    assert set(first) == {"status", "data", "from_cache", "message"}
    assert first["status"] == "success"
    assert first["data"] == "<|ko|><|NEUTRAL|><|Speech|><|woitn|>일칠이팔사육"
    assert again == {**first, "from_cache": True, "message": "answered from the cache"}
    assert transcribe(use_itn="true")["data"].endswith("<|withitn|>172846")


def test_the_tutorials_errors_are_in_its_shape_too(http: httpx.Client) -> None:
    for files, status in (({"file": b"no audio"}, 400), ({"language": (None, "xx")}, 400)):
        answer = http.post("/api/transcribe", files=files)
        assert answer.status_code == status
        problem = answer.json()
        assert (problem["status"], problem["data"], problem["from_cache"]) == ("error", None, False)
        assert problem["message"]


def test_the_caches_figures_are_those_of_the_pipeline(http: httpx.Client, redis: Any) -> None:
    found = http.get("/cache/stats").json()
    assert found["total_keys"] == len(redis.keys(KEYS.result("*")))
    counters = redis.hgetall(KEYS.stats)
    assert found["hits"] + found["misses"] <= int(counters[b"completed"])
    assert 0 <= found["hit_rate"] <= 1


def test_health_is_told_and_readiness_goes_with_redis(
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


def test_the_status_names_backlog_workers_and_counters(http: httpx.Client) -> None:
    found = http.get("/v1/status").json()
    assert found["backlog"] == 0
    assert [worker["model"] for worker in found["workers"]] == ["demo-int8"]
    assert found["counters"]["completed"] > 0


def test_dead_letters_are_for_operators_who_can_replay_them(
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


def test_the_page_and_the_documentation_bring_all_they_need(http: httpx.Client) -> None:
    for path in ("/", "/docs"):
        page = http.get(path)
        assert page.status_code == 200
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "https://" not in page.text
        assert "http://" not in page.text
    assert http.get("/static/page.js").headers["content-type"].startswith("text/javascript")
    assert set(http.get("/openapi.json").json()["paths"]) >= {JOBS, "/v1/events", "/api/transcribe"}
    assert http.get("/static/../app.py").status_code == 404
    assert http.get("/samples").json() == []
