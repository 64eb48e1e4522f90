"""What a wheel carries beside its modules: scripts, model, clips, page, types, licence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.conftest import pip
from tests.packaging.workspace import DISTRIBUTIONS, ROOT, package

# Runs in a fresh interpreter that finds the three packages in sys.argv[1] and the libraries where
# the tests find them. A script is read when its module is imported.
IMPORT_EVERYTHING = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
for name in sys.argv[2:]:
    package = importlib.import_module(name)
    assert package.__file__.startswith(sys.argv[1]), package.__file__
    for module in pkgutil.walk_packages(package.__path__, f"{name}."):
        importlib.import_module(module.name)
"""


@pytest.fixture(scope="module")
def site(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the three wheels are installed, without what they require."""
    folder = tmp_path_factory.mktemp("site")
    wanted: list[str | Path] = ["--no-deps", "--no-compile", "--target", folder, *wheels.values()]
    done = pip("install", "--no-index", *wanted)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_module_finds_its_scripts_in_an_installed_wheel(site: Path) -> None:
    names = [package(name).name for name in DISTRIBUTIONS]
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_EVERYTHING, site, *names],
        cwd=site,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_a_wheel_carries_every_data_file_and_its_licence(site: Path, folder: str) -> None:
    source = package(folder)
    data = [path for path in source.rglob("*") if path.is_file() and is_data(path)]
    assert source / "py.typed" in data
    for path in data:
        assert (site / path.relative_to(ROOT / folder)).read_bytes() == path.read_bytes()
    assert list(site.glob(f"{source.name}-*.dist-info/licenses/LICENSE"))


def is_data(path: Path) -> bool:
    return path.suffix != ".py" and "__pycache__" not in path.parts
