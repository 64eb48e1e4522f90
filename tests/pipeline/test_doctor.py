"""`sensestream doctor` beside real workers, and what a worker's start says of itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.pipeline.conftest import Pipeline, StartWorker
from tests.support.clips import write_clip

pytestmark = pytest.mark.long

OwnRedis = Callable[..., EmbeddedRedis]
Findings = dict[str, dict[str, str]]


def run(command: str, *arguments: str, **environment: str) -> tuple[int, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SENSESTREAM_")}
    done = subprocess.run(
        [Path(sys.executable).with_name(command), *arguments],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=90,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout


def by_check(findings: list[dict[str, str]]) -> Findings:
    return {finding["check"]: finding for finding in findings}


def test_doctor_checks_redis_queue_and_this_machines_worker(
    own_redis: OwnRedis, start_worker: StartWorker, clips: Path
) -> None:
    server = own_redis(appendonly=True, maxmemory=256 * 2**20)
    start_worker(url=server.url)
    with server.client() as redis:
        pipeline = Pipeline(redis)
        pipeline.submit(write_clip(clips, 1))
        pipeline.wait_for(1)
    status, output = run(
        "sensestream",
        "doctor",
        "--json",
        SENSESTREAM_REDIS_URL=server.url,
        SENSESTREAM_MODEL="demo",
        SENSESTREAM_DEVICE="cpu",
        SENSESTREAM_AUDIO_ROOTS=str(clips),
    )
    diagnosis = json.loads(output)
    assert (status, diagnosis["status"]) == (0, "ok"), output
    found = by_check(diagnosis["findings"])
    assert len([each for each in diagnosis["findings"] if each["check"] == "persistence"]) == 1
    assert found["workers"]["observed"] == "1 alive, demo-int8 on cpu"
    assert found["recogniser"]["observed"] == "the group runs this model"
    assert found["device"]["observed"] == "cpu asked for, cpu given"
    assert found["audio_roots"]["observed"] == f"{clips} is readable"
    assert found["outcomes"]["observed"].startswith("1 kept, the last ")


def test_a_shell_without_a_model_is_a_warning_though_a_worker_would_refuse_to_start(
    redis_url: str,
) -> None:
    status, output = run("sensestream", "doctor", "--json", SENSESTREAM_REDIS_URL=redis_url)
    model = by_check(json.loads(output)["findings"])["model"]
    assert (status, model["level"]) == (0, "warning")
    assert "SENSESTREAM_MODEL is not set" in model["observed"]
    assert "a worker's environment" in model["fix"]


def test_a_wrong_setting_is_a_finding_like_any_other() -> None:
    status, output = run(
        "sensestream-worker",
        "--check",
        SENSESTREAM_AUDIO_ROOTS="/nowhere/at/all",
        SENSESTREAM_MAX_ATTEMPTS="many",
    )
    found = [json.loads(line) for line in output.splitlines()]
    assert status == 1
    assert [finding["level"] for finding in found] == ["fault", "fault"]
    observed = " ".join(finding["observed"] for finding in found)
    assert "SENSESTREAM_AUDIO_ROOTS='/nowhere/at/all'" in observed
    assert "SENSESTREAM_MAX_ATTEMPTS='many'" in observed


def test_a_workers_start_warns_of_a_redis_that_may_lose_the_queue(
    own_redis: OwnRedis, start_worker: StartWorker
) -> None:
    careless = own_redis(maxmemory=2**30, maxmemory_policy="allkeys-lru")
    worker = start_worker(url=careless.url)
    told = {each["check"]: each for each in worker.events() if each["event"] == "preflight_warning"}
    assert "every queued request, upload and id is lost" in told["eviction"]["observed"]
    assert "volatile-lfu" in told["eviction"]["fix"]
    assert "a restart of Redis loses all requests" in told["persistence"]["observed"]
    careful = own_redis(appendonly=True, maxmemory=2**30)
    assert not start_worker(url=careful.url).logged("preflight_warning")
