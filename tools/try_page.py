"""Test the gateway's page in a real Chromium; with --screenshot take the README's picture of it.

Installs playwright into a throw-away folder, never into the environment: it is 130 MB that no other
test needs. The browser is the machine's own (Debian: apt-get install chromium), or the one that
SENSESTREAM_CHROMIUM names; --install installs it, where that is allowed. A missing browser and a
skipped test are failures.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.browser import find_chromium  # noqa: E402 - found through the line above

PLAYWRIGHT = "playwright==1.65.2"
TESTS = "tests/gateway/test_page.py"


def main(arguments: list[str]) -> int:
    if "--install" in arguments and not find_chromium():
        subprocess.run(["apt-get", "-qq", "-y", "install", "chromium"], check=False)
    if not find_chromium():
        print("there is no Chromium: apt-get install chromium", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="sensestream-page-") as folder:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        if subprocess.run([*pip, "--target", folder, PLAYWRIGHT], cwd=ROOT).returncode != 0:
            print(f"{PLAYWRIGHT} could not be installed", file=sys.stderr)
            return 1
        program = [sys.executable, "-m", "pytest", "-q", "-rs", TESTS]
        if "--screenshot" in arguments:
            program = [sys.executable, "-m", "tools.screenshot"]
        environment = {**os.environ, "PYTHONPATH": folder}
        done = subprocess.run(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    return done.returncode or int(" skipped" in done.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
