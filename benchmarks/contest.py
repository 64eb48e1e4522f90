"""Contenders for the queueing benchmark: each a Redis, workers and a driver of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from known import remember, write_digests
from redis import Redis
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys
from sensestream_producer.local.redis_server import EmbeddedRedis

__all__ = ["CONTENDERS", "Contender", "Process", "peers_python"]

LOOPS = Path(__file__).with_name("loops")
BENCH = Path(__file__).resolve().parent.parent / ".venv-bench-queue"
KEYS = Keys("sensestream")
KNOWN = 1000  # results that hits are spread over
_PATIENCE = 60.0  # seconds for a worker to be ready
_GOODBYE = 5.0  # seconds for a process to end by itself


def peers_python() -> Path:
    """The interpreter of the other queues' environment, made if it is not there."""
    python = BENCH / "bin" / "python"
    if not (BENCH / "ready").exists():
        print(f"making {BENCH.name}", flush=True)
        venv.create(BENCH, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, "-r", str(LOOPS / "requirements.txt")], check=True)
        (BENCH / "ready").touch()
    return python


class Process:
    """A child that says `{"ready": true}` and answers each line with one."""

    def __init__(self, command: list[Any], environment: dict[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self.popen = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, text=True, env={**os.environ, **(environment or {})}, cwd=LOOPS,
        )  # fmt: skip

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.popen.stdin
        self.popen.stdin.write(json.dumps(job) + "\n")
        self.popen.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.popen.stdout
        line = self.popen.stdout.readline()
        if not line:
            self._errors.seek(0)
            errors = self._errors.read()[-2000:].decode("utf-8", "replace")
            sys.exit(f"{' '.join(map(str, self.popen.args))} ended: {errors}")
        found: dict[str, Any] = json.loads(line)
        return found

    def cpu(self) -> float:
        """Seconds of processor that it and its children have used."""
        own = psutil.Process(self.popen.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))

    def close(self) -> None:
        children = psutil.Process(self.popen.pid).children(recursive=True)
        self.popen.terminate()
        try:
            self.popen.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        self._errors.close()


@dataclass
class Contender:
    """One queue with its Redis; its workers are started one after the other."""

    folder: Path
    python: Path = Path(sys.executable)
    workers: list[Process] = field(default_factory=list)
    drivers: list[Process] = field(default_factory=list)
    name = ""

    def __post_init__(self) -> None:
        self.server = EmbeddedRedis(appendonly=True, appendfsync="everysec", tcp=True)
        self.server.start()
        self.url = self.server.url

    def begin(self) -> None:
        self.add_worker()
        self.driver = Process(self.driver_command(), self.environment())
        self.drivers.append(self.driver)
        self.driver.answer()

    def add_worker(self) -> None:
        process = Process(self.worker_command(len(self.workers)), self.environment())
        self.workers.append(process)
        self.wait_ready(process)

    def measure(self, depth: int, seconds: float) -> dict[str, Any]:
        before = self._cpu()
        found = self.driver.ask({"depth": depth, "seconds": seconds})
        # The first fifth is not counted in `answered`, but in this time: near enough for a share.
        used = {who: now - before[who] for who, now in self._cpu().items()}
        return {**found, "cpu_seconds": used}

    def close(self) -> None:
        for process in [*self.drivers, *self.workers]:
            process.close()
        self.server.stop()

    def _cpu(self) -> dict[str, float]:
        return {
            "worker": sum(process.cpu() for process in self.workers),
            "client": self.driver.cpu(),
            "redis": sum(psutil.Process(self.server.pid).cpu_times()[:2]),
        }

    def environment(self) -> dict[str, str]:
        return {}

    def wait_ready(self, process: Process) -> None:
        process.answer()

    def worker_command(self, _number: int) -> list[Any]:
        raise NotImplementedError

    def driver_command(self) -> list[Any]:
        raise NotImplementedError


class Ours(Contender):
    name = "sensestream"

    def begin(self) -> None:
        self.digests = write_digests(self.folder / "digests", KNOWN)
        super().begin()

    def worker_command(self, _number: int) -> list[Any]:
        return [Path(sys.executable).with_name("sensestream-worker"), "--model", "demo",
                "--redis-url", self.url, "--audio-roots", self.folder]  # fmt: skip

    def wait_ready(self, process: Process) -> None:
        wanted = len(self.workers)
        with Redis.from_url(self.url) as redis:
            deadline = time.monotonic() + _PATIENCE
            while len(list(redis.scan_iter(KEYS.worker("*")))) < wanted:
                if process.popen.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the worker did not become ready")
                time.sleep(0.05)
            if wanted == 1:
                fingerprint = redis.get(KEYS.recogniser)
                assert isinstance(fingerprint, bytes)
                remember(redis, KEYS, fingerprint.decode(), KNOWN)

    def driver_command(self) -> list[Any]:
        return [self.python, LOOPS / "ours.py", self.url, self.digests]


class Queued(Ours):
    """Every request passes the worker, as one that is added by hand does."""

    name = "sensestream, queued"

    def driver_command(self) -> list[Any]:
        return [*super().driver_command(), "--queued"]


class Bare(Contender):
    name = "bare redis-py loop"

    def begin(self) -> None:
        self.digests = write_digests(self.folder / "bare-digests", KNOWN)
        with Redis.from_url(self.url) as redis:
            for lane in (KEYS.requests, KEYS.requests_high):
                redis.xgroup_create(lane, REQUESTS_GROUP, id="0", mkstream=True)
            redis.set(KEYS.recogniser, "bare")
            remember(redis, KEYS, "bare", KNOWN)
        super().begin()

    def worker_command(self, _number: int) -> list[Any]:
        return [self.python, LOOPS / "bare.py", "worker", self.url, f"bare-{_number}"]

    def driver_command(self) -> list[Any]:
        return [self.python, LOOPS / "bare.py", "driver", self.url, self.digests]


class Peer(Contender):
    script = ""

    def worker_command(self, _number: int) -> list[Any]:
        return [self.python, LOOPS / self.script, "worker", self.url, f"worker-{_number}"]

    def driver_command(self) -> list[Any]:
        return [self.python, LOOPS / self.script, "driver", self.url]


class FastStream(Peer):
    name, script = "FastStream", "peer_faststream.py"


class Arq(Peer):
    name, script = "arq", "peer_arq.py"


class DocketPeer(Peer):
    name, script = "docket", "peer_docket.py"


class Taskiq(Peer):
    name, script = "taskiq-redis", "peer_taskiq.py"

    def environment(self) -> dict[str, str]:
        return {"PEER_URL": self.url}

    def worker_command(self, _number: int) -> list[Any]:
        return [self.python.with_name("taskiq"), "worker", "peer_taskiq:broker",
                "--workers", "1", "--max-async-tasks", "256"]  # fmt: skip

    def wait_ready(self, process: Process) -> None:
        """It says nothing when it is ready; its consumer group is there then."""
        with Redis.from_url(self.url) as redis:
            deadline = time.monotonic() + _PATIENCE
            while not redis.exists("taskiq"):
                if process.popen.poll() is not None or time.monotonic() > deadline:
                    sys.exit("taskiq's worker did not become ready")
                time.sleep(0.1)


CONTENDERS: dict[str, type[Contender]] = {
    "ours": Ours,
    "queued": Queued,
    "bare": Bare,
    "faststream": FastStream,
    "taskiq": Taskiq,
    "arq": Arq,
    "docket": DocketPeer,
}
