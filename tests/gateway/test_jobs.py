"""/v1/transcriptions: jobs submitted, waited for and looked up, one or many."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_consumer.audio import decode_revision
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.gateway.conftest import CLIPS, JOBS, StartGateway, upload
from tests.support.clips import encoded, tone

KEYS = Keys("sensestream")


def data_of(seed: int) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(encoded(tone(seed))).decode()}"


def test_job_is_accepted_and_found_by_any_gateway(
    http: httpx.Client, shared_redis: EmbeddedRedis, start_gateway: StartGateway
) -> None:
    clip = CLIPS / "zh-stereo.mp3"
    options = {"language": "zh", "metadata": '{"ticket": 7}', "ttl": "600"}
    taken = http.post(JOBS, files={"file": (clip.name, clip.read_bytes())}, data=options)
    assert taken.status_code == 202
    job = taken.json()
    assert taken.headers["location"] == job["location"] == f"{JOBS}/{job['id']}"
    assert job["status"] in ("queued", "processing")

    done = http.get(job["location"], params={"wait": 30}).json()
    assert done["status"] == "completed"
    assert done["outcome"]["text"] == "20481357"
    assert done["outcome"]["metadata"] == {"ticket": 7}

    another = start_gateway(shared_redis.url)
    assert httpx.get(another.url + job["location"]).json() == done
    assert another.terminate() == 0


def test_call_waits_for_the_outcome_of_a_reference(http: httpx.Client) -> None:
    request = {"audio": data_of(101), "id": "call/17 ü", "itn": False, "metadata": ["any", None]}
    answer = http.post(JOBS, json=request, params={"wait": 30})
    assert answer.status_code == 200
    job = answer.json()
    assert (job["id"], job["status"]) == ("call/17 ü", "completed")
    assert job["outcome"]["metadata"] == ["any", None]
    assert http.get(job["location"]).json()["outcome"] == job["outcome"]


def test_same_id_again_adds_nothing(http: httpx.Client, redis: Redis) -> None:
    first = http.post(JOBS, files=upload(102), data={"id": "same"}, params={"wait": 30}).json()
    submitted = redis.hget(KEYS.stats, "submitted")
    again = http.post(JOBS, files=upload(102), data={"id": "same"})
    assert again.status_code == 200
    assert again.json() == {**first, "duplicate": True}
    by_header = http.post(JOBS, json={"audio": data_of(1)}, headers={"Idempotency-Key": "same"})
    assert by_header.json()["duplicate"] is True
    assert redis.hget(KEYS.stats, "submitted") == submitted


def test_cached_recording_is_answered_without_being_stored(http: httpx.Client, redis: Any) -> None:
    first = http.post(JOBS, files=upload(103), params={"wait": 30}).json()
    assert first["outcome"]["cache"] == "miss"
    redis.config_set("notify-keyspace-events", "K$xg")
    with redis.pubsub(ignore_subscribe_messages=True) as uploads, redis.pubsub() as live:
        uploads.psubscribe(f"__keyspace@0__:{KEYS.upload_prefix}*")
        live.subscribe(KEYS.channel)
        live.get_message(timeout=5)
        again = http.post(JOBS, files=upload(103), data={"ttl": "900000"})
        announced = live.get_message(timeout=5)
        assert uploads.get_message(timeout=0.1) is None
    redis.config_set("notify-keyspace-events", "")
    assert again.status_code == 200  # at once: nothing was queued
    hit = again.json()["outcome"]
    assert hit["cache"] == "hit"
    assert hit["text"] == first["outcome"]["text"]
    assert hit["digest"] == first["outcome"]["digest"]
    assert http.get(again.json()["location"]).json()["outcome"] == hit

    # The same traces as a worker's cache hit: a stream entry, a message, a longer retention.
    [(_, entry)] = redis.xrevrange(KEYS.transcripts, count=1)
    assert entry[b"entry"].decode() == hit["entry"]
    assert announced is not None
    assert httpx.Response(200, content=announced["data"]).json() == hit
    assert redis.ttl(KEYS.audio(hit["digest"], decode_revision())) > 604_800


def test_ttl_0_does_not_prolong_the_cached_result(http: httpx.Client, redis: Redis) -> None:
    first = http.post(JOBS, files=upload(104), data={"ttl": "60"}, params={"wait": 30}).json()
    alias = KEYS.audio(first["outcome"]["digest"], decode_revision())
    assert 0 < redis.ttl(alias) <= 60
    assert http.post(JOBS, files=upload(104), data={"ttl": "0"}).json()["status"] == "completed"
    assert 0 < redis.ttl(alias) <= 60


def test_jobs_in_one_call_are_answered_in_their_order(http: httpx.Client) -> None:
    jobs = [{"audio": data_of(105), "id": "many-1"}, {"audio": "file:///etc/passwd"}, 7]
    mixed = http.post(JOBS, json=jobs, params={"wait": 30})
    assert mixed.status_code == 207
    first, second, third = mixed.json()
    assert (first["id"], first["status"]) == ("many-1", "completed")
    assert second["error"]["status"] == 403
    assert "audio=file:… is not taken here" in second["error"]["detail"]
    assert third["error"]["detail"] == "a job is a JSON object with at least audio"

    files = [("file", (f"{seed}.wav", encoded(tone(seed)))) for seed in (106, 107, 108)]
    several = http.post(JOBS, files=files, data={"language": "en"}, params={"wait": 30})
    assert several.status_code == 200
    assert [job["status"] for job in several.json()] == ["completed"] * 3
    assert len({job["outcome"]["digest"] for job in several.json()}) == 3


def test_failed_job_has_its_error(http: httpx.Client) -> None:
    job = http.post(JOBS, files={"file": b"no audio at all"}, params={"wait": 30}).json()
    assert job["status"] == "failed"
    assert job["outcome"]["error"] == "audio_unreadable"
    assert "no decoder reads the audio" in job["outcome"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({}, 422, "audio: Field required"),
        ({"audio": "data:,x", "itm": True}, 422, "itm: Extra inputs are not permitted"),
        ({"audio": "a.wav"}, 422, "audio: String should match pattern"),
        ({"audio": "redis:secret"}, 403, "is not taken here"),
        ({"audio": "data:,x", "language": "tlh"}, 422, "language: Input should be 'auto', 'zh'"),
        ({"audio": "data:,x", "ttl": -1}, 422, "ttl: Input should be greater than"),
        ({"audio": "data:,x", "id": "a\nb"}, 400, "1 to 200 printable characters"),
        ({"audio": "data:,x", "callback_url": "https://example.org"}, 400, "sends no webhooks"),
        ({"audio": "data:,x", "metadata": "x" * 70_000}, 400, "JSON of at most 65536 bytes"),
    ],
)
def test_invalid_job_is_refused_with_a_fix(
    http: httpx.Client, body: dict[str, Any], status: int, message: str
) -> None:
    answer = http.post(JOBS, json=body)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert message in problem["detail"]
    assert (problem["type"], problem["status"]) == ("about:blank", status)


@pytest.mark.parametrize(
    ("content", "kind", "status", "message"),
    [
        (b"{", "application/json", 400, "the body is not JSON"),
        (b'{"audio": NaN}', "application/json", 400, "NaN is not JSON"),
        (b"[]", "application/json", 422, "there are 0 jobs: send 1 to 1000"),
        (b"audio=x", "application/x-www-form-urlencoded", 415, "send application/json"),
        (b"--x\r\n", "multipart/form-data; boundary=x", 400, "cut short"),
        (b"", "multipart/form-data", 415, "multipart/form-data"),
    ],
)
def test_invalid_body_is_refused(
    http: httpx.Client, content: bytes, kind: str, status: int, message: str
) -> None:
    answer = http.post(JOBS, content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert message in answer.json()["detail"]


def test_unknown_job_is_not_found(http: httpx.Client) -> None:
    answer = http.get(f"{JOBS}/nobody", params={"wait": 30})
    assert answer.status_code == 404
    assert "'nobody' is known" in answer.json()["detail"]


def test_field_body_or_form_above_its_limit_is_refused(http: httpx.Client) -> None:
    field = http.post(JOBS, files={"metadata": (None, "x" * 200_000)})
    assert field.status_code == 413
    assert "'metadata' has more than" in field.json()["detail"]
    body = http.post(JOBS, content=b"x" * (9 << 20), headers={"Content-Type": "application/json"})
    assert body.status_code == 413
    many = http.post(JOBS, files=[("file", b"x")] * 70)
    assert many.status_code == 413
    assert "at most" in many.json()["detail"]
