"""The first command in a fresh checkout: which Python it takes, and when it installs."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.workspace import DISTRIBUTIONS, ROOT
from tests.support.waiting import wait_until_sync

# A build backend without any needs, so that the installations here touch no index. The file
# `hold` in a distribution makes its build last until that file is gone.
BACKEND = """
import pathlib, time, tomllib, zipfile

def build_editable(wheels, config_settings=None, metadata_directory=None):
    while pathlib.Path("hold").exists():
        pathlib.Path("held").touch()
        time.sleep(0.01)
    name = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]["name"]
    wheel = f"{name}-1-py3-none-any.whl"
    files = {
        "METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: 1\\n",
        "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(pathlib.Path(wheels) / wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{name}-1.dist-info/{file}", text)
    return wheel
"""


def make_checkout(parent: Path) -> Path:
    """A small workspace with our bootstrap in it, below a path with spaces."""
    root = parent / "a fresh checkout"
    (root / "tools").mkdir(parents=True)
    for name in ("bootstrap.sh", "bootstrap.py"):
        shutil.copy(ROOT / "tools" / name, root / "tools" / name)
    shutil.copy(ROOT / "Makefile", root)
    (root / "constraints.txt").touch()
    (root / "pyproject.toml").write_text(
        '[dependency-groups]\ntest = ["common"]\nlint = []\ndocs = ["common"]\n'
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
    """A checkout whose environment was made once: seeding pip takes seconds."""
    root = make_checkout(tmp_path_factory.mktemp("bootstrap"))
    first = bootstrap(root)
    assert first.returncode == 0, first.stderr
    assert ".venv is ready" in first.stderr
    return root


@pytest.fixture
def installed(_installed: Path) -> Path:
    assert bootstrap(_installed).returncode == 0
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
    """An executable that stands for a Python on PATH."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def bare_python(folder: Path) -> Path:
    """Debian's python3 without python3-venv and python3-pip: the modules cannot be imported."""
    folder.mkdir(exist_ok=True)
    wrapper = folder / "bare.py"
    wrapper.write_text(
        "import runpy, sys\n"
        "sys.modules.update(ensurepip=None, pip=None, virtualenv=None)\n"
        "del sys.argv[:2]\n"
        "if sys.argv[0] == '-c':\n"
        "    exec(sys.argv[1])\n"
        "else:\n"
        "    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    return launcher(folder, "python3", f'exec "{sys.executable}" "{wrapper}" "$@"')


def only(folder: Path) -> str:
    """A PATH with these launchers and the shell's own tools, and no Python of the machine."""
    for tool in ("dirname", "sh"):
        found = shutil.which(tool)
        assert found
        (folder / tool).symlink_to(found)
    return str(folder)


def test_a_second_run_installs_nothing(installed: Path) -> None:
    second = bootstrap(installed)
    assert (second.returncode, second.stderr) == (0, "")


def test_a_ready_environment_does_not_wait_while_another_one_is_made(installed: Path) -> None:
    with (installed / "constraints.txt").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as an installation of the other one holds it
        assert bootstrap(installed).returncode == 0


def test_a_changed_pin_is_installed_by_the_next_run(installed: Path) -> None:
    (installed / "constraints.txt").write_text("# another version was tested\n")
    assert ".venv is ready" in bootstrap(installed).stderr


def test_an_environment_for_one_group_gets_that_group_and_nothing_else(installed: Path) -> None:
    assert ".venv is ready" in bootstrap(installed, "docs").stderr
    log = (installed / ".venv" / "install.log").read_text()
    assert "common" in log
    assert "producer" not in log


def test_an_environment_that_was_moved_is_not_used_as_it_is(
    installed: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(installed, moved, symlinks=True)
    # A Python that can make no new one shows the attempt without the seconds that it takes.
    done = bootstrap(moved, PYTHON=str(bare_python(tmp_path / "bin")))
    assert "making .venv" in done.stderr


def test_an_installation_that_was_killed_is_taken_up_again(installed: Path) -> None:
    (installed / "constraints.txt").write_text("# so that there is something to do\n")
    hold = installed / "producer" / "hold"
    hold.touch()
    running = subprocess.Popen(
        ["sh", "tools/bootstrap.sh", ".venv"],
        cwd=installed,
        env=os.environ | {"PYTHON": sys.executable},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until_sync((installed / "producer" / "held").exists, timeout=60)
    finally:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    hold.unlink()

    again = bootstrap(installed)
    assert again.returncode == 0, again.stderr
    assert ".venv is ready" in again.stderr


def test_a_failed_installation_says_why_and_is_tried_again(installed: Path) -> None:
    (installed / "constraints.txt").write_text("common==2\n")
    failed = bootstrap(installed)
    assert failed.returncode == 1
    assert "common==2" in failed.stderr
    assert ".venv/install.log" in failed.stderr

    (installed / "constraints.txt").write_text("common==1\n")
    assert ".venv is ready" in bootstrap(installed).stderr


def test_a_folder_that_is_no_environment_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "thesis.txt").write_text("years of work")
    refused = bootstrap(checkout)
    assert refused.returncode == 1
    assert "make VENV=" in refused.stderr
    assert (checkout / ".venv" / "thesis.txt").read_text() == "years of work"


def test_a_launcher_without_a_python_behind_it_is_passed_over(
    checkout: Path, tmp_path: Path
) -> None:
    launchers = tmp_path / "bin"
    launcher(launchers, "python3.12", "echo 'python3.12: command not found' >&2; exit 127")
    launcher(launchers, "python3", f'exec "{sys.executable}" "$@"')
    (checkout / "tools" / "bootstrap.py").write_text("import sys; print('taken', sys.version)")
    done = bootstrap(checkout, PYTHON="", PATH=only(launchers))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"taken {sys.version_info[0]}.{sys.version_info[1]}.")


def test_without_a_fitting_python_one_sentence_says_what_was_found(
    checkout: Path, tmp_path: Path
) -> None:
    launchers = tmp_path / "bin"
    launcher(launchers, "python3.12", "exit 127")
    launcher(launchers, "python3", "echo 3.9.2; exit 3")
    done = bootstrap(checkout, PYTHON="", PATH=only(launchers))
    assert done.returncode == 1
    assert done.stderr == (
        "Python 3.11 or 3.12 is needed; found: python3.12 does not run, python3 is 3.9.2. "
        "Install one, or name it: make PYTHON=/path/to/python3.12 ...\n"
    )


def test_a_python_that_was_asked_for_and_does_not_fit_is_not_replaced(
    checkout: Path, tmp_path: Path
) -> None:
    old = launcher(tmp_path / "bin", "python3.9", "echo 3.9.2; exit 3")
    done = bootstrap(checkout, PYTHON=str(old))
    assert done.returncode == 1
    assert f"found: {old} is 3.9.2" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_ensurepip_and_pip_is_told_what_to_install(
    checkout: Path, tmp_path: Path
) -> None:
    bare = bare_python(tmp_path / "bin")
    done = bootstrap(checkout, PYTHON=str(bare))
    assert done.returncode == 1
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert f"apt-get install python{minor}-venv" in done.stderr


def test_make_alone_lists_what_can_be_made(checkout: Path) -> None:
    done = subprocess.run(["make"], cwd=checkout, capture_output=True, text=True, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"demo", "test", "lint", "format", "clean", "ci"} <= listed
    assert not (checkout / ".venv").exists()
