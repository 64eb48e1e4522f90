"""Build the wheels of the three distributions, install them into a clean environment, use them.

What an editable checkout hides shows here: a file that no wheel carries (the model, its clips,
the Lua scripts), a requirement that only a development tool brought, a path into the checkout.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = {
    "sensestream_common": "",
    "sensestream_producer": "[embedded]",
    "sensestream_consumer": "[cpu]",
}
STEP_TIMEOUT = 600  # seconds


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sensestream-wheels-") as scratch:
        folder = Path(scratch)
        wheels = build(folder / "wheels")
        bin_folder = install(folder / "venv", wheels)
        use(bin_folder, folder)
    print("the wheels work")
    return 0


def build(folder: Path) -> list[Path]:
    sources = ["./common", "./producer", "./consumer"]
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, *sources)
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB", flush=True)
    return wheels


def install(folder: Path, wheels: list[Path]) -> Path:
    venv.create(folder, with_pip=True)
    wanted = [f"{wheel}{EXTRAS[wheel.name.partition('-')[0]]}" for wheel in wheels]
    bin_folder = folder / "bin"
    pip(bin_folder / "python", "install", "-c", ROOT / "constraints.txt", *wanted)
    pip(bin_folder / "python", "check")
    return bin_folder


def use(bin_folder: Path, folder: Path) -> None:
    """Run the commands outside the checkout, as a user who has only the wheels."""
    run([bin_folder / "sensestream", "--version"], folder)
    run([bin_folder / "sensestream-worker", "--version"], folder)
    run([bin_folder / "sensestream", "demo", "--json"], folder)


def pip(python: str | Path, command: str, *arguments: str | Path) -> None:
    # Builds take their backend from the constraints through this variable, split at spaces.
    os.environ["PIP_CONSTRAINT"] = os.environ["PIP_BUILD_CONSTRAINT"] = "constraints.txt"
    quiet = ["-qq", "--disable-pip-version-check", "--no-input"]
    run([python, "-m", "pip", *quiet, command, *arguments], ROOT)


def run(command: list[str | Path], folder: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
    }
    print(f"$ {shlex.join(map(str, command))}", flush=True)
    subprocess.run(command, cwd=folder, env=environment, check=True, timeout=STEP_TIMEOUT)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        sys.exit(f"the last command failed with exit status {failure.returncode}")
    except subprocess.TimeoutExpired as failure:
        sys.exit(f"the last command was ended after {failure.timeout} s")
