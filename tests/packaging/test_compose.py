"""compose.yaml and the Dockerfile: what they must say, whether or not there is an engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.packaging.workspace import ROOT, package

SECONDS = re.compile(r"(\d+)s")
DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """The file with its defaults filled in: by docker where it can, by our own reading else."""
    command = _docker_compose()
    if command:
        # The defaults, whatever a developer's environment and .env say.
        environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        options = ["--env-file", os.devnull, "--profile", "*"]
        done = subprocess.run(
            [*command, *options, "config", "--format", "json"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        parsed = json.loads(done.stdout)
    else:
        text = DEFAULT.sub(r"\1", (ROOT / "compose.yaml").read_text())
        parsed = yaml.safe_load(text)
    assert isinstance(parsed, dict)
    return parsed


def _docker_compose() -> list[str]:
    """Docker Compose, as a plugin or by itself; reading a file, it asks for no engine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and _runs([*command, "version"]):
            return command
    return []


def _runs(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def service(compose: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose["services"][name]
    return found


def settings_of_redis(compose: dict[str, Any]) -> dict[str, str]:
    command = service(compose, "redis")["command"][1:]
    return {
        name.removeprefix("--"): value
        for name, value in zip(command[::2], command[1::2], strict=True)
    }


def test_redis_keeps_the_queue_and_evicts_only_what_has_an_expiry(compose: dict[str, Any]) -> None:
    redis = settings_of_redis(compose)
    assert redis["appendonly"] == "yes"
    assert redis["appendfsync"] == "everysec"
    assert redis["maxmemory-policy"] == "volatile-lfu"
    assert redis["maxmemory"].endswith("mb")
    assert any("/data" in str(volume) for volume in service(compose, "redis")["volumes"])


def test_containers_reach_a_redis_that_protects_itself_by_default(compose: dict[str, Any]) -> None:
    assert settings_of_redis(compose)["protected-mode"] == "no"


def test_redis_is_published_on_loopback_alone(compose: dict[str, Any]) -> None:
    ports = service(compose, "redis")["ports"]
    assert len(ports) == 1
    for port in ports:
        host = port["host_ip"] if isinstance(port, dict) else port.partition(":")[0]
        assert host == "127.0.0.1"
    assert not any("ports" in service(compose, name) for name in ("worker", "worker-gpu"))


def test_a_plain_up_starts_redis_and_a_cpu_worker_with_the_embedded_model(
    compose: dict[str, Any],
) -> None:
    plain = {name for name, one in compose["services"].items() if not one.get("profiles")}
    assert plain == {"redis", "worker"}
    worker = service(compose, "worker")["environment"]
    assert worker["SENSESTREAM_MODEL"] == "demo"
    assert worker["SENSESTREAM_DEVICE"] == "cpu"


def test_the_gpu_is_a_profile_with_a_device_of_its_own(compose: dict[str, Any]) -> None:
    gpu = service(compose, "worker-gpu")
    assert gpu["profiles"] == ["gpu"]
    assert gpu["environment"]["SENSESTREAM_DEVICE"] == "cuda"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_workers_only_read_audio_and_models(compose: dict[str, Any], name: str) -> None:
    writable = []
    for mount in service(compose, name)["volumes"]:
        if isinstance(mount, dict):  # as `docker compose config` gives it
            target, read_only = mount["target"], mount.get("read_only", False)
        else:
            target, read_only = mount.removesuffix(":ro").rpartition(":")[2], mount.endswith(":ro")
        if not read_only:
            writable.append(target)
    assert writable == ["/cache"]  # converted models, which are the worker's own


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_stopped_worker_has_time_to_drain(compose: dict[str, Any], name: str) -> None:
    worker = service(compose, name)
    grace = SECONDS.fullmatch(worker["stop_grace_period"])
    assert grace
    assert int(grace[1]) > int(worker["environment"]["SENSESTREAM_DRAIN_TIMEOUT"])


@pytest.mark.parametrize("name", ["redis", "worker", "worker-gpu", "producer"])
def test_every_container_runs_with_as_little_as_it_needs(
    compose: dict[str, Any], name: str
) -> None:
    one = service(compose, name)
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["init"] is True
    limits = one["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert limits["pids"] > 0
    if name != "producer":
        assert one["healthcheck"]["test"]


def stages_of_the_dockerfile() -> dict[str, str]:
    """Each stage by its name, in order, from its base on: what it builds on comes first."""
    stages: dict[str, str] = {}
    for stage in re.split(r"^FROM ", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]:
        base, name = stage.split("\n")[0].split(" AS ")
        stages[name.strip()] = stages.get(base.strip(), "") + stage
    return stages


def test_every_image_is_a_stage_of_the_dockerfile_and_none_runs_as_root(
    compose: dict[str, Any],
) -> None:
    stages = stages_of_the_dockerfile()
    targets = {one["build"]["target"] for one in compose["services"].values() if "build" in one}
    assert targets == {"worker", "worker-gpu", "client"}
    for target in targets:
        # A number: Kubernetes' runAsNonRoot does not believe a name.
        assert re.findall(r"^USER (.+)$", stages[target], re.MULTILINE)[-1] == "10001:10001"
    assert list(stages)[-1] == "worker", "a build without --target gives the CPU worker"


@pytest.mark.parametrize("target", ["worker", "worker-gpu"])
def test_a_worker_started_without_compose_reports_its_health_and_drains_as_well(
    target: str,
) -> None:
    stage = stages_of_the_dockerfile()[target]
    assert 'CMD ["sensestream-worker", "--health"]' in stage
    assert re.search(r"^STOPSIGNAL SIGTERM$", stage, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["sensestream-worker"\]$', stage, re.MULTILINE)


def test_the_build_context_holds_what_the_dockerfile_copies() -> None:
    kept = {
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    text = (ROOT / "Dockerfile").read_text()
    copied = {
        name
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, flags=re.MULTILINE)
        for name in sources.split()
    }
    assert copied == kept
    assert all((ROOT / name).exists() for name in kept)


def test_compose_names_only_settings_that_exist(compose: dict[str, Any]) -> None:
    given = {
        name
        for one in compose["services"].values()
        for name in one.get("environment", {})
        if name.startswith("SENSESTREAM_")
    }
    known = "\n".join(
        (package(folder) / "settings.py").read_text() for folder in ("common", "consumer")
    )
    unknown = {
        name
        for name in given
        if not re.search(rf"^    {name.removeprefix('SENSESTREAM_').lower()}:", known, re.MULTILINE)
    }
    assert not unknown
