"""An upstream service installs the client side alone: no numpy, no runtime, and it submits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from tests.packaging.conftest import pip
from tests.packaging.workspace import ROOT

# What a service that only submits must not have to install.
HEAVY = {
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "funasr-onnx",
    "av",
    "soundfile",
    "scipy",
}

SUBMIT = """
import asyncio, importlib.metadata, json, os, sys
from sensestream_producer import Client

async def main():
    async with Client(sys.argv[1], pipeline="alone") as client:
        return await client.submit("file:///data/a.wav", id="ticket-7", language="yue")

receipt = asyncio.run(main())
installed = [one.metadata["Name"].lower() for one in importlib.metadata.distributions()]
print(json.dumps({"installed": installed, "loaded": sorted(sys.modules), "id": receipt.id}))
"""

# Answers a cache hit by itself, on the terms that it finds in Redis.
HIT = """
import asyncio, json, sys
from sensestream_producer import Client

async def main():
    async with Client(sys.argv[1], pipeline="alone") as client:
        receipt = await client.submit("file:///gone.wav", digest=sys.argv[2])
    return receipt.answer

answer = asyncio.run(main())
print(json.dumps(answer and answer.to_json()))
"""


@pytest.fixture(scope="module")
def alone(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a clean environment that holds the two and what they ask for."""
    venv = tmp_path_factory.mktemp("alone") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    client_side = [wheels["common"], wheels["producer"]]
    constrained: list[str | Path] = ["--no-compile", "-c", ROOT / "constraints.txt"]
    installed = pip("--python", python, "install", "-q", *constrained, *client_side)
    if installed.returncode != 0:
        offline = "Could not find a version" in installed.stderr
        if offline and os.environ.get("CI", "").lower() not in ("1", "true"):
            pytest.skip("no package index can be reached")
        pytest.fail(installed.stderr)
    return python


def test_the_client_side_alone_submits_without_the_engines_libraries(
    alone: Path, redis_url: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [alone, "-I", "-W", "error", "-c", SUBMIT, redis_url],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert HEAVY.isdisjoint(said["installed"])
    assert HEAVY.isdisjoint(said["loaded"])

    with Redis.from_url(redis_url) as redis:
        ((_, request),) = redis.xrange("{alone}:requests")
    assert said["id"] == "ticket-7"
    assert request[b"audio"] == b"file:///data/a.wav"
    assert request[b"language"] == b"yue"


def test_the_client_side_alone_learns_from_the_workers_terms_which_answers_count(
    alone: Path, redis_url: str, tmp_path: Path
) -> None:
    """Keys and values are written out here as the contract has them, in any language."""
    digest, audio = f"sha256:{'d' * 64}", "a" * 64
    identity = hashlib.sha256("\n".join((audio, "model", "auto", "1")).encode()).hexdigest()
    warning = {"code": "audio_truncated", "message": "its last 0.4 s are missing"}
    transcript = {
        "text": "hello", "language": "en", "emotion": "", "events": [], "segments": [],
        "confidence": 0.9, "duration": 1.5,
    }  # fmt: skip

    def answer() -> Any:
        done = subprocess.run(
            [alone, "-I", "-W", "error", "-c", HIT, redis_url, digest],
            cwd=tmp_path, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with Redis.from_url(redis_url) as redis:
        redis.set(f"{{alone}}:audio:2-18.1.0:{digest}", f"{audio} {json.dumps([warning])}")
        redis.hset(f"{{alone}}:result:{identity}", "transcript", json.dumps(transcript))
        terms = {"recogniser": "model", "result_ttl": "60", "request_ttl": "60"}
        redis.hset("{alone}:reuse-policy", mapping=terms)
        assert answer() is None  # nothing says which aliases count
        redis.hset("{alone}:reuse-policy", "decode_revision", "1-18.1.0")
        assert answer() is None  # other decoders may have read other audio
        redis.hset("{alone}:reuse-policy", "decode_revision", "2-18.1.0")
        found = answer()
    assert (found["text"], found["cache"]) == ("hello", "hit")
    assert found["warnings"] == [warning]


def test_the_environment_has_everything_the_client_side_asks_for(alone: Path) -> None:
    check = pip("--python", alone, "check")
    assert check.returncode == 0, check.stdout


def test_the_doctor_looks_at_redis_and_says_what_to_install_for_the_rest(
    alone: Path, redis_url: str
) -> None:
    doctor = [str(alone.with_name("sensestream")), "--redis-url", redis_url, "doctor", "--json"]
    done = subprocess.run(doctor, env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = {finding["check"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert found["redis"]["level"] == "ok"
    assert "no worker is installed here" in found["worker"]["observed"]
    assert "pip install" in found["worker"]["fix"]
