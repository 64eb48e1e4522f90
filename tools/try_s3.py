"""Run the tests that need an S3 server against moto's, on this machine.

Installs it into a throw-away folder, never into the environment: it is 115 MB that no other test
needs.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Named one by one: moto's own extra [server] brings 290 MB for services that no test uses.
SERVER = ("moto==5.2.5", "flask==3.1.3", "flask-cors==6.0.5", "py-partiql-parser==0.6.3")
TESTS = ("tests/consumer/audio/test_s3_server.py", "tests/gateway/test_uploads.py")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sensestream-s3-") as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        install = [*pip, "--target", folder, *SERVER]
        if subprocess.run(install, cwd=ROOT).returncode != 0:
            print(f"{SERVER[0]} could not be installed", file=sys.stderr)
            return 1
        environment = {**os.environ, "SENSESTREAM_MOTO": folder}
        command = [sys.executable, "-m", "pytest", "-q", *TESTS]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
