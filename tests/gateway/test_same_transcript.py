"""The same recording gets the same transcript by every way into the pipeline."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys

from tests.gateway.conftest import CLIPS, TRANSCRIBE, submit
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")


def from_openai_sdk(gateway: GatewayProcess, clip: Path) -> str:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="unused") as client:
        return client.audio.transcriptions.create(model="whisper-1", file=clip, language="en").text


def from_curl(gateway: GatewayProcess, clip: Path) -> str:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl on this machine")
    url = gateway.url + TRANSCRIBE
    form = ["-F", f"file=@{clip}", "-F", "language=en"]
    done = subprocess.run([curl, "-sS", *form, url], capture_output=True, check=True)
    return str(json.loads(done.stdout)["text"])


def from_job(gateway: GatewayProcess, clip: Path) -> str:
    return str(submit(gateway, clip.read_bytes(), language="en")["outcome"]["text"])


def from_tutorial_route(gateway: GatewayProcess, clip: Path) -> str:
    files, data = {"file": clip.read_bytes()}, {"language": "en", "use_itn": "true"}
    answer = httpx.post(f"{gateway.url}/api/transcribe", files=files, data=data, timeout=60).json()
    return re.sub(r"<\|[^|]*\|>", "", answer["data"])


def from_xadd(redis: Redis, clip: Path) -> str:
    audio = f"data:audio/flac;base64,{base64.b64encode(clip.read_bytes()).decode()}"
    entry = redis.xadd(KEYS.requests, {"audio": audio, "language": "en"})
    assert isinstance(entry, bytes)

    def outcome() -> dict[bytes, bytes]:
        outcomes: Any = redis.xrevrange(KEYS.transcripts, count=50)
        return next((fields for _, fields in outcomes if fields[b"entry"] == entry), {})

    return wait_until_sync(outcome)[b"text"].decode()


def test_every_way_in_gives_the_same_transcript(gateway: GatewayProcess, redis: Redis) -> None:
    clip = next(iter(sorted(CLIPS.glob("*en*.flac"))))
    ways = [from_openai_sdk, from_curl, from_job, from_tutorial_route]
    texts = [way(gateway, clip) for way in ways] + [from_xadd(redis, clip)]
    assert texts[0]
    assert texts == [texts[0]] * len(texts)
