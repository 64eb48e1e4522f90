"""`sensestream demo`: the whole pipeline in one command, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest
from sensestream_producer.cli.demo_session import bundled_clips
from sensestream_producer.local.worker_process import WorkerMissing, find_worker

from tests.support.waiting import wait_until_sync

MAIN = [sys.executable, "-c", "from sensestream_producer.cli import main; main()"]


@pytest.fixture
def environment(redis_executable: str, tmp_path: Path) -> dict[str, str]:
    """As a user has it, with a temporary directory to look into afterwards."""
    return {**os.environ, "TMPDIR": str(tmp_path)}


def left_behind(temporary: Path) -> list[str]:
    """Our own directories; ONNX Runtime leaves a file of its own (`.ses`)."""
    return [path.name for path in temporary.iterdir() if path.name.startswith("sensestream")]


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def test_every_clip_is_right_and_the_second_time_a_hit(
    environment: dict[str, str], tmp_path: Path
) -> None:
    clips = bundled_clips()
    result = subprocess.run(
        [*MAIN, "demo", "--json"], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    outcomes = [json.loads(line) for line in result.stdout.splitlines()]
    assert [outcome["text"] for outcome in outcomes] == [clip.text for clip in clips] * 2
    assert {outcome["cache"] for outcome in outcomes[len(clips) :]} == {"hit"}
    assert result.stderr == ""
    assert left_behind(tmp_path) == []


def test_it_shows_each_clip_and_the_counters(environment: dict[str, str]) -> None:
    result = subprocess.run(
        [*MAIN, "demo"], env=environment, capture_output=True, text=True, check=False
    )
    clips = bundled_clips()
    for clip in clips:
        assert result.stdout.count(clip.path.name) == 2
    assert f"submitted {2 * len(clips)}, completed {2 * len(clips)}" in result.stdout
    assert "\x1b" not in result.stdout
    assert result.stdout.splitlines()[-1].endswith("sensestream demo --serve")


def test_serve_shows_a_page_with_samples_until_it_is_stopped(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = [*MAIN, "demo", "--serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        found = re.search(r"http://\S+:\d+", demo.stdout.readline())
        assert found is not None
        with httpx.Client(base_url=found[0], timeout=30) as http:
            assert "<title>Sensestream</title>" in http.get("/").text
            assert http.get("/samples").json() == [clip.path.name for clip in bundled_clips()]
            clip = http.get("/samples/ja-studio.ogg").content
            heard = http.post("/v1/audio/transcriptions", files={"file": clip}).json()
            assert heard["text"] == "907214"
            started = descendants(demo.pid)
            demo.send_signal(signal.SIGINT)
        assert demo.wait(30) == 0
    assert not any(each.is_running() for each in started)
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("signum", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_an_interrupt_ends_redis_and_worker_too(
    environment: dict[str, str], tmp_path: Path, signum: int, status: int
) -> None:
    with subprocess.Popen(
        [*MAIN, "demo"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        started = descendants(demo.pid)
        assert len(started) >= 2
        demo.send_signal(signum)
        _, errors = demo.communicate(timeout=30)
    assert (demo.returncode, errors) == (status, "")
    assert not any(each.is_running() for each in started)
    assert left_behind(tmp_path) == []


def test_a_kill_leaves_no_process_behind(environment: dict[str, str], tmp_path: Path) -> None:
    with subprocess.Popen([*MAIN, "demo"], env=environment, stdout=subprocess.PIPE) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        started = descendants(demo.pid)
        demo.kill()
    gone = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)

    def all_gone() -> bool:
        return not any(each.is_running() and each.status() not in gone for each in started)

    wait_until_sync(all_gone, what="redis-server and worker are gone")
    wait_until_sync(lambda: left_behind(tmp_path) == [], what="their directory is gone")


def test_a_worker_that_ends_is_reported_with_its_last_words(
    environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "python").symlink_to(sys.executable)
    worker = folder / "sensestream-worker"
    worker.write_text("#!/bin/sh\necho no model here >&2\nexit 3\n")
    worker.chmod(0o755)
    program = (
        "import sys\n"
        f"sys.executable = {str(folder / 'python')!r}\n"
        "from sensestream_producer.cli import main\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "demo"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert "ended with status 3" in result.stderr
    assert "no model here" in result.stderr
    assert result.stdout == ""


def test_without_an_installed_worker_the_demo_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkerMissing, match=r"consumer\[cpu\]"):
        find_worker()
