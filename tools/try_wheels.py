"""Build the three distributions, install them into clean environments, use them.

What an editable checkout hides shows here: a file that no wheel carries (the model, its clips,
the Lua scripts), a requirement that only a development tool brought, a path into the checkout.
The wheels that are installed were built from the sdists, and hold what the checkout's own hold.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
DISTRIBUTIONS = ("common", "producer", "consumer")
CLIPS = ROOT / "consumer" / "sensestream_consumer" / "clips"
STEP_TIMEOUT = 600  # seconds


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="sensestream-wheels-") as scratch:
        folder = Path(scratch)
        wheels = build(folder)
        service = install(folder / "service", [wheels["common"], wheels["producer"]])
        everything = install(
            folder / "everything",
            [wheels["common"], f"{wheels['producer']}[embedded]", f"{wheels['consumer']}[cpu]"],
        )
        run([everything / "sensestream-worker", "--version"], folder)
        run([everything / "sensestream", "demo", "--json"], folder)
        with kept_demo(everything, folder) as redis_url:
            submit(service, redis_url, folder)
    print("the wheels work")
    return 0


def build(folder: Path) -> dict[str, Path]:
    """A wheel of each distribution, by way of its sdist."""
    for name in DISTRIBUTIONS:
        command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist"]
        run([*command, "--directory", folder / "sdists"], ROOT / name)
    to_wheels(folder / "wheels", sorted((folder / "sdists").iterdir()))
    to_wheels(folder / "from-checkout", [f"./{name}" for name in DISTRIBUTIONS])
    wheels = {}
    for wheel in sorted((folder / "wheels").iterdir()):
        print(f"{wheel.name}: {wheel.stat().st_size / 1024:.0f} KiB", flush=True)
        if contents(wheel) != contents(folder / "from-checkout" / wheel.name):
            sys.exit(f"{wheel.name} holds other files when it is built from the sdist")
        wheels[wheel.name.partition("-")[0].removeprefix("sensestream_")] = wheel
    return wheels


def to_wheels(folder: Path, sources: list[str] | list[Path]) -> None:
    pip(sys.executable, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, *sources)


def contents(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {one.filename: one.CRC for one in archive.infolist()}


def install(folder: Path, wanted: list[Path | str]) -> Path:
    """A clean environment with these; the folder of its commands."""
    venv.create(folder, with_pip=True)
    bin_folder = folder / "bin"
    # Compiling all that is installed would take longer than all that is tried here.
    constrained: list[str | Path] = ["--no-compile", "-c", ROOT / "constraints.txt"]
    pip(bin_folder / "python", "install", *constrained, *wanted)
    pip(bin_folder / "python", "check")
    return bin_folder


@contextmanager
def kept_demo(bin_folder: Path, folder: Path) -> Iterator[str]:
    """The URL of a demo's Redis, which is kept as long as this lasts, with its worker."""
    command: list[str | Path] = [bin_folder / "sensestream", "demo", "--json", "--keep-redis"]
    print(f"$ {shlex.join(map(str, command))}", flush=True)
    with subprocess.Popen(
        command,
        cwd=folder,
        env=clean(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            yield url_of(process.stderr)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=STEP_TIMEOUT)


def url_of(stream: IO[str]) -> str:
    """The Redis that the demo says it keeps, which it says when all clips are played."""
    said = []
    for line in stream:
        said.append(line)
        if found := re.search(r"Redis is at (\S+)", line):
            return found[1]
    sys.exit(f"the demo kept no Redis: {''.join(said)}")


def submit(bin_folder: Path, redis_url: str, folder: Path) -> None:
    """From the environment of a service that has only the client side."""
    clip = json.loads((CLIPS / "clips.json").read_text("utf-8"))[0]
    command: list[str | Path] = [bin_folder / "sensestream", "--redis-url", redis_url, "submit"]
    command += ["--language", clip["language"], "--itn" if clip["itn"] else "--no-itn"]
    said = run([*command, "--wait", CLIPS / clip["file"]], folder, read=True)
    if said.strip() != clip["text"]:
        sys.exit(f"{clip['file']} became {said!r}")
    print(said, end="")


def pip(python: str | Path, command: str, *arguments: str | Path) -> None:
    # Builds take their backend from the constraints through this variable, split at spaces.
    os.environ["PIP_CONSTRAINT"] = os.environ["PIP_BUILD_CONSTRAINT"] = "constraints.txt"
    quiet = ["-qq", "--disable-pip-version-check", "--no-input"]
    run([python, "-m", "pip", *quiet, command, *arguments], ROOT)


def run(command: list[str | Path], folder: Path, *, read: bool = False) -> str:
    print(f"$ {shlex.join(map(str, command))}", flush=True)
    stdout = subprocess.PIPE if read else None
    done = subprocess.run(
        command, cwd=folder, env=clean(), check=True, timeout=STEP_TIMEOUT, stdout=stdout, text=True
    )
    return done.stdout or ""


def clean() -> dict[str, str]:
    """Without what would lead another Python into this one's modules."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except subprocess.CalledProcessError as failure:
        sys.exit(f"the last command failed with exit status {failure.returncode}")
    except subprocess.TimeoutExpired as failure:
        sys.exit(f"the last command was ended after {failure.timeout} s")
