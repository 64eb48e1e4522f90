"""`sensestream-worker` at the prompt: what it teaches, and how it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sensestream_consumer.settings import WorkerSettings

from tests.pipeline.conftest import StartWorker

COMMAND = Path(sys.executable).with_name("sensestream-worker")


def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("SENSESTREAM_")}
    return subprocess.run(
        [COMMAND, *arguments], env=clean | environment, capture_output=True, text=True, timeout=60
    )


def test_help_names_every_setting_by_flag_and_by_variable() -> None:
    text = " ".join(call("--help").stdout.split())
    for name in WorkerSettings.model_fields:
        assert f"--{name.replace('_', '-')}" in text
        assert f"SENSESTREAM_{name.upper()}" in text.replace(" ", "")


def test_without_a_model_it_names_the_choices() -> None:
    refused = call()
    assert refused.returncode == 2
    assert "SENSESTREAM_MODEL" in refused.stderr
    assert "demo" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SENSESTREAM_MAX_ATTEMPTS", "many"),
        ("SENSESTREAM_RECLAIM_AFTER", "-1"),
        ("SENSESTREAM_REDIS_URL", "http://somewhere"),
        ("SENSESTREAM_PIPELINE", "two words"),
        ("SENSESTREAM_DEVICE", "gpu"),
        ("SENSESTREAM_AUDIO_ROOTS", "/nowhere/at/all"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(variable: str, value: str) -> None:
    refused = call("--model", "demo", **{variable: value})
    assert refused.returncode == 2
    assert f"{variable}=" in refused.stderr
    assert value in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_flag_goes_before_the_environment() -> None:
    refused = call("--model", "/none/such", SENSESTREAM_MODEL="demo")
    assert refused.returncode == 1
    assert "/none/such" in refused.stderr


def test_health_tells_whether_a_worker_of_this_host_lives(
    redis_url: str, start_worker: StartWorker
) -> None:
    assert call("--health", SENSESTREAM_REDIS_URL=redis_url).returncode == 1
    worker = start_worker()
    assert call("--health", SENSESTREAM_REDIS_URL=redis_url).returncode == 0
    worker.terminate()
    assert call("--health", SENSESTREAM_REDIS_URL=redis_url).returncode == 1


def test_health_without_redis_is_a_sentence(tmp_path: Path) -> None:
    sick = call("--health", SENSESTREAM_REDIS_URL=f"unix://{tmp_path}/none.sock")
    assert sick.returncode == 1
    assert "Redis does not answer" in sick.stderr
