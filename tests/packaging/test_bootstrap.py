"""The first command in a fresh checkout: the Python it takes, and when it installs."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.workspace import DISTRIBUTIONS, ROOT

# A build backend without requirements: the installations here need no index.
BACKEND = """
import pathlib, tomllib, zipfile

def build_editable(wheels, config_settings=None, metadata_directory=None):
    name = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["name"]
    wheel = f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheels) / wheel, "w") as archive:
        metadata = f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n"
        archive.writestr(f"{name}-1.dist-info/METADATA", metadata)
        tags = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
        archive.writestr(f"{name}-1.dist-info/WHEEL", tags)
        archive.writestr(f"{name}-1.dist-info/RECORD", "")
    return wheel
"""


def make_checkout(parent: Path) -> Path:
    """Make a small workspace with the project's own bootstrap, below a path with spaces."""
    root = parent / "a fresh checkout"
    (root / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "bootstrap.sh", root / "tools")
    shutil.copy(ROOT / "Makefile", root)
    (root / "constraints.txt").touch()
    (root / "pyproject.toml").write_text(
        '[dependency-groups]\ntest = ["common"]\nlint = []\ndocs = ["common"]\nmore = ["absent"]\n'
    )
    for name in DISTRIBUTIONS:
        (root / name).mkdir()
        (root / name / "backend.py").write_text(BACKEND)
        (root / name / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            f'[project]\nname = "{name}"\nversion = "1"\n'
        )
    return root


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return make_checkout(tmp_path)


@pytest.fixture(scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose environment is made once: seeding pip takes seconds."""
    return make_checkout(tmp_path_factory.mktemp("bootstrap"))


@pytest.fixture
def installed(_installed: Path) -> Path:
    done = bootstrap(_installed)
    assert done.returncode == 0, done.stderr
    return _installed


def bootstrap(checkout: Path, *groups: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "tools/bootstrap.sh", ".venv", *groups],
        cwd=checkout,
        env=os.environ | {"PYTHON": sys.executable} | environment,
        capture_output=True,
        text=True,
    )


def launcher(folder: Path, name: str, script: str) -> Path:
    """Write an executable that stands for a Python on PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def only(folder: Path) -> str:
    """Return a PATH with these launchers and the shell's own tools alone."""
    for tool in ("cat", "cksum", "dirname", "flock", "grep", "ls", "rm", "sh", "tail"):
        if found := shutil.which(tool):
            (folder / tool).symlink_to(found)
    return str(folder)


def test_a_second_run_installs_nothing(installed: Path) -> None:
    second = bootstrap(installed)
    assert (second.returncode, second.stderr) == (0, "")


def test_a_changed_pin_is_installed_by_the_next_run(installed: Path) -> None:
    (installed / "constraints.txt").write_text("# another version was tested\n")
    assert ".venv is ready" in bootstrap(installed).stderr


def test_an_environment_for_one_group_gets_that_group_and_nothing_else(installed: Path) -> None:
    assert ".venv is ready" in bootstrap(installed, "docs").stderr
    log = (installed / ".venv" / "install.log").read_text()
    assert "common" in log
    assert "producer" not in log


def test_an_environment_that_was_moved_is_made_anew(installed: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(installed, moved, symlinks=True)
    assert f"making {moved / '.venv'}" in bootstrap(moved).stderr
    pip = subprocess.run([moved / ".venv" / "bin" / "pip", "--version"], capture_output=True)
    assert str(moved).encode() in pip.stdout


def test_an_installation_that_was_killed_is_taken_up_again(installed: Path) -> None:
    (installed / "constraints.txt").write_text("# so that there is something to do\n")
    with subprocess.Popen(
        ["sh", "tools/bootstrap.sh", ".venv"],
        cwd=installed,
        env=os.environ | {"PYTHON": sys.executable},
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as running:
        assert running.stderr is not None
        assert b"installing" in running.stderr.readline()
        os.killpg(running.pid, signal.SIGKILL)

    again = bootstrap(installed)
    assert "making" not in again.stderr
    assert ".venv is ready" in again.stderr


def test_a_failed_installation_says_why_and_is_tried_again(installed: Path) -> None:
    (installed / "constraints.txt").write_text("common==2\n")
    failed = bootstrap(installed)
    assert failed.returncode == 1
    assert "common==2" in failed.stderr
    assert ".venv/install.log" in failed.stderr

    (installed / "constraints.txt").write_text("common==1\n")
    assert ".venv is ready" in bootstrap(installed).stderr


def test_without_a_network_one_sentence_says_so(installed: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    failed = bootstrap(installed, "more", **nowhere)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith("The package index cannot be reached:")


def test_a_folder_that_is_no_environment_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "thesis.txt").write_text("years of work")
    refused = bootstrap(checkout)
    assert refused.returncode == 1
    assert "make VENV=" in refused.stderr
    assert (checkout / ".venv" / "thesis.txt").read_text() == "years of work"


def test_the_first_python_that_runs_and_fits_is_taken(checkout: Path, tmp_path: Path) -> None:
    launchers = tmp_path / "bin"
    launcher(launchers, "python3.12", "echo 'python3.12: command not found' >&2; exit 127")
    launcher(launchers, "python3", f'[ "$3" != venv ] || exit 9; exec "{sys.executable}" "$@"')
    done = bootstrap(checkout, PYTHON="", PATH=only(launchers))
    assert f"making {checkout / '.venv'} with {launchers / 'python3'}\n" in done.stderr
    assert done.returncode == 9


def test_without_a_fitting_python_one_sentence_says_what_was_found(
    checkout: Path, tmp_path: Path
) -> None:
    launchers = tmp_path / "bin"
    launcher(launchers, "python3.12", "echo 'No module named ensurepip' >&2; exit 1")
    launcher(launchers, "python3", "echo 3.9")
    done = bootstrap(checkout, PYTHON="", PATH=only(launchers))
    assert done.returncode == 1
    assert done.stderr == (
        "Python 3.11 or 3.12 with ensurepip is needed; "
        "found: python3.12 (No module named ensurepip), python3 (3.9). "
        "Install it (Debian, Ubuntu: apt-get install python3-venv), "
        "or name another: make PYTHON=/path/to/python3.12 ...\n"
    )


def test_a_python_that_was_asked_for_and_does_not_fit_is_not_replaced(
    checkout: Path, tmp_path: Path
) -> None:
    old = launcher(tmp_path / "bin", "python3.9", "echo 3.9")
    done = bootstrap(checkout, PYTHON=str(old))
    assert done.returncode == 1
    assert f"found: {old} (3.9)" in done.stderr
    assert not (checkout / ".venv").exists()


def test_make_alone_lists_what_can_be_made(checkout: Path) -> None:
    done = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"demo", "test", "lint", "format", "clean", "ci"} <= listed
    assert not (checkout / ".venv").exists()
