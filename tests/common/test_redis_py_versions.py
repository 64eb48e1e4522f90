"""The pipelined connection with the oldest and the newest redis-py that common allows.

It takes the transport of redis-py's connection, which is private there: a version that keeps it
elsewhere must be found here, and not by a slower client.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import asyncio, sys
import redis
from redis.asyncio import Redis
from sensestream_common.connections import pipelined_connection as module
from sensestream_common.connections.connection import connect

async def main():
    async with connect(sys.argv[1], name="versions") as client:
        line = module.PipelinedConnection(client)
        texts = [str(n) for n in range(100)]
        replies = await asyncio.gather(*(line.execute([module.pack("ECHO", t)]) for t in texts))
        assert replies == [[t.encode()] for t in texts], replies
        print(redis.__version__, type(line._exchanges).__name__)
        await line.close()
        assert await client.ping()

asyncio.run(main())
"""


def _bounds() -> tuple[str, str]:
    """The oldest version that is allowed, and the first one that is not any more."""
    project = tomllib.loads((ROOT / "common" / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in project["dependencies"]:
        if found := re.fullmatch(r"redis\[hiredis\]>=([\d.]+),<(\d+)", requirement):
            return found[1], found[2]
    raise AssertionError("common requires no range of redis-py")


OLDEST, TOO_NEW = _bounds()


def _install(requirement: str, folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    command = [*pip, "--no-deps", "--target", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=90)
    if done.returncode:
        if os.environ.get("CI"):
            pytest.fail(f"{requirement} could not be installed: {done.stderr}")
        pytest.skip(f"no package index: {requirement} could not be installed")


@pytest.mark.long
@pytest.mark.parametrize("requirement", [f"redis=={OLDEST}.0", f"redis<{TOO_NEW}"])
def test_the_transport_is_found_at_both_ends_of_the_supported_range(
    requirement: str, redis_url: str, tmp_path: Path
) -> None:
    _install(requirement, tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, redis_url],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version, reading = done.stdout.split()
    assert reading == "ReplyProtocol"
    assert version.startswith(f"{OLDEST}." if "==" in requirement else f"{int(TOO_NEW) - 1}.")
