"""A master, a replica and three sentinels on the loopback: what a failover needs, for real."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError
from sensestream_producer.local.parent_death import Lifeline
from sensestream_producer.local.redis_server import EmbeddedRedis, find_redis_server

from chaos.proxy import Proxy

__all__ = ["MASTER", "SentinelSet"]

MASTER = "sensestream-master"

_SENTINELS = 3
_QUORUM = 2
_DOWN_AFTER_MS = 500  # a production setup says 5 to 30 s; the mechanism is the same
_FAILOVER_TIMEOUT_MS = 3000
_LONGEST = 30.0  # seconds to wait for replication, discovery or a promotion


class SentinelSet:
    """One Redis with a replica under the eyes of three sentinels, as long as its `with` block.

    `fail_over` kills the master and returns once the sentinels have promoted its replica.
    """

    def __init__(self, *, executable: str | None = None, appendfsync: str = "everysec") -> None:
        self._executable = executable or find_redis_server()
        self._password = secrets.token_hex(16)
        self._stack = ExitStack()
        self._ports: list[int] = []
        options: dict[str, Any] = {
            "executable": self._executable,
            "appendonly": True,
            "appendfsync": appendfsync,
            "tcp": True,
            "password": self._password,
            # Both ways: the old master would come back as the new one's replica.
            "config": {"masterauth": self._password, "repl-diskless-sync-delay": "0"},
        }
        self.master = EmbeddedRedis(**options)
        self.replica = EmbeddedRedis(**options)

    @property
    def url(self) -> str:
        """The pipeline's URL, which stays the same whoever is the master."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"redis+sentinel://:{self._password}@{hosts}/{MASTER}/0"

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.master = stack.enter_context(self.master)
            self.replica = stack.enter_context(self.replica)
            with self.replica.client() as replica:
                replica.replicaof("127.0.0.1", self.master.port)
                _wait(lambda: _replicates(replica), "the replica to follow its master")
            for _ in range(_SENTINELS):
                self._ports.append(self._start_sentinel(stack))
            for port in self._ports:
                _wait(partial(_sees_all, port), "the sentinels to find each other")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fail_over(self, lag: float = 0.0) -> float:
        """SIGKILL the master; the seconds until its replica had taken its place.

        With `lag` the replica falls behind by so many seconds first, and what is under way to it
        is lost with the master, as when a whole machine goes.
        """
        with ExitStack() as stack:
            link = self._slow_down(stack, lag) if lag else None
            began = time.monotonic()
            self.master.kill()
            if link is not None:
                link.cut()
            return self._await_promotion(began)

    def _slow_down(self, stack: ExitStack, lag: float) -> Proxy:
        link = stack.enter_context(Proxy(self.master.port))
        link.delay(lag)
        with self.replica.client() as replica:
            replica.replicaof("127.0.0.1", link.port)
            _wait(lambda: _replicates(replica), "the replica to follow through a slow link")
        time.sleep(3 * lag)  # every chunk is under way for so long: let the link fill
        return link

    def _await_promotion(self, began: float) -> float:
        with self.replica.client() as redis:
            _wait(lambda: redis.role()[0] == b"master", "the sentinels to promote the replica")
        return time.monotonic() - began

    def _start_sentinel(self, stack: ExitStack) -> int:
        port = _free_port()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sensestream-")))
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {port}\n"
            "bind 127.0.0.1\n"
            f"dir {folder}\n"
            f"logfile {folder / 'sentinel.log'}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} {_QUORUM}\n"
            f"sentinel auth-pass {MASTER} {self._password}\n"
            f"sentinel down-after-milliseconds {MASTER} {_DOWN_AFTER_MS}\n"
            f"sentinel failover-timeout {MASTER} {_FAILOVER_TIMEOUT_MS}\n",
            encoding="utf-8",
        )
        process = subprocess.Popen(
            [self._executable, str(config), "--sentinel"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        lifeline = Lifeline(process.pid, folder)
        stack.callback(lifeline.release)
        stack.callback(process.wait)
        stack.callback(process.kill)
        return port


def _replicates(replica: Any) -> bool:
    return bool(replica.info("replication").get("master_link_status") == "up")


def _sees_all(port: int) -> bool:
    """Whether a sentinel knows the other two and the replica, without which it promotes nobody."""
    with Redis(port=port, protocol=2, socket_timeout=5) as sentinel:
        state: Any = sentinel.sentinel_master(MASTER)
    return bool(
        state["num-other-sentinels"] == _SENTINELS - 1
        and state["num-slaves"] == 1
        and not state["is_disconnected"]
    )


def _wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _LONGEST
    while True:
        with contextlib.suppress(RedisError, OSError):  # still starting, or just killed
            if condition():
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_LONGEST:.0f} s in vain for {what}")
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
