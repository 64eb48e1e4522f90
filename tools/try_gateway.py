"""Hold the gateway to its own OpenAPI document with schemathesis: requests made up by the thousand.

Every answer must have a status, a content type and a shape that the document has for it, a request
that the document forbids must be refused, and none may end in a fault of the gateway's own. Redis,
worker and gateway are real. Installs schemathesis into a throw-away folder, never into the
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
# Whether a recording can be read, no document can say: what is valid by it may be refused.
_UNFIT = "positive_data_acceptance"
# What is invalid must be refused, also for its size; of several jobs each has an answer of its own.
_CHECKS = """
[checks.negative_data_rejection]
expected-statuses = [207, 400, 401, 403, 404, 405, 406, 408, 413, 415, 422, 428, 429, "5xx"]
"""
SETTINGS = {
    "wait_timeout": 5,  # a wait would last as long as it is told to
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
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{gateway.url}/openapi.json",
        "--max-examples", options.examples, "--seed", options.seed, "--checks", "all",
        "--exclude-checks", _UNFIT,
        "--header", f"Authorization: Bearer {key}", "--exclude-path", "/v1/events",  # it has no end
        "--continue-on-failure",
    ]  # fmt: skip
    (folder / "schemathesis.toml").write_text(_CHECKS)
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    return subprocess.run(list(map(str, command)), cwd=folder, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
