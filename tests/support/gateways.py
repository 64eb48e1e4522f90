"""Real gateway processes for tests, with their logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.support.waiting import wait_until_sync

__all__ = ["GatewayProcess"]


class GatewayProcess:
    """One `sensestream gateway` on a port of its own; settings by name."""

    def __init__(self, redis_url: str, logs: Path, **settings: Any) -> None:
        self.log_file = logs
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SENSESTREAM_")}
        environment |= {"SENSESTREAM_REDIS_URL": redis_url, "SENSESTREAM_HTTP_PORT": "0"}
        environment |= {f"SENSESTREAM_{k.upper()}": str(v) for k, v in settings.items()}
        command = [str(Path(sys.executable).with_name("sensestream")), "gateway"]
        with logs.open("wb") as stderr:
            self.process = subprocess.Popen(command, env=environment, stderr=stderr)

    def __enter__(self) -> Self:
        return self.wait_ready()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return next(str(e["url"]) for e in self.events() if e["event"] == "gateway_ready")

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def events(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        whole, _, _ = self.log_file.read_text("utf-8", "replace").rpartition("\n")
        lines = whole.splitlines()  # the last line may be half written
        return [json.loads(line) for line in lines if line.startswith("{")]

    def logged(self, event: str) -> bool:
        return any(entry["event"] == event for entry in self.events())

    def wait_ready(self) -> Self:
        def ready() -> bool:
            if self.process.poll() is not None:
                raise AssertionError(f"the gateway ended: {self.log_file.read_text()}")
            return self.logged("gateway_ready")

        wait_until_sync(ready, timeout=30, what="gateway ready")
        return self

    def terminate(self, timeout: float = 20) -> int:
        """SIGTERM, and the exit status after the drain."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)
