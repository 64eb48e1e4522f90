"""Real worker processes for tests, with their logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from redis import Redis

from tests.support.waiting import wait_until_sync

__all__ = ["WorkerProcess"]

_STUBBORN = Path(__file__).with_name("stubborn_worker.py")


class WorkerProcess:
    """One `sensestream-worker`; with a gate, poison, a fault or a revision its stubborn twin."""

    def __init__(
        self, redis_url: str, roots: Path, logs: Path, *,
        gate: Path | None = None, poison: tuple[str, ...] = (), fault: str = "", lives: int = 1,
        revision: str = "",
        **settings: Any,
    ) -> None:  # fmt: skip
        self.redis_url = redis_url
        self.log_file = logs
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SENSESTREAM_")}
        environment |= {
            "SENSESTREAM_REDIS_URL": redis_url,
            "SENSESTREAM_MODEL": "demo",
            "SENSESTREAM_DEVICE": "cpu",
            "SENSESTREAM_AUDIO_ROOTS": str(roots),
        }
        environment |= {f"SENSESTREAM_{k.upper()}": str(v) for k, v in settings.items()}
        command = [str(Path(sys.executable).with_name("sensestream-worker"))]
        if gate is not None or poison or fault or revision:
            command = [sys.executable, str(_STUBBORN)]
            environment["STUBBORN_GATE"] = str(gate or "")
            environment["STUBBORN_POISON"] = " ".join(poison)
            environment["STUBBORN_FAULT"] = fault
            environment["STUBBORN_LIVES"] = str(lives)
            environment["STUBBORN_REVISION"] = revision
        with logs.open("wb") as stderr:
            self.process = subprocess.Popen(command, env=environment, stderr=stderr)

    @property
    def consumer(self) -> str:
        return next(str(e["consumer"]) for e in self.events() if e["event"] == "worker_ready")

    def events(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        whole, _, _ = self.log_file.read_text("utf-8", "replace").rpartition("\n")
        lines = whole.splitlines()  # the last line may be half written
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> bool:
        return any(entry["event"] == event for entry in self.events())

    def wait_ready(self) -> WorkerProcess:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the worker ended: {self.log_file.read_text()}")
            return self.logged("worker_ready")

        wait_until_sync(ready, timeout=30, what="worker ready")
        return self

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as the kernel's memory killer would."""
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout: float = 15) -> int:
        """SIGTERM, and the exit status after the drain."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        return self.process.wait(timeout)

    def holds(self, redis: Redis, stream: str) -> int:
        """How many entries of a stream are pending with this worker."""
        return len(redis.xpending_range(stream, "workers", "-", "+", 1000, self.consumer))
