"""Test the gateway against its own OpenAPI document with schemathesis: thousands of made-up calls.

Every response must have a status, a content type and a shape that the document names. A request
that the document forbids must be refused. None may end in a fault of the gateway. Redis, worker and
gateway are real. Installs schemathesis into a throw-away folder, never into the
environment.

    python tools/try_gateway.py [--examples 40] [--seed 1]
"""

from __future__ import annotations

import argparse
import base64
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from sensestream_producer.gateway.auth import Scope, new_key  # noqa: E402
from sensestream_producer.local.redis_server import EmbeddedRedis  # noqa: E402

from tests.support.gateways import GatewayProcess  # noqa: E402 - found through the line above
from tests.support.workers import WorkerProcess  # noqa: E402

SCHEMATHESIS = "schemathesis==4.32.5"
# A document cannot say whether a recording is readable, so valid requests may be refused.
_UNFIT = "positive_data_acceptance"
# An invalid request may be refused for its size, and an invalid job of several within a 207.
_CHECKS = """
[checks.negative_data_rejection]
expected-statuses = [207, 400, 401, 403, 404, 405, 406, 408, 413, 415, 422, 428, 429, "5xx"]
"""
SETTINGS = {
    "wait_timeout": 5,  # seconds; made-up calls ask for much longer waits
    "webhook_secret": "whsec_" + base64.b64encode(bytes(32)).decode(),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--examples", type=int, default=40, help="of each operation and phase")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sensestream-schemathesis-") as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        if subprocess.run([*pip, "--target", folder / "site", SCHEMATHESIS], cwd=ROOT).returncode:
            print(f"{SCHEMATHESIS} could not be installed", file=sys.stderr)
            return 1
        with EmbeddedRedis() as server:
            key, kept = new_key("schemathesis", Scope, None)
            settings = {**SETTINGS, "api_keys": kept}
            worker = WorkerProcess(server.url, folder, folder / "worker.log").wait_ready()
            try:
                with GatewayProcess(server.url, folder / "gateway.log", **settings) as gateway:
                    status = run(gateway, key, folder, options)
                    faults = [
                        e for e in gateway.events() if e.get("level") in ("error", "critical")
                    ]
                    print(*faults[:5], sep="\n")
            finally:
                worker.kill()
    return status or int(bool(faults))


def run(gateway: GatewayProcess, key: str, folder: Path, options: argparse.Namespace) -> int:
    flags = {
        "--max-examples": options.examples,
        "--seed": options.seed,
        "--checks": "all",
        "--exclude-checks": _UNFIT,
        "--header": f"Authorization: Bearer {key}",
        "--exclude-path": "/v1/events",  # an endless response
    }
    program = [sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.url}/openapi.json"]
    pairs = [str(word) for flag in flags.items() for word in flag]
    command = [*program, *pairs, "--continue-on-failure"]
    (folder / "schemathesis.toml").write_text(_CHECKS)
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    return subprocess.run(command, cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
