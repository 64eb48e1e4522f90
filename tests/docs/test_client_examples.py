"""The pages about the clients: every example is run as it stands there."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sensestream_common.contract.keys import Keys
from sensestream_producer import Client, blocking
from sensestream_producer.testing import ScriptedPipeline

from tests.packaging.workspace import ROOT
from tests.support.background import answered, complete
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
PAGES = "\n".join(
    (ROOT / "docs" / page).read_text("utf-8") for page in ("submit.md", "follow.md", "testing.md")
)
EXAMPLES = dict(re.findall(r"<!-- run: (\S+) -->\n```python\n(.*?)```", PAGES, re.DOTALL))

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes an example as the file that it is called in the document."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.write_text(EXAMPLES[name], "utf-8")
        return path

    return write


@pytest.fixture
def module(write: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports an example of a framework's, its pipeline in memory; a skip without the framework."""
    pipeline = ScriptedPipeline("hello")
    monkeypatch.setattr(
        blocking.Client, "from_settings", lambda _settings: pipeline.blocking_client()
    )
    monkeypatch.setattr(Client, "from_settings", lambda _settings: pipeline.client())

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name.removesuffix(".py"), write(name))
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        loaded.in_memory = pipeline  # type: ignore[attr-defined]
        return loaded

    return load


def environment(url: str) -> dict[str, str]:
    return {**os.environ, "SENSESTREAM_REDIS_URL": url}


def test_every_python_block_of_the_pages_is_run_somewhere() -> None:
    assert len(EXAMPLES) == PAGES.count("```python\n")
    here = Path(__file__).read_text("utf-8")
    assert all(f'"{name}"' in here for name in EXAMPLES)


def test_the_script_prints_the_transcript_of_each_file(
    write: Write, tmp_path: Path, redis_url: str
) -> None:
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(name.encode())
    command = [sys.executable, "-W", "error", str(write("script.py"))]
    with answered(redis_url, KEYS, text="good morning"):
        done = subprocess.run(
            [*command, "a.wav", "b.wav", "missing.wav"],
            cwd=tmp_path,
            env=environment(redis_url),
            capture_output=True,
            text=True,
        )
    assert done.stdout == "a.wav: good morning\nb.wav: good morning\n"
    assert done.stderr.startswith("missing.wav: ")
    assert done.returncode == 1


def test_the_follower_resumes_where_it_was_interrupted(
    write: Write, tmp_path: Path, redis_url: str
) -> None:
    path, seen = write("follower.py"), tmp_path / "seen"

    def position() -> str:
        return seen.read_text() if seen.exists() else ""

    def follow() -> str:
        """The first line it prints, and then it is interrupted."""
        before = position()
        with subprocess.Popen(
            [sys.executable, "-W", "error", path, seen],
            env=environment(redis_url),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            wait_until_sync(lambda: position() not in ("", before), what="the position is kept")
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20) == ("", "")
            assert process.returncode == 0
        return str(line)

    with answered(redis_url, KEYS), blocking.Client(redis_url) as client:
        client.transcribe("file:///data/a.wav", id="a")
        assert follow() == "a hello\n"
        client.transcribe("file:///data/b.wav", id="b")
        assert follow() == "b hello\n"


def test_the_test_module_passes_by_itself(write: Write, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(
        [*command, write("test_calls.py")], cwd=tmp_path, capture_output=True, text=True
    )
    assert "3 passed" in done.stdout, done.stdout


def test_the_celery_task_gives_the_text(
    module: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("celery", reason="Celery is not installed: its task was not run")
    monkeypatch.setenv("CALLS_BROKER", "memory://")
    tasks = module("tasks.py")
    with tasks.pipeline:
        assert tasks.transcribe.apply(("7", "file:///calls/7.wav")).get() == "hello"
        assert [outcome.id for outcome in tasks.in_memory.outcomes] == ["call-7"]


def test_the_flask_views_take_a_recording_and_show_its_outcome(
    module: Callable[[str], Any],
) -> None:
    pytest.importorskip("flask", reason="Flask is not installed: its views were not run")
    views = module("views.py")
    with views.pipeline, views.app.test_client() as browser:
        assert browser.put("/calls/7/recording", data=b"RIFF").status_code == 202
        assert browser.put("/calls/7/recording", data=b"RIFF").json["duplicate"]
        assert browser.put("/calls/8/recording", data=b"").status_code == 400
        assert browser.get("/calls/7").json["outcome"]["text"] == "hello"
        assert browser.get("/calls/9").status_code == 404


def test_the_fastapi_service_answers_with_the_outcome(module: Callable[[str], Any]) -> None:
    pytest.importorskip("fastapi", reason="FastAPI is not installed: its service was not run")
    service = module("service.py")

    async def ask(recording: str) -> Any:
        app = service.app
        transport = httpx.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as browser,
        ):
            return (await browser.post("/transcripts", params={"recording": recording})).json()

    assert complete(ask("file:///calls/7.wav"))["text"] == "hello"
