"""Ask sherpa-onnx for a second opinion: the same weights, somebody else's code.

Installs its wheel into a throw-away folder, never into the environment: it brings a runtime of
its own. Then runs the tests that skip without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHERPA = "sherpa-onnx==2.0.1"
TESTS = "tests/consumer/engine/test_oracle_sherpa.py"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sensestream-sherpa-") as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        install = [*pip, "--only-binary", ":all:", "--target", folder, SHERPA]
        if subprocess.run(install, cwd=ROOT).returncode != 0:
            print(f"{SHERPA} could not be installed", file=sys.stderr)
            return 1
        environment = {**os.environ, "SENSESTREAM_SHERPA": folder}
        command = [sys.executable, "-m", "pytest", "-q", TESTS]
        return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
