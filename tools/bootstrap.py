"""Make a virtual environment ready for work: the three distributions, editable, and the tools.

Run by `tools/bootstrap.sh` with the interpreter it chose, in the root of the checkout:
`bootstrap.py VENV [GROUP…]`. Where dependency groups are named, the environment holds these and
nothing else. Needs the standard library only.

The last step of an installation writes a stamp that tells from what it was made, so that a second
run does nothing, a change of any pyproject.toml or of constraints.txt is noticed, and an
installation that was interrupted is not taken for a finished one.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = "constraints.txt"
DISTRIBUTIONS = ("./common", "./producer[embedded,gateway,otel]", "./consumer[cpu,s3,otel]")
GROUPS = ("test", "lint")
INPUTS = (
    "pyproject.toml",
    "common/pyproject.toml",
    "producer/pyproject.toml",
    "consumer/pyproject.toml",
    CONSTRAINTS,
    "tools/bootstrap.py",
)
STAMP = "installed-from"
LOG = "install.log"
# A user's pip may be told to install elsewhere than into the environment it runs in.
ELSEWHERE = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "PIP_NO_DEPS")
EXIT_INTERRUPTED = 130


class BootstrapError(Exception):
    """The environment cannot be made; the text says why, and how to fix it."""


def main(arguments: list[str]) -> int:
    os.chdir(ROOT)
    venv, groups = Path(arguments[0] if arguments else ".venv"), tuple(arguments[1:])
    try:
        # Without the lock: an environment that is ready need not wait until another one is made.
        if is_ready(venv, groups):
            return 0
        # Two terminals: the second waits, and then finds the work done.
        with (ROOT / CONSTRAINTS).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_ready(venv, groups):
                make_ready(venv, groups)
    except BootstrapError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        say("interrupted: the same command goes on from here")
        return EXIT_INTERRUPTED
    return 0


def is_ready(venv: Path, groups: tuple[str, ...]) -> bool:
    stamp = venv / STAMP
    if not stamp.is_file():
        return False
    version = version_of(venv)
    return wanted(version) and stamp.read_text() == fingerprint(venv, version, groups)


def make_ready(venv: Path, groups: tuple[str, ...]) -> None:
    started = time.monotonic()
    (venv / STAMP).unlink(missing_ok=True)
    if not (wanted(version_of(venv)) and stands(venv) and runs(venv, "-m", "pip", "--version")):
        say(f"making {venv} with {sys.executable}")
        create(venv)
    version = version_of(venv)
    size = "small" if groups else "about 1 GB"
    say(f"installing into {venv} (Python {version}, {size}; log: {venv / LOG})")
    install(venv, groups)
    fresh = venv / f"{STAMP}.new"
    fresh.write_text(fingerprint(venv, version, groups))
    fresh.replace(venv / STAMP)
    say(f"{venv} is ready after {time.monotonic() - started:.0f} s")


def wanted(version: str) -> bool:
    """Whether an environment of that Python may stay: any that fits, or the one asked for."""
    if os.environ.get("PYTHON"):
        return version == own_version()
    return version.startswith(("3.11.", "3.12."))


def stands(venv: Path) -> bool:
    """Whether the environment is where it was made: its scripts name that place."""
    activate = venv / "bin" / "activate"
    return activate.is_file() and str(venv.absolute()) in activate.read_text()


def own_version() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])


def version_of(venv: Path) -> str:
    """The version of the environment's Python; empty where there is none that runs."""
    try:
        text = subprocess.run(
            [interpreter(venv), "-I", "-c", "import platform; print(platform.python_version())"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return text.strip()


def fingerprint(venv: Path, version: str, groups: tuple[str, ...]) -> str:
    """What an installation is made from. The path counts: an environment cannot be moved."""
    digest = hashlib.sha256(f"{venv.absolute()}\0{version}\0{' '.join(groups)}\0".encode())
    for name in INPUTS:
        digest.update((ROOT / name).read_bytes() + b"\0")
    return digest.hexdigest() + "\n"


def create(venv: Path) -> None:
    """A new environment with pip in it, by the first way that this Python offers."""
    remove(venv)
    if has_module("ensurepip"):
        run_quietly([sys.executable, "-m", "venv", str(venv)])
    elif has_module("virtualenv"):
        run_quietly([sys.executable, "-m", "virtualenv", "--quiet", str(venv)])
    elif has_module("pip"):
        run_quietly([sys.executable, "-m", "venv", "--without-pip", str(venv)])
        pip = [sys.executable, "-m", "pip", "--python", interpreter(venv)]
        run_quietly([*pip, "install", "--quiet", "--disable-pip-version-check", "pip"])
    else:
        minor = "{}.{}".format(*sys.version_info[:2])
        raise BootstrapError(
            f"{sys.executable} ({own_version()}) has neither ensurepip nor pip, so it can make no "
            f"virtual environment: install them (Debian and Ubuntu: apt-get install "
            f"python{minor}-venv) or name another Python: make PYTHON=/path/to/python3.12 ..."
        )


def remove(venv: Path) -> None:
    """Make way for a new environment; what is not an environment is left alone."""
    if not venv.exists() or not any(venv.iterdir()):
        return
    if not (venv / "pyvenv.cfg").is_file():
        raise BootstrapError(
            f"{venv} is in the way and is no virtual environment: "
            "move it, or name another folder: make VENV=.venv-2 ..."
        )
    shutil.rmtree(venv)


def install(venv: Path, groups: tuple[str, ...]) -> None:
    command = [interpreter(venv), "-m", "pip", "install", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-c", CONSTRAINTS]
    for distribution in () if groups else DISTRIBUTIONS:
        command += ["-e", distribution]
    command += tools(groups or GROUPS)
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    # `-c` does not reach the environments that packages are built in; the variable does. It is
    # split at spaces, so it holds a relative path. pip 25.3 and later read the second name.
    environment |= {"PIP_CONSTRAINT": CONSTRAINTS, "PIP_BUILD_CONSTRAINT": CONSTRAINTS}
    log = venv / LOG
    if follow(command, environment, log) != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise BootstrapError(f"pip could not install what is needed:\n{tail}\nAll of it: {log}")


def follow(command: list[str], environment: dict[str, str], log: Path) -> int:
    """Run pip with its output in `log` and its progress on the terminal; its exit status."""
    progress = Progress()
    with (
        log.open("w") as sink,
        subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            sink.write(line)
            progress.show(line)
    progress.close()
    return process.returncode


class Progress:
    """The step that pip is at: one line that is rewritten on a terminal, now and then elsewhere."""

    STEPS = ("Collecting ", "Downloading ", "Building ", "Installing collected packages")

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._interval = 0.1 if self._terminal else 10.0  # seconds
        self._started = self._shown = time.monotonic()

    def show(self, line: str) -> None:
        step = line.strip()
        if not step.startswith(self.STEPS):
            return
        now = time.monotonic()
        # Installing is the longest silent step, so it is always said.
        last = step.startswith("Installing")
        if not last and now - self._shown < self._interval:
            return
        self._shown = now
        text = f"  {now - self._started:3.0f} s  {step.partition(':')[0] if last else step:.60}"
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")


def tools(names: tuple[str, ...]) -> list[str]:
    """The requirements of the groups: read here, since pip has `--group` from 25.1 only."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        groups: dict[str, list[Any]] = tomllib.load(file)["dependency-groups"]
    return list(dict.fromkeys(one for name in names for one in group(groups, name)))


def group(groups: dict[str, list[Any]], name: str) -> Iterator[str]:
    for entry in groups[name]:
        if isinstance(entry, str):
            yield entry
        else:
            yield from group(groups, entry["include-group"])


def interpreter(venv: Path) -> str:
    return str(venv.absolute() / "bin" / "python")


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def runs(venv: Path, *arguments: str) -> bool:
    return subprocess.run([interpreter(venv), *arguments], capture_output=True).returncode == 0


def run_quietly(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()
        raise BootstrapError(f"{shlex.join(command)} failed:\n{said}")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
