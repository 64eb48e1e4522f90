"""The tutorial's routes: /api/transcribe and /cache/stats."""

from __future__ import annotations

from typing import Any

import httpx
from sensestream_common.contract.keys import Keys

from tests.gateway.conftest import CLIPS

KEYS = Keys("sensestream")
CLIP = CLIPS / "ko-opus.ogg"


def test_transcribe_answers_with_tags_and_honours_use_itn(http: httpx.Client) -> None:
    def transcribe(**fields: str) -> dict[str, Any]:
        files = {"file": (CLIP.name, CLIP.read_bytes())}
        answer = http.post("/api/transcribe", files=files, data=fields)
        assert answer.status_code == 200
        return dict(answer.json())

    first = transcribe(language="ko", use_itn="false")
    again = transcribe(language="ko", use_itn="false")
    assert set(first) == {"status", "data", "from_cache", "message"}
    assert first["status"] == "success"
    assert first["data"] == "<|ko|><|NEUTRAL|><|Speech|><|woitn|>일칠이팔사육"
    assert again == {**first, "from_cache": True, "message": "answered from the cache"}
    assert transcribe(use_itn="true")["data"].endswith("<|withitn|>172846")


def test_errors_have_the_shape_of_the_tutorial(http: httpx.Client) -> None:
    for files, status in (({"file": b"no audio"}, 400), ({"language": (None, "xx")}, 400)):
        answer = http.post("/api/transcribe", files=files)
        assert answer.status_code == status
        problem = answer.json()
        assert (problem["status"], problem["data"], problem["from_cache"]) == ("error", None, False)
        assert problem["message"]


def test_cache_stats_match_the_pipeline(http: httpx.Client, redis: Any) -> None:
    found = http.get("/cache/stats").json()
    assert found["total_keys"] == len(redis.keys(KEYS.result("*")))
    counters = redis.hgetall(KEYS.stats)
    assert found["hits"] + found["misses"] <= int(counters[b"completed"])
    assert 0 <= found["hit_rate"] <= 1
