"""What a worker's host is looked at for: by `sensestream-worker --check`, and before a start."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from redis import Redis
from sensestream_common.contract.errors import PipelineError
from sensestream_common.contract.keys import Keys
from sensestream_common.findings import Finding, Level
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.startup import check_command as checkup
from sensestream_consumer.startup.host_checks import host_findings
from sensestream_consumer.startup.preflight import check_redis

pytestmark = pytest.mark.anyio

KEYS = Keys("sensestream")
NOBODY = 65534


async def look(url: str, **settings: Any) -> dict[str, Finding]:
    options = {"redis_url": url, "model": "demo", "audio_roots": (Path(__file__).parent,)}
    found = await checkup.check(WorkerSettings(**(options | settings)))
    return {finding.check: finding for finding in found}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything: for as long as this lasts the process is somebody who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that other users can reach, as pytest's own cannot be."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_a_check_that_passes_names_model_device_and_fingerprint(
    redis_url: str,
) -> None:
    found = await look(redis_url, device="cpu")
    assert "demo-int8 from demo, fingerprint " in found["model"].observed
    assert found["device"].observed == "cpu asked for, cpu given"
    assert f"onnxruntime {onnxruntime.__version__}" in found["runtime"].observed
    assert found["audio_roots"].observed == f"{Path(__file__).parent} is readable"
    assert "no worker lives" in found["recogniser"].observed
    assert Level.FAULT not in {finding.level for finding in found.values()}
    with Redis.from_url(redis_url) as redis:
        assert redis.keys("*") == []


async def test_another_model_than_the_groups_is_a_fault_before_it_is_refused(
    redis_url: str,
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.set(KEYS.recogniser, "f" * 32, ex=60)
        other = (await look(redis_url))["recogniser"]
        assert other.level is Level.FAULT
        assert "f" * 32 in other.observed
        assert "SENSESTREAM_ALLOW_MIXED" in other.fix
        assert (await look(redis_url, allow_mixed=True))["recogniser"].level is Level.WARNING
        ours = (await look(redis_url))["model"].observed.rpartition(" ")[2]
        redis.set(KEYS.recogniser, ours, ex=60)
        assert (await look(redis_url))["recogniser"].level is Level.OK


async def test_a_model_that_cannot_be_loaded_is_a_fault_that_names_the_file(
    redis_url: str, tmp_path: Path
) -> None:
    found = await look(redis_url, model="")
    assert found["model"].level is Level.FAULT
    assert "SENSESTREAM_MODEL is not set" in found["model"].observed
    found = await look(redis_url, model=str(tmp_path))
    assert found["model"].level is Level.FAULT
    assert "model_quant.onnx" in found["model"].observed
    assert "SENSESTREAM_MODEL" in found["model"].fix


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="the installed ONNX Runtime has CUDA",
)
async def test_an_unavailable_device_is_a_fault(redis_url: str) -> None:
    found = await look(redis_url, device="cuda")
    assert found["device"].level is Level.FAULT
    assert "cuda was asked for" in found["device"].observed
    assert "SENSESTREAM_DEVICE=cpu" in found["device"].fix


async def test_a_gpu_that_auto_does_not_use_is_a_warning(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine with a card, as far as its device files tell.
    monkeypatch.setattr(checkup, "_DEVICES", tmp_path)
    assert (await look(redis_url))["device"].level is Level.OK
    (tmp_path / "nvidia0").touch()
    assert (await look(redis_url))["device"].level is Level.WARNING
    assert (await look(redis_url, device="cpu"))["device"].level is Level.OK


def test_two_installed_runtimes_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second one by its metadata alone, which is what is looked at: its files take 300 MB.
    about = tmp_path / "onnxruntime_gpu-1.31.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    finding = host_findings(WorkerSettings(audio_roots=(tmp_path,)))[0]
    assert finding.level is Level.WARNING
    assert "onnxruntime-gpu 1.31.1 are both installed" in finding.observed
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.fix


def test_a_root_that_the_workers_user_cannot_list_is_a_fault(folder: Path) -> None:
    folder.chmod(0)
    settings = WorkerSettings(audio_roots=(folder,))
    with as_nobody():
        finding = host_findings(settings)[1]
    assert finding.level is Level.FAULT
    assert f"{folder} cannot be listed" in finding.observed
    assert "permission" in finding.fix


def test_recordings_that_the_workers_user_cannot_read_are_counted(folder: Path) -> None:
    settings = WorkerSettings(audio_roots=(folder,))
    assert host_findings(settings)[1].observed == f"{folder} is readable and empty"
    for name, mode in (("mine.wav", 0o000), ("shared.wav", 0o644)):
        (folder / name).write_bytes(b"RIFF")
        (folder / name).chmod(mode)
    os.mkfifo(folder / "pipe")  # which would block whoever opens it, and is read by nobody
    with as_nobody():
        finding = host_findings(settings)[1]
    assert finding.level is Level.WARNING
    assert f"1 of the first 2 names in {folder} cannot be read" in finding.observed
    assert "mine.wav" in finding.observed


async def test_the_host_is_checked_while_redis_is_away(
    tmp_path: Path,
) -> None:
    found = await look(f"unix://{tmp_path}/none.sock")
    assert found["redis"].level is Level.FAULT
    assert found["model"].level is Level.OK


async def test_a_worker_refuses_a_redis_too_old_for_its_commands() -> None:
    class Ancient:
        """No server so old can be had: it answers as one would."""

        async def info(self) -> dict[str, Any]:
            return {"redis_version": "6.0.16", "aof_enabled": 1, "maxmemory_policy": "volatile-lfu"}

    ancient: Any = Ancient()
    with pytest.raises(PipelineError, match=r"6\.0\.16: Sensestream needs 6\.2"):
        await check_redis(ancient)
